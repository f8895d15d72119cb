"""Which clips train, validate and test: whole groups, drawn by seed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from polydit.data.splitting import SPLITS
from polydit.platform.errors import ConfigurationError

from .clips import ClipSet


def check_splits(splits: Sequence[float]) -> None:
    """Raise `ConfigurationError` unless these are three fractions of at most 1 in all."""
    if len(splits) != 3 or min(splits) < 0 or not 0 < sum(splits) <= 1 + 1e-9:
        raise ConfigurationError(f"splits {list(splits)} must be fractions for train, val, test, at most 1 in all")


def divide_clips(clips: ClipSet, splits: Sequence[float], seed: int) -> dict[str, NDArray[np.int64]]:
    """Split -> places of its clips; each group stands in one split."""
    groups = [clips.group(index) for index in range(len(clips))]
    names = sorted(set(groups))
    order = np.random.default_rng(seed).permutation(len(names))
    bounds = np.round(np.cumsum(splits) * len(names)).astype(int)
    split_of = {}
    for place, number in enumerate(order.tolist()):
        split = int(np.searchsorted(bounds, place, side="right"))
        split_of[names[number]] = SPLITS[split] if split < 3 else ""
    return {
        split: np.array([i for i, group in enumerate(groups) if split_of[group] == split], np.int64) for split in SPLITS
    }
