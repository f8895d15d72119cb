"""Tiles of a split as batches: crops, flips and turns that stains and mask share.

Shape legend: B tiles, h, w height and width of an image, s side of a tile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from polydit.platform.errors import DataError

from .tiles import Picture, TileBatch, TilePair, TileSet, to_tensor

MaskMaker = Callable[[Picture], NDArray[np.bool_]]
"""Mask [h, w] of the stained cells of an IHC image [h, w, 3]."""

Key = tuple[int | None, int]
"""Epoch, or None where nothing is drawn, and place in the split."""


class KeptTiles(TileSet):
    """Tiles that are decoded once and then kept in memory.

    Args:
        tiles: the tiles.
    """

    def __init__(self, tiles: TileSet) -> None:
        self.tiles = tiles
        self._kept: dict[int, TilePair] = {}

    def __len__(self) -> int:
        return len(self.tiles)

    def slide(self, index: int) -> str:
        """Slide or patient of a pair."""
        return self.tiles.slide(index)

    def split(self, index: int) -> str:
        """Split in which the origin lists a pair."""
        return self.tiles.split(index)

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of a pair."""
        return self.tiles.size(index)

    def read(self, index: int) -> TilePair:
        """The pair."""
        if index not in self._kept:
            self._kept[index] = self.tiles.read(index)
        return self._kept[index]


class TileDataset(Dataset[TileBatch]):
    """Square tiles of larger images; indexed by lists of (epoch, place).

    An image has as many places as it has tiles side by side. With an epoch, the tile is cut anywhere in the image,
    turned and flipped, all drawn from (seed, epoch, place); without, tiles stand side by side as they are.

    Args:
        sets: tiles of each source.
        chosen: places in each of them.
        tile: s.
        make_mask: makes masks of stained cells; None: those that the pairs bring are taken.
        margin: pixels around a tile that its mask may depend on.
        seed: of crops, flips and turns.

    Raises:
        DataError: if an image is smaller than a tile.
    """

    def __init__(
        self,
        sets: Sequence[TileSet],
        chosen: Sequence[NDArray[np.int64]],
        tile: int,
        make_mask: MaskMaker | None,
        margin: int,
        seed: int,
    ) -> None:
        self.sets, self.tile, self.make_mask, self.margin, self.seed = list(sets), tile, make_mask, margin, seed
        self.places: list[tuple[int, int, int, int]] = []
        self._kept_masks: dict[tuple[int, int], NDArray[np.bool_]] = {}
        for number, (tiles, indices) in enumerate(zip(sets, chosen, strict=True)):
            for index in indices.tolist():
                height, width = tiles.size(index)
                if min(height, width) < tile:
                    raise DataError(
                        f"tile {index} of slide {tiles.slide(index)!r} is {height} x {width} and training takes tiles "
                        f"of {tile}: lower data.tile, and the model's, or leave small images out"
                    )
                self.places += [
                    (number, index, row * tile, column * tile)
                    for row in range(height // tile) for column in range(width // tile)
                ]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, keys: Sequence[Key]) -> TileBatch:
        """The batch of these tiles."""
        pairs = [self.cut(epoch, place) for epoch, place in keys]
        masks = np.stack([pair.mask for pair in pairs if pair.mask is not None])
        return TileBatch(
            torch.stack([to_tensor(pair.he) for pair in pairs]), torch.stack([to_tensor(pair.ihc) for pair in pairs]),
            torch.from_numpy(masks)[:, None], [pair.name for pair in pairs], [pair.slide for pair in pairs],
            torch.tensor([place for _, place in keys]),
        )

    def cut(self, epoch: int | None, place: int) -> TilePair:
        """One tile, with its mask."""
        number, index, top, left = self.places[place]
        pair = self.sets[number].read(index)
        height, width = pair.he.shape[:2]
        turn = 0
        if epoch is not None:
            generator = np.random.default_rng((self.seed, epoch, place))
            top, left = (int(generator.integers(size - self.tile + 1)) for size in (height, width))
            turn = int(generator.integers(8))
        name = pair.name if (height, width) == (self.tile, self.tile) else f"{pair.name}_y{top}_x{left}"

        def take(image: NDArray[Any]) -> NDArray[Any]:
            return turn_image(image[top : top + self.tile, left : left + self.tile], turn)

        mask = turn_image(self._mask(number, index, pair, top, left), turn)
        return TilePair(take(pair.he), take(pair.ihc), name, pair.slide, mask)

    def _mask(self, number: int, index: int, pair: TilePair, top: int, left: int) -> NDArray[np.bool_]:
        rows, columns = slice(top, top + self.tile), slice(left, left + self.tile)
        if self.make_mask is None:
            if pair.mask is None:
                raise DataError(f"tile {pair.name} brings no mask: give its source `masks`, or make them: masks: brown")
            return pair.mask[rows, columns]
        if isinstance(self.sets[number], KeptTiles):
            if (number, index) not in self._kept_masks:
                self._kept_masks[number, index] = self.make_mask(pair.ihc)
            return self._kept_masks[number, index][rows, columns]
        # with a margin, so that the mask does not depend on where the tile is cut
        above, before = min(top, self.margin), min(left, self.margin)
        wide = pair.ihc[top - above : top + self.tile + self.margin, left - before : left + self.tile + self.margin]
        return self.make_mask(wide)[above : above + self.tile, before : before + self.tile]


def turn_image(image: NDArray[Any], turn: int) -> NDArray[Any]:
    """An image [h, w, ...] under one of the eight symmetries of the square: quarter turns, from 4 on after a flip."""
    flipped = image[:, ::-1] if turn >= 4 else image
    return np.ascontiguousarray(np.rot90(flipped, turn % 4))
