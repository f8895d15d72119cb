"""Which slides train, validate and test: by a table's own column, or by seeded fractions of whole slides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from polydit.platform.errors import ConfigurationError, DataError

from .tiles import TileSet

SPLITS = ("train", "val", "test")

Splits = Literal["stored"] | list[float]


def check_splits(splits: Splits) -> None:
    """Refuse anything but "stored" and three fractions that sum to 1.

    Raises:
        ConfigurationError: naming what was given.
    """
    if isinstance(splits, str):
        if splits != "stored":
            raise ConfigurationError(f"splits is 'stored' or three fractions such as [0.7, 0.15, 0.15], not {splits!r}")
    elif len(splits) != 3 or min(splits) < 0 or abs(sum(splits) - 1.0) > 1e-6:
        raise ConfigurationError(
            f"splits {list(splits)} must be three fractions of the slides for train, val and test, none negative, that "
            f"sum to 1; these sum to {sum(splits):g}"
        )


def divide_tiles(tiles: TileSet, splits: Splits, seed: int) -> dict[str, NDArray[np.int64]]:
    """Places of the tiles in each split, ascending. A slide is never divided: its tiles are too much alike.

    Every split with a fraction above 0 gets a slide at least, where there are as many slides.

    Args:
        tiles: to divide.
        splits: "stored" takes the origin's own lists; three fractions divide the slides by seed.
        seed: of the division.

    Raises:
        DataError: if stored splits are asked for and a tile has none, or a slide stands in two of them.
    """
    slides = [tiles.slide(index) for index in range(len(tiles))]
    found = _find_stored(tiles, slides) if isinstance(splits, str) else _divide(sorted(set(slides)), splits, seed)
    return {
        name: np.array([i for i, slide in enumerate(slides) if found[slide] == name], dtype=np.int64) for name in SPLITS
    }


def _find_stored(tiles: TileSet, slides: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for index, slide in enumerate(slides):
        split = tiles.split(index)
        if split not in SPLITS:
            raise DataError(
                f"a tile of slide {slide!r} has split {split!r}: give each one of {', '.join(SPLITS)} in the table's "
                "column `split`, or splits as fractions"
            )
        if found.setdefault(slide, split) != split:
            raise DataError(
                f"slide {slide!r} stands in the splits {found[slide]} and {split}: tiles of one slide resemble each "
                "other, so the test would be too easy; give every slide one split"
            )
    return found


def _divide(slides: Sequence[str], fractions: Sequence[float], seed: int) -> dict[str, str]:
    order = np.random.default_rng(seed).permutation(len(slides))
    wanted = [name for name, share in zip(SPLITS, fractions, strict=True) if share > 0]
    counts = dict.fromkeys(SPLITS, 0)
    if len(slides) >= len(wanted):
        counts |= dict.fromkeys(wanted, 1)
    while sum(counts.values()) < len(slides):  # the split that is furthest behind its share takes the next slide
        behind = {name: share * len(slides) - counts[name] for name, share in zip(SPLITS, fractions, strict=True)}
        counts[max(wanted, key=behind.__getitem__)] += 1
    names = [name for name in SPLITS for _ in range(counts[name])]
    return {slides[int(place)]: name for place, name in zip(order, names, strict=True)}
