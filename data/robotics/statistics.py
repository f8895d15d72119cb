"""Statistics of fields and actions, streamed episode by episode.

Shape legend: n values that went in, S shape of a value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from polydit.platform.normalisers import FieldStatistics

from .demonstrations import DemonstrationSet, check_finite

ACTIONS = "actions"
"""Name of the actions among the fields of statistics."""

QUANTILE_ROWS = 100_000
"""Steps, drawn by seed, that quantiles are computed of; up to this many, all are taken and the quantiles are exact."""


class RunningStatistics:
    """Mean, deviation and range of a stream of values, in float64 (Chan, Golub and LeVeque, 1979)."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: NDArray[np.float64] = np.zeros(())
        self.squares: NDArray[np.float64] = np.zeros(())
        self.minimum: NDArray[np.float64] = np.full((), np.inf)
        self.maximum: NDArray[np.float64] = np.full((), -np.inf)

    def update(self, values: NDArray[Any]) -> None:
        """Take in `values` [n, *S]."""
        wide = values.astype(np.float64)
        count, mean = len(wide), wide.mean(axis=0)
        total, delta = self.count + count, mean - self.mean
        self.squares = self.squares + ((wide - mean) ** 2).sum(axis=0) + delta**2 * (self.count * count / total)
        self.mean = self.mean + delta * (count / total)
        self.minimum = np.minimum(self.minimum, wide.min(axis=0))
        self.maximum = np.maximum(self.maximum, wide.max(axis=0))
        self.count = total


def measure_fields(
    sets: Sequence[DemonstrationSet], episodes: Sequence[NDArray[np.int64]], fields: Sequence[str], seed: int = 0
) -> dict[str, FieldStatistics]:
    """Statistics of chosen fields, and of the actions under ``"actions"``.

    Args:
        sets: opened demonstrations.
        episodes: for each set, the places of the episodes that go in.
        fields: vector fields of the observations.
        seed: of the steps that quantiles are computed of.

    Raises:
        DataError: if a value is not finite, naming the episode, the step and the field.
    """
    running = {name: RunningStatistics() for name in (*fields, ACTIONS)}
    kept: dict[str, list[NDArray[np.float32]]] = {name: [] for name in running}
    total = sum(int(opened.lengths[chosen].sum()) for opened, chosen in zip(sets, episodes, strict=True))
    sampled = np.random.default_rng(seed).permutation(total)[:QUANTILE_ROWS]
    chosen_rows = np.zeros(total, dtype=bool)
    chosen_rows[sampled] = True
    start = 0
    for opened, chosen in zip(sets, episodes, strict=True):
        for index in chosen.tolist():
            length = int(opened.lengths[index])
            rows, start = chosen_rows[start : start + length], start + length
            values = opened.read(index, 0, length, fields)
            if opened.has_actions:
                values[ACTIONS] = opened.read_actions(index)
            for name, array in values.items():
                check_finite(array, opened.episode_name(index), name)
                running[name].update(array)
                kept[name].append(array[rows])
    return {name: _finish(running[name], kept[name]) for name in running if running[name].count}


def _finish(running: RunningStatistics, kept: Sequence[NDArray[np.float32]]) -> FieldStatistics:
    low, high = np.quantile(np.concatenate(kept).astype(np.float64), [0.01, 0.99], axis=0)
    std = np.sqrt(running.squares / running.count)
    arrays = (running.mean, std, running.minimum, running.maximum, low, high)
    mean, deviation, minimum, maximum, lower, upper = (torch.from_numpy(np.asarray(array)) for array in arrays)
    return FieldStatistics(mean, deviation, minimum, maximum, lower, upper, running.count)
