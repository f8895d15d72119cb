"""The built-in set: scikit-learn's handwritten digits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from polydit.platform.errors import require

from .decoding import EXTRA
from .pictures import ImageSet, ImageSource


class Digits(ImageSource):
    """1,797 handwritten digits of 8 x 8 pixels and 17 grey levels, which scikit-learn brings along.

    From the UCI set "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak 1998). ``data.size`` enlarges
    them.
    """

    def open(self) -> ImageSet:
        """The digits."""
        datasets = require("sklearn.datasets", EXTRA)
        images, labels = datasets.load_digits().images, datasets.load_digits().target
        return ArraySet((images * (255 / 16)).round().astype(np.uint8), labels, tuple("0123456789"), "digit")


class ArraySet(ImageSet):
    """Images that are in memory.

    Args:
        images: [n, h, w] or [n, h, w, C] uint8.
        labels: [n] numbers of classes.
        classes: their names.
        title: name of an image, before its number.
        split: in which the origin lists all of them; "" if in none.
    """

    def __init__(
        self, images: NDArray[np.uint8], labels: NDArray[np.integer], classes: tuple[str, ...], title: str,
        split: str = "",
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
