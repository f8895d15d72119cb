"""Which images train, validate and test: as their origin says, or by seeded fractions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from polydit.data.splitting import SPLITS, Splits
from polydit.platform.errors import DataError

from .pictures import ImageSet


def divide_images(images: ImageSet, splits: Splits, seed: int) -> dict[str, NDArray[np.int64]]:
    """Places of the images in each split, ascending.

    Args:
        images: to divide.
        splits: "stored" takes the origin's own lists; three fractions divide every class alike, by seed.
        seed: of the division.

    Raises:
        DataError: if stored splits are asked for and an image has none.
    """
    if isinstance(splits, str):
        listed = [images.split(index) for index in range(len(images))]
        strange = next((i for i, split in enumerate(listed) if split not in SPLITS), None)
        if strange is not None:
            raise DataError(
                f"{images.name(strange)} is listed in the split {listed[strange]!r}: give its source `split: train`, "
                f"one of {', '.join(SPLITS)}, or data.splits as fractions"
            )
        return {name: np.flatnonzero(np.array(listed) == name).astype(np.int64) for name in SPLITS}
    return divide_evenly(np.array([images.label(i) for i in range(len(images))]), splits, seed)


def divide_evenly(
    labels: NDArray[np.int64], fractions: Sequence[float], seed: int
) -> dict[str, NDArray[np.int64]]:
    """Places in each split, so that every class is divided by these fractions, to within an image."""
    generator = np.random.default_rng(seed)
    ends = np.cumsum(fractions)
    where = np.zeros(len(labels), np.int64)
    for label in np.unique(labels):
        places = np.flatnonzero(labels == label)
        # shifted by chance, so that the last image of every class does not always land in the same split
        levels = (np.arange(len(places)) + generator.random()) / max(1, len(places))
        where[generator.permutation(places)] = np.searchsorted(ends[:2], levels, side="right")
    return {name: np.flatnonzero(where == number).astype(np.int64) for number, name in enumerate(SPLITS)}
