"""Demonstrations in LeRobot folders, v2.1 and v3.0, read lazily; `polydit.data.robotics.lerobot_layout` describes them.

Features lose their prefix: ``observation.state`` is the field ``"state"``, ``observation.images.top`` the camera
``"top"``.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polydit.platform.errors import DataError

from .demonstrations import DemonstrationSet, DemonstrationSource, FieldSpec
from .frames import decode_image, decode_video
from .lerobot_layout import Episode, read_episodes, read_info, read_parquet, read_splits

CACHE_BYTES = 512_000_000
"""Columns of parquet files that are kept, so that neighbouring windows do not read them again."""


class LeRobotSource(DemonstrationSource):
    """One LeRobot data set in a folder.

    Args:
        path: the folder with ``meta`` and ``data``.
        image_size: [h, w] that frames are scaled to while they are decoded; None: as they are.
        instruction: for episodes that bring none.
        task: environment spec of the episodes; the format has no place for one.
        hide_actions: take the episodes as plain video: every action is masked.
    """

    def __init__(
        self, path: str, image_size: list[int] | None = None, instruction: str = "", task: str = "",
        hide_actions: bool = False,
    ) -> None:
        self.path = path
        self.image_size = None if image_size is None else (image_size[0], image_size[1])
        self.instruction = instruction
        self.task = task
        self.hide_actions = hide_actions

    def open(self) -> LeRobotSet:
        """Open the folder; reads its metadata.

        A camera whose video files are missing is left out with a warning; asking for it is an error.

        Raises:
            DataError: if it is no LeRobot data set, holds no episode, or lacks a file or a column.
        """
        root = Path(self.path).expanduser()
        info = read_info(root)
        episodes = read_episodes(root, info)
        features, missing = _describe_features(info, self.image_size)
        for key in [key for key, (_, spec) in features.items() if info["features"][spec]["dtype"] == "video"]:
            absent = [path for path, _ in (e.videos[features[key][1]] for e in episodes) if not path.is_file()]
            if absent:
                missing[key] = f"{len(absent)} of {len(episodes)} videos are missing, such as {absent[0]}"
                warnings.warn(f"{root}: camera {key!r} is left out: {missing[key]}", stacklevel=2)
        present = {name: feature for name, feature in features.items() if name not in missing}
        opened = LeRobotSet(root, info, episodes, present, missing, self.instruction, self.task)
        opened.has_actions = not self.hide_actions
        return opened


class LeRobotSet(DemonstrationSet):
    """The opened folder; made by `LeRobotSource.open`.

    Args:
        root: the folder.
        info: content of its ``meta/info.json``.
        episodes: where each lies.
        features: field -> what it is made of, and its name in the files.
        missing: field that cannot be read -> why.
        told: instruction of episodes that bring none.
        environment: spec of all episodes.
    """

    def __init__(
        self, root: Path, info: Mapping[str, Any], episodes: Sequence[Episode],
        features: Mapping[str, tuple[FieldSpec, str]], missing: Mapping[str, str], told: str, environment: str,
    ) -> None:
        shape = tuple(info["features"]["action"]["shape"])
        super().__init__(
            str(root), {name: spec for name, (spec, _) in features.items()}, int(np.prod(shape)),
            [episode.length for episode in episodes], {key: info[key] for key in info if key != "features"},
            read_splits(dict(info), len(episodes)), missing,
        )
        self.episodes = list(episodes)
        self.features = {name: feature for name, (_, feature) in features.items()}
        self.kinds = {name: info["features"][feature]["dtype"] for name, feature in self.features.items()}
        self.fps = float(info["fps"])
        self.told = told
        self.environment = environment
        self._columns: OrderedDict[tuple[Path, str], Any] = OrderedDict()
        stored = [feature for name, feature in self.features.items() if self.kinds[name] != "video"]
        read_parquet(self.episodes[0].file, ["action", *stored])  # lacks one? say so now
        expected = int(info.get("total_frames", self.lengths.sum()))
        if expected != int(self.lengths.sum()):
            raise DataError(
                f"{root}: info.json counts {expected} frames, its episodes hold {self.lengths.sum()}: copy it again"
            )

    def read_steps(self, index: int, steps: NDArray[np.int64], fields: Sequence[str]) -> dict[str, NDArray[Any]]:
        """See `DemonstrationSet.read_steps`; of images and videos, only the frames asked for are decoded."""
        self.require_fields(fields)
        readers = {"video": self._read_video, "image": self._read_images}
        return {name: readers.get(self.kinds[name], self._read_vector)(index, steps, name) for name in fields}

    def read_actions(self, index: int) -> NDArray[np.float32]:
        """[T, A] actions of an episode."""
        return self._rows(index, "action", np.arange(self.lengths[index])).reshape(-1, self.action_size)

    def episode_name(self, index: int) -> str:
        """File and number of an episode."""
        return f"{self.episodes[index].file}: episode {self.episodes[index].number}"

    def instruction(self, index: int) -> str:
        """What the robot was told in an episode; "" if nothing."""
        return self.episodes[index].instruction or self.told

    def task(self, index: int) -> str:
        """Environment spec of an episode; "" if unknown."""
        return self.environment

    def frequency(self, index: int) -> float | None:
        """Control frequency in Hz: the frames per second of the data set."""
        return self.fps

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_columns": OrderedDict()}

    def _read_vector(self, index: int, steps: NDArray[np.int64], name: str) -> NDArray[np.float32]:
        return self._rows(index, self.features[name], steps).reshape(len(steps), *self.fields[name].shape)

    def _read_images(self, index: int, steps: NDArray[np.int64], name: str) -> NDArray[np.uint8]:
        height, width, _ = self.fields[name].shape
        column = self._column(self.episodes[index], self.features[name])
        images = []
        for step in steps.tolist():
            entry = column[self.episodes[index].row + step].as_py()
            content = entry["bytes"] or (Path(self.name) / entry["path"]).read_bytes()
            images.append(decode_image(content, (height, width), f"{self.episode_name(index)}, {name} at step {step}"))
        return np.stack(images)

    def _read_video(self, index: int, steps: NDArray[np.int64], name: str) -> NDArray[np.uint8]:
        wanted, places = np.unique(steps, return_inverse=True)
        path, start = self.episodes[index].videos[self.features[name]]
        height, width, _ = self.fields[name].shape
        times = self._rows(index, "timestamp", wanted).ravel().tolist()
        return decode_video(path, times, 0.5 / self.fps, (height, width), start)[places]

    def _rows(self, index: int, column: str, steps: NDArray[np.int64]) -> NDArray[np.float32]:
        episode = self.episodes[index]
        values: NDArray[np.float32] = self._column(episode, column)
        if episode.row + episode.length > len(values):
            raise DataError(
                f"{episode.file} holds {len(values)} rows; episode {episode.number} needs rows {episode.row} to "
                f"{episode.row + episode.length}: the file is cut short; copy it again"
            )
        return values[episode.row + steps]

    def _column(self, episode: Episode, name: str) -> Any:
        """A whole column of the file of `episode`: vectors as an array [rows, ...], images as they are stored."""
        key = (episode.file, name)
        if key not in self._columns:
            column = read_parquet(episode.file, [name]).column(name).combine_chunks()
            stored_images = str(column.type).startswith("struct")
            self._columns[key] = column if stored_images else _to_array(column, episode.file, name)
            while len(self._columns) > 1 and sum(kept.nbytes for kept in self._columns.values()) > CACHE_BYTES:
                self._columns.popitem(last=False)
        self._columns.move_to_end(key)
        return self._columns[key]


def _to_array(column: Any, path: Path, name: str) -> NDArray[np.float32]:
    rows = len(column)
    while hasattr(column, "flatten") and "list" in str(column.type):
        column = column.flatten()
    values = column.to_numpy(zero_copy_only=False).astype(np.float32)
    if rows and len(values) % rows:
        raise DataError(f"{path}: the values of {name!r} have unequal lengths: record the data set again")
    return values.reshape(rows, -1)


def _describe_features(
    info: Mapping[str, Any], image_size: tuple[int, int] | None
) -> tuple[dict[str, tuple[FieldSpec, str]], dict[str, str]]:
    """Field -> what it is made of and its feature; and field -> why it cannot be read."""
    features: dict[str, tuple[FieldSpec, str]] = {}
    missing: dict[str, str] = {}
    for key, feature in info["features"].items():
        if not key.startswith("observation."):
            continue
        name = key.removeprefix("observation.").removeprefix("images.")
        shape, dtype = tuple(feature["shape"]), feature["dtype"]
        if dtype in ("image", "video"):
            if shape[0] == 3 and shape[-1] != 3:  # stored as images all the same
                shape = (*shape[1:], 3)
            if shape[-1] == 3:
                features[name] = (FieldSpec((*(image_size or shape[:2]), 3), "uint8"), key)
            else:
                missing[name] = f"it has {shape[-1]} channels, not the 3 of an RGB image"
        elif dtype in ("string", "audio"):
            missing[name] = f"it holds {dtype}, not numbers"
        else:
            features[name] = (FieldSpec(shape, "float32"), key)
    return features, missing
