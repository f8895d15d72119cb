"""Images and their classes: what a source offers, and the batch.

Shape legend: B images, h, w height and width in pixels, C channels, 1 grey or 3 red, green, blue.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polydit.data.tensor_batch import TensorBatch

Pixels = NDArray[np.uint8]
"""[h, w, C] uint8."""

UNKNOWN = -1
"""Stands for the class of an image that has none."""


@dataclass(frozen=True)
class Picture:
    """An image, real or generated.

    Args:
        pixels: [h, w, C] uint8.
        label: number of its class from 0; -1: unknown.
        class_name: name of its class; empty: unknown.
        name: of the image; empty: it has none.
    """

    pixels: Pixels
    label: int = UNKNOWN
    class_name: str = ""
    name: str = ""


class ImageSet(ABC):
    """Opened images; nothing is decoded before it is read.

    Attributes:
        classes: names of the classes in the order of their numbers; empty where images have none.
    """

    classes: tuple[str, ...] = ()

    @abstractmethod
    def __len__(self) -> int:
        """Number of images."""

    @abstractmethod
    def read(self, index: int) -> bytes | NDArray[np.generic]:
        """An encoded file, to be decoded as the data module says, or values [h, w] or [h, w, C] uint8 as they are.

        Raises:
            DataError: if it cannot be read, naming the file.
        """

    def header(self, index: int) -> bytes | NDArray[np.generic] | Path:
        """What an image's size can be learnt from: all of it, or the path of its file.

        Raises:
            DataError: if it cannot be read, naming the file.
        """
        return self.read(index)

    @abstractmethod
    def name(self, index: int) -> str:
        """File and place in it, for messages."""

    @abstractmethod
    def label(self, index: int) -> int:
        """Number of the image's class; -1: unknown."""

    def split(self, index: int) -> str:
        """Split in which the origin lists an image; "" if it lists none."""
        return ""


class ImageSource(ABC):
    """Where images come from."""

    @abstractmethod
    def open(self) -> ImageSet:
        """The images, listed but not decoded.

        Raises:
            DataError: if there is nothing to read, or a file is damaged.
        """


@dataclass
class ImageBatch(TensorBatch):
    """Images of one size.

    Args:
        images: [B, C, h, w] uint8.
        labels: [B] long, number of the class from 0; -1: unknown.
        index: [B] long, place of each image in its split.
        names: of the images.
    """

    images: Tensor
    labels: Tensor
    index: Tensor
    names: list[str]

    def __len__(self) -> int:
        return len(self.images)


@dataclass
class MixedImageBatch(TensorBatch):
    """Images of any sizes.

    Args:
        images: [C, h, w] uint8 each, of their own height and width.
        labels: [B] long, number of the class from 0; -1: unknown.
        index: [B] long, place of each image in its split.
        names: of the images.
    """

    images: list[Tensor]
    labels: Tensor
    index: Tensor
    names: list[str]

    def __len__(self) -> int:
        return len(self.images)


def to_tensor(pixels: Pixels) -> Tensor:
    """[C, h, w] uint8 of an image [h, w, C]."""
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())  # decoders and maps give read-only memory


def to_pixels(images: Tensor) -> list[Pixels]:
    """Images [h, w, C] uint8 of values [B, C, h, w] in [-1, 1]; what lies beyond is cut."""
    values = ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return list(values.permute(0, 2, 3, 1).cpu().numpy())
