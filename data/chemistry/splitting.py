"""Which structures train, validate and test: by the index stored with the data, or by seeded fractions.

Shape legend: n structures of a store.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from polydit.platform.errors import ConfigurationError

from .store import SPLITS, StructureStore

DEFAULT_FRACTIONS = (0.8, 0.1, 0.1)
"""For structures to which their source gives no split."""


def assign_splits(
    store: StructureStore,
    splits: str | Sequence[float],
    seed: int,
    max_atoms: int | None = None,
    limit: int | None = None,
) -> dict[str, NDArray[np.int64]]:
    """Places of a store's structures in each split, ascending.

    Args:
        store: whose structures to divide.
        splits: "stored" takes the stored index, and `DEFAULT_FRACTIONS` where it assigns none; three fractions divide
            everything anew.
        seed: of the division and of the subsample.
        max_atoms: larger structures are left out.
        limit: at most this many structures in each split, drawn at random.
    """
    fractions = DEFAULT_FRACTIONS if isinstance(splits, str) else splits
    codes = _divide(len(store), fractions, seed)
    if isinstance(splits, str):
        codes = np.where(store.split >= 0, store.split, codes)
    if max_atoms is not None:
        codes = np.where(store.num_atoms <= max_atoms, codes, -1)
    return {name: choose(np.flatnonzero(codes == code), limit, seed) for name, code in SPLITS.items()}


def choose(places: NDArray[np.int64], limit: int | None, seed: int) -> NDArray[np.int64]:
    """At most `limit` of `places`, drawn without replacement by `seed`, in their old order."""
    if limit is None or len(places) <= limit:
        return places
    return np.sort(np.random.default_rng(seed).permutation(places)[:limit])


def check_splits(splits: str | Sequence[float]) -> None:
    """Refuse anything but "stored" and three fractions that sum to 1.

    Raises:
        ConfigurationError: naming what was given.
    """
    if isinstance(splits, str):
        if splits != "stored":
            raise ConfigurationError(f"splits is 'stored' or three fractions such as [0.8, 0.1, 0.1], not {splits!r}")
        return
    if len(splits) != 3 or min(splits) < 0 or abs(sum(splits) - 1.0) > 1e-6:
        raise ConfigurationError(
            f"splits {list(splits)} must be three fractions for train, val and test, none negative, that sum to 1; "
            f"these sum to {sum(splits):g}"
        )


def _divide(size: int, fractions: Sequence[float], seed: int) -> NDArray[np.int64]:
    """[n] split codes of a random division; the same `size`, fractions and seed give the same one."""
    order = np.random.default_rng(seed).permutation(size)
    train = round(size * fractions[0])
    val = round(size * (fractions[0] + fractions[1]))
    codes = np.full(size, SPLITS["test"])
    codes[order[:train]] = SPLITS["train"]
    codes[order[train:val]] = SPLITS["val"]
    return codes
