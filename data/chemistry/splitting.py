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

WHOLE = (0.0, 1.0)
"""The part that is everything."""


def assign_splits(
    store: StructureStore,
    splits: str | Sequence[float],
    seed: int,
    max_atoms: int | None = None,
    limit: int | None = None,
    labelled: Sequence[str] = (),
    train_part: Sequence[float] = WHOLE,
    part_seed: int = 0,
) -> dict[str, NDArray[np.int64]]:
    """Places of a store's structures in each split, ascending.

    Args:
        store: whose structures to divide.
        splits: "stored" takes the stored index, and `DEFAULT_FRACTIONS` where it assigns none; three fractions divide
            everything anew.
        seed: of the division and of the subsample.
        max_atoms: larger structures are left out.
        limit: at most this many structures in each split, drawn at random.
        labelled: structures without one of these labels are left out.
        train_part: of the training split, the structures whose `shares` lie from the first number up to the second.
        part_seed: of the order that parts are cut from.
    """
    fractions = DEFAULT_FRACTIONS if isinstance(splits, str) else splits
    codes = _divide(len(store), fractions, seed)
    if isinstance(splits, str):
        codes = np.where(store.split >= 0, store.split, codes)
    if max_atoms is not None:
        codes = np.where(store.num_atoms <= max_atoms, codes, -1)
    for name in labelled:
        codes = np.where(np.isnan(store.label(name)), -1, codes)
    share = shares(len(store), part_seed)
    outside = (share < train_part[0]) | (share >= train_part[1])
    codes = np.where(outside & (codes == SPLITS["train"]), -1, codes)
    return {name: choose(np.flatnonzero(codes == code), limit, seed) for name, code in SPLITS.items()}


def choose(places: NDArray[np.int64], limit: int | None, seed: int) -> NDArray[np.int64]:
    """At most `limit` of `places`, drawn without replacement by `seed`, in their old order."""
    if limit is None or len(places) <= limit:
        return places
    return np.sort(np.random.default_rng(seed).permutation(places)[:limit])


def shares(size: int, seed: int) -> NDArray[np.float64]:
    """[n] place of every structure in a random order of the whole store, over n: evenly from 0 to below 1.

    It is of the store alone, not of a split or of what is left out, so that two runs that take parts which do not
    overlap share no structure, whatever their other settings are.
    """
    places = np.empty(size)
    places[np.random.default_rng((seed, 1)).permutation(size)] = np.arange(size)
    return places / max(size, 1)


def check_part(part: Sequence[float]) -> None:
    """Refuse anything but two shares in ascending order.

    Raises:
        ConfigurationError: naming what was given.
    """
    if len(part) != 2 or not 0.0 <= part[0] < part[1] <= 1.0:
        raise ConfigurationError(
            f"train_part {list(part)} must be two ascending shares from 0 to 1: give [0, 0.5] for one half of the "
            "training split, [0.5, 1] for the other"
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
