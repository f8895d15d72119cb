"""Which slides train, validate and test: by a table's own column, or by seeded fractions of whole slides."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from polydit.data.splitting import SPLITS, Splits
from polydit.platform.errors import DataError

from .tiles import TileSet


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
