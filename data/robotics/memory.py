"""A set of demonstrations held in memory, decoded once: what a small set is read from in training.

Shape legend: N steps of all episodes together, B windows, k steps of a window.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .demonstrations import DemonstrationSet


class MemoryDemonstrations(DemonstrationSet):
    """Chosen fields of another set, read whole.

    Values are torch tensors, which data-loader workers share instead of copying.

    Args:
        source: read once; asked later only for instructions, tasks and the like.
        fields: to hold.
    """

    def __init__(self, source: DemonstrationSet, fields: Sequence[str]) -> None:
        source.require_fields(fields)
        unread = {name: "it is not among the fields that were read" for name in source.fields if name not in fields}
        super().__init__(
            source.name, {name: source.fields[name] for name in fields}, source.action_size, source.lengths,
            source.metadata, source.splits, source.missing | unread,
        )
        self.has_actions = source.has_actions
        self.source = source
        self.starts = np.concatenate([[0], np.cumsum(source.lengths)])[:-1]
        total = int(source.lengths.sum())
        self._actions = torch.empty(total, source.action_size)
        self._values = {
            name: torch.empty(total, *spec.shape, dtype=getattr(torch, spec.dtype))
            for name, spec in self.fields.items()
        }
        for index, (start, length) in enumerate(zip(self.starts.tolist(), self.lengths.tolist(), strict=True)):
            self._actions[start : start + length] = torch.from_numpy(source.read_actions(index))
            for name, values in source.read(index, 0, length, list(fields)).items():
                self._values[name][start : start + length] = torch.from_numpy(values)

    def read_steps(self, index: int, steps: NDArray[np.int64], fields: Sequence[str]) -> dict[str, NDArray[Any]]:
        """See `DemonstrationSet.read_steps`."""
        self.require_fields(fields)
        places = torch.from_numpy(self.starts[index] + steps)
        return {name: self._values[name][places].numpy() for name in fields}

    def read_windows(
        self, indices: NDArray[np.int64], steps: NDArray[np.int64], fields: Sequence[str]
    ) -> dict[str, NDArray[Any]]:
        """See `DemonstrationSet.read_windows`; one look-up for all windows."""
        self.require_fields(fields)
        places = torch.from_numpy(self.starts[indices, None] + steps)
        return {name: self._values[name][places].numpy() for name in fields}

    def read_actions(self, index: int) -> NDArray[np.float32]:
        """[T, A] actions of an episode."""
        start = int(self.starts[index])
        return self._actions[start : start + int(self.lengths[index])].numpy()

    def episode_name(self, index: int) -> str:
        """Name of an episode in its origin."""
        return self.source.episode_name(index)

    def instruction(self, index: int) -> str:
        """What the robot was told in an episode; "" if nothing."""
        return self.source.instruction(index)

    def task(self, index: int) -> str:
        """Environment spec of an episode; "" if unknown."""
        return self.source.task(index)

    def success(self, index: int) -> bool | None:
        """Whether an episode solved its task; None if unknown."""
        return self.source.success(index)

    def seed(self, index: int) -> int | None:
        """Seed with which the environment of an episode was reset; None if unknown."""
        return self.source.seed(index)

    def frequency(self, index: int) -> float | None:
        """Control frequency of an episode in Hz; None if unknown."""
        return self.source.frequency(index)


def size_in_memory(source: DemonstrationSet, fields: Sequence[str]) -> int:
    """Bytes that `MemoryDemonstrations` would take, decoded."""
    per_step = 4 * source.action_size + sum(source.fields[name].nbytes for name in fields)
    return int(source.lengths.sum()) * per_step
