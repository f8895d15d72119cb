"""Writes demonstrations as LeRobot folders, v2.1 or v3.0, which appear only when they are complete.

`polydit.data.robotics.lerobot_layout` describes the folders. Cameras go into the parquet files as PNG, without loss.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from polydit.platform.errors import DataError, require

from .demonstrations import Demonstration, check_demonstration
from .frames import encode_image
from .statistics import RunningStatistics

CHUNK = 1000
"""Episodes in a folder (v2.1), files in a folder (v3.0)."""

FILE_BYTES = 100_000_000
"""Size, before compression, from which a v3.0 data set begins another data file."""

PATHS = {
    "v2.1": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
    "v3.0": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
}
COUNTERS = {
    "timestamp": "float32", "frame_index": "int64", "episode_index": "int64", "index": "int64", "task_index": "int64",
}  # fmt: skip


def write_lerobot(
    demonstrations: Iterable[Demonstration], folder: str | Path, fps: float, robot_type: str = "",
    version: Literal["v2.1", "v3.0"] = "v2.1",
) -> Path:
    """Write a data set.

    Args:
        demonstrations: taken one by one; all with the same fields. Vectors must be one-dimensional.
        folder: to make; must not exist.
        fps: control frequency in Hz, from which the timestamps follow.
        robot_type: name of the robot, for the record.
        version: of the format.

    Raises:
        DataError: if the folder exists, there is no demonstration, or they contradict each other.
    """
    folder = Path(folder).expanduser()
    if folder.exists():
        raise DataError(f"{folder} exists: delete it or choose another name")
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        writer = _FolderWriter(partial, fps, version)
        for demonstration in demonstrations:
            writer.add(demonstration)
        writer.finish(robot_type)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


class _FolderWriter:
    def __init__(self, root: Path, fps: float, version: str) -> None:
        if version not in PATHS:
            raise DataError(f"version is one of {', '.join(PATHS)}, not {version!r}")
        self.root, self.fps, self.version = root, fps, version
        self.arrow = require("pyarrow", "robotics")
        self.parquet = require("pyarrow.parquet", "robotics")
        self.features: dict[str, dict[str, Any]] = {}
        self.tasks: dict[str, int] = {}
        self.entries: list[dict[str, Any]] = []
        self.statistics: list[dict[str, Any]] = []
        self.total: dict[str, RunningStatistics] = {}
        self.frames = 0
        self.file_index = 0
        self.file_bytes = 0
        self._open: Any = None

    def add(self, demonstration: Demonstration) -> None:
        number, length = len(self.entries), len(demonstration)
        name = f"episode {number}"
        check_demonstration(demonstration, name)
        values = {"action": np.asarray(demonstration.actions, dtype=np.float32)}
        for field, array in demonstration.observations.items():
            camera = array.ndim == 4 and array.dtype == np.uint8
            values[f"observation.images.{field}" if camera else f"observation.{field}"] = np.asarray(array)
        features = {key: _describe(key, array, name) for key, array in values.items()}
        self.features = self.features or features
        if features != self.features:
            raise DataError(f"{name} has other fields than episode 0: {_shapes(features)} but {_shapes(self.features)}")
        task = self.tasks.setdefault(demonstration.instruction, len(self.tasks))
        steps = np.arange(length)
        counters = (steps / self.fps, steps, np.full(length, number), steps + self.frames, np.full(length, task))
        values |= {key: column.astype(COUNTERS[key]) for key, column in zip(COUNTERS, counters, strict=True)}
        self._write(self._to_table(values), number)
        self.entries.append({"episode_index": number, "tasks": [demonstration.instruction], "length": length})
        if self.version == "v3.0":
            self.entries[-1] |= {
                "data/chunk_index": self.file_index // CHUNK, "data/file_index": self.file_index % CHUNK,
                "dataset_from_index": self.frames, "dataset_to_index": self.frames + length,
                "meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0,
            }  # fmt: skip
        self.statistics.append({"episode_index": number, "stats": self._measure(values)})
        self.frames += length

    def finish(self, robot_type: str) -> None:
        if not self.entries:
            raise DataError("no demonstrations were given: a data set needs at least one")
        if self._open is not None:
            self._open.close()
        meta = self.root / "meta"
        meta.mkdir(parents=True, exist_ok=True)
        counters = {key: {"dtype": dtype, "shape": [1], "names": None} for key, dtype in COUNTERS.items()}
        info = {
            "codebase_version": self.version, "robot_type": robot_type, "total_episodes": len(self.entries),
            "total_frames": self.frames, "total_tasks": len(self.tasks), "chunks_size": CHUNK, "fps": self.fps,
            "splits": {"train": f"0:{len(self.entries)}"}, "data_path": PATHS[self.version], "video_path": None,
            "features": self.features | counters,
        }  # fmt: skip
        if self.version == "v2.1":
            info |= {"total_videos": 0, "total_chunks": -(-len(self.entries) // CHUNK)}
            _write_lines(meta / "episodes.jsonl", self.entries)
            _write_lines(meta / "episodes_stats.jsonl", self.statistics)
            _write_lines(meta / "tasks.jsonl", [{"task_index": i, "task": task} for task, i in self.tasks.items()])
        else:
            info |= {"data_files_size_in_mb": FILE_BYTES // 1_000_000, "video_files_size_in_mb": 200}
            (meta / "episodes/chunk-000").mkdir(parents=True)
            self.parquet.write_table(
                self.arrow.Table.from_pylist(self.entries), meta / "episodes/chunk-000/file-000.parquet"
            )
            self.parquet.write_table(self._tasks_table(), meta / "tasks.parquet")
            stats = {key: _finish(running, _is_camera(self.features.get(key))) for key, running in self.total.items()}
            (meta / "stats.json").write_text(json.dumps(stats))
        (meta / "info.json").write_text(json.dumps(info, indent=4))

    def _write(self, table: Any, number: int) -> None:
        if self.version == "v2.1":
            path = self.root / PATHS["v2.1"].format(episode_chunk=number // CHUNK, episode_index=number)
            path.parent.mkdir(parents=True, exist_ok=True)
            self.parquet.write_table(table, path)
            return
        if self._open is not None and self.file_bytes > FILE_BYTES:
            self._open.close()
            self._open, self.file_bytes = None, 0
            self.file_index += 1
        if self._open is None:
            chunk, file = divmod(self.file_index, CHUNK)
            path = self.root / PATHS["v3.0"].format(chunk_index=chunk, file_index=file)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._open = self.parquet.ParquetWriter(path, table.schema)
        self._open.write_table(table)
        self.file_bytes += table.nbytes

    def _to_table(self, values: dict[str, NDArray[Any]]) -> Any:
        arrow = self.arrow
        columns: dict[str, Any] = {}
        described: dict[str, Any] = {}
        for key, array in values.items():
            if array.ndim == 4:
                frames = [{"bytes": encode_image(frame), "path": None} for frame in array]
                columns[key] = arrow.array(frames, arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())]))
                described[key] = {"_type": "Image"}
            elif array.ndim == 2 and array.shape[1] > 1:
                flat = arrow.array(np.ascontiguousarray(array, dtype=np.float32).ravel())
                columns[key] = arrow.FixedSizeListArray.from_arrays(flat, array.shape[1])
                value = {"dtype": "float32", "_type": "Value"}
                described[key] = {"feature": value, "length": array.shape[1], "_type": "Sequence"}
            else:  # a length of one is stored as a plain number
                columns[key] = arrow.array(array.ravel())
                described[key] = {"dtype": str(array.dtype), "_type": "Value"}
        table = arrow.table(columns)
        # What the `datasets` library, which lerobot reads with, takes the types from.
        return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": described}})})

    def _tasks_table(self) -> Any:
        """The text as index, as pandas keeps it, which lerobot reads with."""
        index = "__index_level_0__"
        columns = [("task_index", "task_index", "int64", "int64"), (None, index, "unicode", "object")]
        pandas = {
            "index_columns": [index],
            "column_indexes": [],
            "columns": [
                {"name": name, "field_name": field, "pandas_type": kind, "numpy_type": stored, "metadata": None}
                for name, field, kind, stored in columns
            ],
            "pandas_version": "2.0.0",
        }
        table = self.arrow.table({"task_index": list(self.tasks.values()), index: list(self.tasks)})
        return table.replace_schema_metadata({"pandas": json.dumps(pandas)})

    def _measure(self, values: dict[str, NDArray[Any]]) -> dict[str, Any]:
        measured = {}
        for key, array in values.items():
            camera = array.ndim == 4
            rows = array.reshape(-1, 3) / 255.0 if camera else array.reshape(len(array), -1)
            running = RunningStatistics()
            for each in (running, self.total.setdefault(key, RunningStatistics())):
                each.update(rows)
            measured[key] = _finish(running, camera)
        return measured


def _describe(key: str, array: NDArray[Any], name: str) -> dict[str, Any]:
    if array.ndim == 4 and array.dtype == np.uint8:
        return {"dtype": "image", "shape": list(array.shape[1:]), "names": ["height", "width", "channels"]}
    if array.ndim != 2:
        raise DataError(f"{name}: {key} has shape {list(array.shape[1:])}; a vector has one dimension: flatten it")
    return {"dtype": "float32", "shape": list(array.shape[1:]), "names": None}


def _shapes(features: dict[str, dict[str, Any]]) -> str:
    return ", ".join(f"{key} {feature['shape']}" for key, feature in sorted(features.items()))


def _is_camera(feature: dict[str, Any] | None) -> bool:
    return feature is not None and feature["dtype"] == "image"


def _finish(running: RunningStatistics, camera: bool) -> dict[str, list[Any]]:
    """Statistics as the format keeps them: of a camera [3, 1, 1] on values from 0 to 1."""
    std = np.sqrt(running.squares / running.count)
    arrays = {"min": running.minimum, "max": running.maximum, "mean": running.mean, "std": std}
    shaped = {key: (array[:, None, None] if camera else array).tolist() for key, array in arrays.items()}
    return shaped | {"count": [running.count]}


def _write_lines(path: Path, entries: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
