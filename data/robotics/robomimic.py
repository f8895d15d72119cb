"""Demonstrations in robomimic's HDF5 layout, read lazily; `polydit.data.robotics.robomimic_layout` describes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polydit.platform.errors import DataError

from .demonstrations import Demonstration, DemonstrationSet, DemonstrationSource, FieldSpec
from .robomimic_layout import Episode, Fields, open_hdf5, survey


class RobomimicSource(DemonstrationSource):
    """One HDF5 file in robomimic's layout.

    Args:
        path: the file.
        filter_key: take only the episodes listed in ``mask/<filter_key>``, such as ``"20_percent"``; None: all.
        instruction: for episodes that bring none.
        task: environment spec of the episodes; None: what the file says.
        frequency: control frequency in Hz; None: what the file says.
        hide_actions: take the episodes as plain video: every action is masked.
    """

    def __init__(
        self, path: str, filter_key: str | None = None, instruction: str = "", task: str | None = None,
        frequency: float | None = None, hide_actions: bool = False,
    ) -> None:
        self.path = path
        self.filter_key = filter_key
        self.instruction = instruction
        self.task = task
        self.frequency = frequency
        self.hide_actions = hide_actions

    def open(self) -> RobomimicSet:
        """Open the file; reads names, shapes and attributes of every episode.

        Raises:
            DataError: if it is missing, cut short, no HDF5 file, not in robomimic's layout, or its episodes differ.
        """
        path = Path(self.path).expanduser()
        episodes, fields, metadata, masks = survey(path, self.filter_key)
        for episode in episodes:
            episode.instruction = episode.instruction or self.instruction
            episode.task = episode.task if self.task is None else self.task
            episode.frequency = episode.frequency if self.frequency is None else self.frequency
        opened = RobomimicSet(path, episodes, fields, metadata, masks)
        opened.has_actions = not self.hide_actions
        return opened


class RobomimicSet(DemonstrationSet):
    """The opened file; made by `RobomimicSource.open`."""

    def __init__(
        self, path: Path, episodes: Sequence[Episode], fields: Fields,
        metadata: Mapping[str, Any], splits: Mapping[str, NDArray[np.int64]],
    ) -> None:
        super().__init__(
            str(path), {name: spec for name, spec in fields.items() if isinstance(spec, FieldSpec)},
            episodes[0].action_size, [episode.length for episode in episodes], metadata, splits,
            {name: reason for name, reason in fields.items() if isinstance(reason, str)},
        )
        self.path = path
        self.episodes = list(episodes)
        self._file: Any = None

    def read_steps(self, index: int, steps: NDArray[np.int64], fields: Sequence[str]) -> dict[str, NDArray[Any]]:
        """See `DemonstrationSet.read_steps`; of compressed images, only the frames asked for are decoded."""
        self.require_fields(fields)
        return {name: self._read(index, f"obs/{name}", steps, self.fields[name].dtype) for name in fields}

    def read_actions(self, index: int) -> NDArray[np.float32]:
        """[T, A] actions of an episode."""
        return self._read(index, "actions", np.arange(self.lengths[index]), "float32")

    def episode_name(self, index: int) -> str:
        """File and group of an episode."""
        return f"{self.path}: {self.episodes[index].name}"

    def instruction(self, index: int) -> str:
        """What the robot was told in an episode; "" if nothing."""
        return self.episodes[index].instruction

    def task(self, index: int) -> str:
        """Environment spec of an episode; "" if unknown."""
        return self.episodes[index].task

    def success(self, index: int) -> bool | None:
        """Whether an episode solved its task; None if unknown."""
        return self.episodes[index].success

    def seed(self, index: int) -> int | None:
        """Seed with which the environment of an episode was reset; None if unknown."""
        return self.episodes[index].seed

    def frequency(self, index: int) -> float | None:
        """Control frequency of an episode in Hz; None if unknown."""
        return self.episodes[index].frequency

    def versions(self, index: int) -> Mapping[str, str]:
        """Distribution -> version of what simulated an episode; empty if the file does not say."""
        return dict(self.episodes[index].metadata.get("versions") or {})

    def demonstration(self, index: int, fields: Sequence[str] | None = None) -> Demonstration:
        """A whole episode with rewards, simulator states and metadata where the file has them; None: every field."""
        episode = self.episodes[index]
        whole = super().demonstration(index, fields)
        with open_hdf5(self.path) as file:
            group = file[f"data/{episode.name}"]
            metadata = dict(episode.metadata)
            if "model_file" in group.attrs:
                metadata["model_file"] = str(group.attrs["model_file"])
            rewards, states = (group[key][()] if key in group else None for key in ("rewards", "states"))
        return replace(whole, rewards=rewards, states=states, metadata=whole.metadata | metadata)

    def close(self) -> None:
        """Let go of the file, so that a writer may have it; the next read opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_file": None}

    def _read(self, index: int, key: str, steps: NDArray[np.int64], dtype: str) -> NDArray[Any]:
        if self._file is None:
            self._file = open_hdf5(self.path)
        try:
            dataset = self._file[f"data/{self.episodes[index].name}/{key}"]
            if len(dataset) == 1:  # one value for the whole episode
                steps = np.zeros_like(steps)
            wanted, places = np.unique(steps, return_inverse=True)
            # One read for each run of neighbours: h5py takes milliseconds for a list of places.
            runs = np.split(wanted, np.flatnonzero(np.diff(wanted) > 1) + 1)
            values = np.concatenate([dataset[run[0] : run[-1] + 1] for run in runs])
        except (OSError, KeyError) as error:
            raise DataError(
                f"{self.episode_name(index)}: {key} at steps {steps.min()} to {steps.max()} cannot be read ({error}): "
                "the file is damaged; copy it again from where it came"
            ) from error
        return np.ascontiguousarray(values[places], dtype=dtype)
