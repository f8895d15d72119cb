"""Paired tiles: the item, the batch, and what a source of them offers.

Shape legend: B tiles, h, w height and width in pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polydit.data.tensor_batch import TensorBatch

Picture = NDArray[np.uint8]
"""[h, w, 3] uint8, red, green, blue."""


@dataclass(frozen=True)
class TilePair:
    """The same piece of tissue under two stains.

    Args:
        he: haematoxylin and eosin [h, w, 3].
        ihc: immunohistochemistry of one marker [h, w, 3], pixel by pixel in place.
        name: of the tile.
        slide: of the slide or patient that it was cut from; tiles of one are never divided between splits.
        mask: [h, w] bool, cells that the marker stains, where they are known beside the image; None: not known.
    """

    he: Picture
    ihc: Picture
    name: str
    slide: str
    mask: NDArray[np.bool_] | None = None


class TileSet(ABC):
    """Opened pairs; nothing is decoded before `read`."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of pairs."""

    @abstractmethod
    def slide(self, index: int) -> str:
        """Slide or patient of a pair."""

    @abstractmethod
    def size(self, index: int) -> tuple[int, int]:
        """Height and width of a pair in pixels."""

    @abstractmethod
    def read(self, index: int) -> TilePair:
        """The decoded pair.

        Raises:
            DataError: if it cannot be decoded, naming the file.
        """

    def split(self, index: int) -> str:
        """Split in which the origin lists a pair; "" if it lists none."""
        return ""


class TileSource(ABC):
    """Where pairs come from."""

    @abstractmethod
    def open(self) -> TileSet:
        """The pairs, checked as far as their headers tell.

        Raises:
            DataError: if a pair lacks its partner, or its sizes differ.
        """


@dataclass
class TileBatch(TensorBatch):
    """Tiles of one size.

    Args:
        he: [B, 3, h, w] uint8.
        ihc: [B, 3, h, w] uint8.
        mask: [B, 1, h, w] bool, cells that the marker stains.
        names: of the tiles.
        slides: of the tiles.
        index: [B] long, place of each tile in its split.
    """

    he: Tensor
    ihc: Tensor
    mask: Tensor
    names: list[str]
    slides: list[str]
    index: Tensor

    def __len__(self) -> int:
        return len(self.he)


def to_tensor(picture: Picture) -> Tensor:
    """[3, h, w] uint8 of a picture."""
    return torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))
