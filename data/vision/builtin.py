"""Built-in sets: scikit-learn's handwritten digits, of one size and of many."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from polydit.platform.errors import ConfigurationError, require

from .decoding import EXTRA
from .fitting import resize_image
from .pictures import ImageSet, ImageSource


class Digits(ImageSource):
    """1,797 handwritten digits of 8 x 8 pixels and 17 grey levels, which scikit-learn brings along.

    From the UCI set "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak 1998). ``data.size`` enlarges
    them.
    """

    def open(self) -> ImageSet:
        """The digits."""
        return ArraySet(*load_digits(), tuple("0123456789"), "digit")


SHAPES = ((16, 16), (12, 20), (20, 12), (12, 16), (16, 12), (8, 16), (16, 8))
"""Heights and widths of `StretchedDigits`."""


class StretchedDigits(ImageSource):
    """The same digits, each stretched over a canvas of its own height and width: a set of mixed sizes and shapes.

    Args:
        sizes: heights and widths of canvases, of which each digit gets one by seed.
        seed: of the sizes.

    Raises:
        ConfigurationError: if there is no size, or one is no pair of positive numbers.
    """

    def __init__(self, sizes: Sequence[Sequence[int]] = SHAPES, seed: int = 0) -> None:
        if not sizes or any(len(size) != 2 or min(size) < 1 for size in sizes):
            raise ConfigurationError(f"sizes {sizes!r} must be pairs of height and width in pixels, such as [12, 20]")
        self.sizes, self.seed = [(int(size[0]), int(size[1])) for size in sizes], seed

    def open(self) -> ImageSet:
        """The digits."""
        images, labels = load_digits()
        drawn = np.random.default_rng(self.seed).integers(len(self.sizes), size=len(images))
        stretched = [
            resize_image(image[..., None], self.sizes[number]) for image, number in zip(images, drawn, strict=True)
        ]
        return ArraySet(stretched, labels, tuple("0123456789"), "digit")


def load_digits() -> tuple[NDArray[np.uint8], NDArray[np.integer]]:
    """The digits [1797, 8, 8] and their labels."""
    found = require("sklearn.datasets", EXTRA).load_digits()
    return (found.images * (255 / 16)).round().astype(np.uint8), found.target


class ArraySet(ImageSet):
    """Images that are in memory.

    Args:
        images: [n, h, w] or [n, h, w, C] uint8, or such images of different sizes.
        labels: [n] numbers of classes.
        classes: their names.
        title: name of an image, before its number.
        split: in which the origin lists all of them; "" if in none.
    """

    def __init__(
        self, images: Sequence[NDArray[np.uint8]] | NDArray[np.uint8], labels: NDArray[np.integer],
        classes: tuple[str, ...], title: str, split: str = "",
    ) -> None:
        self.images, self.labels, self.classes, self.title, self.listed = images, labels, classes, title, split

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> NDArray[np.generic]:
        """The values."""
        return self.images[index]

    def name(self, index: int) -> str:
        """The title and the number."""
        return f"{self.title} {index}"

    def label(self, index: int) -> int:
        """Number of the image's class."""
        return int(self.labels[index])

    def split(self, index: int) -> str:
        """Split in which the origin lists an image."""
        return self.listed
