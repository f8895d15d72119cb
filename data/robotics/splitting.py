"""Which episodes train, validate and test: by the origin's own lists, or by seeded fractions of whole episodes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from polydit.data.splitting import SPLITS

from .demonstrations import DemonstrationSet

STORED_NAMES = {"train": ("train",), "val": ("valid", "val", "validation"), "test": ("test",)}
"""Split -> names under which the origins list it: robomimic says valid, LeRobot val."""

DEFAULT_FRACTIONS = (0.9, 0.1, 0.0)
"""Where the origin lists no split; none for test, since a policy is tested in the simulator."""


def divide_episodes(
    opened: DemonstrationSet, splits: str | Sequence[float], seed: int, limit: int | None = None
) -> dict[str, NDArray[np.int64]]:
    """Places of the episodes in each split, ascending. An episode is never divided: its steps are too much alike.

    Args:
        opened: whose episodes to divide.
        splits: "stored" takes the origin's lists if it has one for training and one for validation, and
            `DEFAULT_FRACTIONS` if not; three fractions divide everything anew.
        seed: of the division and of the subsample.
        limit: at most this many episodes in each split, drawn at random.
    """
    parts = _find_stored(opened) if isinstance(splits, str) else None
    if parts is None:
        parts = _divide(len(opened), DEFAULT_FRACTIONS if isinstance(splits, str) else splits, seed)
    if limit is not None:
        generator = np.random.default_rng(seed)
        parts = {name: generator.permutation(places)[:limit] for name, places in parts.items()}
    return {name: np.sort(parts[name]) for name in SPLITS}


def _find_stored(opened: DemonstrationSet) -> dict[str, NDArray[np.int64]] | None:
    none = np.zeros(0, dtype=np.int64)
    found = {
        name: next((opened.splits[alias] for alias in aliases if alias in opened.splits), none)
        for name, aliases in STORED_NAMES.items()
    }
    return found if len(found["train"]) and len(found["val"]) else None


def _divide(size: int, fractions: Sequence[float], seed: int) -> dict[str, NDArray[np.int64]]:
    order = np.random.default_rng(seed).permutation(size)
    train = round(size * fractions[0])
    val = round(size * (fractions[0] + fractions[1]))
    return {"train": order[:train], "val": order[train:val], "test": order[val:]}
