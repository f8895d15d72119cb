"""A set of demonstrations held in memory, decoded once, or the part of it that fits.

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
    """Another set, with its actions and some of its fields read whole; the other fields are read there as before.

    Values are torch tensors, which data-loader workers share instead of copying.

    Args:
        source: the set to read.
        fields: to hold in memory.
    """

    def __init__(self, source: DemonstrationSet, fields: Sequence[str]) -> None:
        source.require_fields(fields)
        super().__init__(
            source.name, source.fields, source.action_size, source.lengths, source.metadata, source.splits,
            source.missing,
        )
        self.has_actions = source.has_actions
        self.source = source
        self.starts = np.concatenate([[0], np.cumsum(source.lengths)])[:-1]
        total = int(source.lengths.sum())
        self._actions = torch.empty(total, source.action_size)
        self._values = {
            name: torch.empty(total, *spec.shape, dtype=getattr(torch, spec.dtype))
            for name, spec in source.fields.items()
            if name in fields
        }
        for index, (start, length) in enumerate(zip(self.starts.tolist(), self.lengths.tolist(), strict=True)):
            self._actions[start : start + length] = torch.from_numpy(source.read_actions(index))
            for name, values in source.read(index, 0, length, list(self._values)).items():
                self._values[name][start : start + length] = torch.from_numpy(values)

    def read_steps(self, index: int, steps: NDArray[np.int64], fields: Sequence[str]) -> dict[str, NDArray[Any]]:
        """See `DemonstrationSet.read_steps`."""
        self.require_fields(fields)
        places = torch.from_numpy(self.starts[index] + steps)
        held = {name: self._values[name][places].numpy() for name in fields if name in self._values}
        rest = [name for name in fields if name not in held]
        return held | (self.source.read_steps(index, steps, rest) if rest else {})

    def read_windows(
        self, indices: NDArray[np.int64], steps: NDArray[np.int64], fields: Sequence[str]
    ) -> dict[str, NDArray[Any]]:
        """See `DemonstrationSet.read_windows`; one look-up for all windows where the field is held."""
        self.require_fields(fields)
        places = torch.from_numpy(self.starts[indices, None] + steps)
        held = {name: self._values[name][places].numpy() for name in fields if name in self._values}
        rest = [name for name in fields if name not in held]
        return held | (self.source.read_windows(indices, steps, rest) if rest else {})

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
