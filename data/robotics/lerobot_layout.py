"""The folders of LeRobot data sets, v2.1 and v3.0: which file holds what of which episode.

    meta/info.json                 version, fps, features with shape and dtype, patterns of the paths below
    v2.1  meta/episodes.jsonl      episode_index, tasks, length;  meta/tasks.jsonl  task_index, task
          data/chunk-000/episode_000000.parquet            one file an episode
          videos/chunk-000/<feature>/episode_000000.mp4
    v3.0  meta/episodes/chunk-000/file-000.parquet         the same, and where data and videos of an episode lie
          meta/tasks.parquet                               the text as index, task_index as column
          data/chunk-000/file-000.parquet                  many episodes, one after another
          videos/<feature>/chunk-000/file-000.mp4

Source: the format's documentation at huggingface.co/docs/lerobot.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polydit.platform.errors import DataError, require

VERSIONS = ("v2.0", "v2.1", "v3.0")


@dataclass(frozen=True)
class Episode:
    """Where one episode lies.

    Args:
        number: its episode_index.
        length: steps T.
        instruction: its first task; "" if none.
        file: parquet file with its values.
        row: its first row in that file.
        videos: feature -> video file and the second at which the episode begins in it.
    """

    number: int
    length: int
    instruction: str
    file: Path
    row: int
    videos: dict[str, tuple[Path, float]] = field(default_factory=dict)


def read_info(root: Path) -> dict[str, Any]:
    """Content of ``meta/info.json``.

    Raises:
        DataError: if the folder or the file is missing, empty, damaged, or of a version that we do not read.
    """
    if not root.is_dir():
        raise DataError(f"there is no folder {root}; give the one that holds meta/ and data/")
    file = root / "meta" / "info.json"
    if not file.is_file():
        there = ", ".join(sorted(entry.name for entry in root.iterdir())[:5]) or "nothing"
        raise DataError(f"{root} is not a LeRobot data set: it holds {there}, and no meta/info.json")
    try:
        info: dict[str, Any] = json.loads(file.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{file} is damaged ({error}): copy it again from where it came") from error
    version = info.get("codebase_version")
    if version not in VERSIONS:
        raise DataError(f"{root} is of version {version!r}; readable are {', '.join(VERSIONS)}: convert it")
    absent = [key for key in ("features", "fps", "data_path") if key not in info]
    if absent:
        raise DataError(f"{file} lacks {', '.join(absent)}: copy it again from where it came")
    if "action" not in info["features"]:
        raise DataError(f"{root} has no feature 'action', only {', '.join(info['features'])}: it cannot train a policy")
    return info


def read_episodes(root: Path, info: dict[str, Any]) -> list[Episode]:
    """Every episode in the order of its number.

    Raises:
        DataError: if there is none, or a file is missing or damaged.
    """
    if info["codebase_version"] == "v3.0":
        episodes = _read_v3(root, info)
    else:
        episodes = _read_v2(root, info)
    if not episodes:
        raise DataError(f"{root} holds no episodes: its meta/info.json counts {info.get('total_episodes')}")
    for file in dict.fromkeys(episode.file for episode in episodes):
        if not file.is_file():
            raise DataError(f"{file} is missing: copy it from where the data set came")
    return sorted(episodes, key=lambda episode: episode.number)


def read_splits(info: dict[str, Any], count: int) -> dict[str, NDArray[np.int64]]:
    """Split -> places of its episodes, of entries such as ``"train": "0:100"``; others are left out."""
    splits = {}
    for name, text in (info.get("splits") or {}).items():
        first, _, last = str(text).partition(":")
        if first.isdigit() and last.isdigit():
            splits[name] = np.arange(int(first), min(int(last), count))
    return splits


def video_features(info: dict[str, Any]) -> list[str]:
    """Names of the features that are kept as video."""
    return [key for key, feature in info["features"].items() if feature["dtype"] == "video"]


def read_parquet(path: Path, columns: list[str] | None = None) -> Any:
    """Columns of a parquet file as a `pyarrow.Table`; None: all of them.

    Raises:
        DataError: if it is missing, cut short, or lacks a column.
    """
    require("pyarrow", "robotics")
    parquet = require("pyarrow.parquet", "robotics")
    arrow = require("pyarrow", "robotics")
    if not path.is_file():
        raise DataError(f"{path} is missing: copy it from where the data set came")
    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            absent = [name for name in columns or [] if name not in names]
            if absent:
                raise DataError(f"{path} lacks the columns {', '.join(absent)}: it has {', '.join(names)}")
            return file.read(columns)
    except (arrow.ArrowException, OSError) as error:
        raise DataError(
            f"{path} ({path.stat().st_size:,} bytes) is cut short or no parquet file ({error}): copy it again"
        ) from error


def _read_v2(root: Path, info: dict[str, Any]) -> list[Episode]:
    episodes = []
    for entry in _read_lines(root / "meta" / "episodes.jsonl"):
        number = int(entry["episode_index"])
        names = {"episode_chunk": number // int(info.get("chunks_size", 1000)), "episode_index": number}
        videos = {
            key: (root / info["video_path"].format(video_key=key, **names), 0.0) for key in video_features(info)
        }
        tasks = entry.get("tasks") or [""]
        file = root / info["data_path"].format(**names)
        episodes.append(Episode(number, int(entry["length"]), str(tasks[0]), file, 0, videos))
    return episodes


def _read_v3(root: Path, info: dict[str, Any]) -> list[Episode]:
    keys = video_features(info)
    places = [f"videos/{key}/{part}" for key in keys for part in ("chunk_index", "file_index", "from_timestamp")]
    columns = ["episode_index", "length", "tasks", "data/chunk_index", "data/file_index", "dataset_from_index", *places]
    files = sorted((root / "meta" / "episodes").glob("*/*.parquet"))
    if not files:
        raise DataError(f"{root} lacks meta/episodes/chunk-000/file-000.parquet: copy it from where the data set came")
    entries = [entry for file in files for entry in read_parquet(file, columns).to_pylist()]
    first: dict[tuple[int, int], int] = {}
    for entry in entries:
        where = (entry["data/chunk_index"], entry["data/file_index"])
        first[where] = min(entry["dataset_from_index"], first.get(where, entry["dataset_from_index"]))
    episodes = []
    for entry in entries:
        where = (entry["data/chunk_index"], entry["data/file_index"])
        videos = {}
        for key in keys:
            names = {part: entry[f"videos/{key}/{part}"] for part in ("chunk_index", "file_index")}
            file = root / info["video_path"].format(video_key=key, **names)
            videos[key] = (file, float(entry[f"videos/{key}/from_timestamp"]))
        path = root / info["data_path"].format(chunk_index=where[0], file_index=where[1])
        row = entry["dataset_from_index"] - first[where]
        task = (entry["tasks"] or [""])[0]
        episodes.append(Episode(entry["episode_index"], entry["length"], task, path, row, videos))
    return episodes


def _read_lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise DataError(f"{path} is missing: copy it from where the data set came")
    entries = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if line.strip():
            try:
                entries.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise DataError(f"{path}, line {number} is not JSON ({error}): copy the file again") from error
    return entries
