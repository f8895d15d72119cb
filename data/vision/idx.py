"""IDX files, the layout of MNIST and its kin.

Layout (Yann LeCun's page of MNIST): two zero bytes, a byte for the type (8: unsigned bytes), a byte for the number of
axes, a big-endian 32-bit length of each axis, and the values, last axis fastest.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from polydit.platform.errors import ConfigurationError, DataError

from .builtin import ArraySet
from .pictures import UNKNOWN, ImageSet, ImageSource

UNSIGNED_BYTE = 8

MOST_AXES = 4


class IdxFiles(ImageSource):
    """A pair of IDX files, gzipped or not.

    Args:
        images: file of [n, h, w] or [n, h, w, C], such as ``train-images-idx3-ubyte.gz``.
        labels: file of [n] numbers of classes; None: no classes.
        classes: names of the classes; None: their numbers.
        split: that all images are listed in; None: in none, for `splits` as fractions.
    """

    def __init__(
        self, images: str, labels: str | None = None, classes: list[str] | None = None, split: str | None = None
    ) -> None:
        if classes is not None and labels is None:
            raise ConfigurationError(f"classes {classes} name the labels of {images}, and no labels are given")
        self.images, self.labels = Path(images), None if labels is None else Path(labels)
        self.classes, self.split = classes, split or ""

    def open(self) -> ImageSet:
        """The images, read whole.

        Raises:
            DataError: if a file is missing, damaged or of another kind, or their lengths differ.
        """
        images = read_idx(self.images)
        if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] not in (1, 3)):
            raise DataError(f"{self.images} holds values of shape {images.shape}: images are [n, h, w] or [n, h, w, C]")
        if self.labels is None:
            return ArraySet(images, np.full(len(images), UNKNOWN), (), self.images.name, self.split)
        labels = read_idx(self.labels)
        if labels.shape != (len(images),):
            raise DataError(
                f"{self.images} holds {len(images)} images and {self.labels} labels of shape {labels.shape}: they are "
                "no pair"
            )
        count = int(labels.max()) + 1 if len(labels) else 0
        classes = tuple(self.classes or map(str, range(count)))
        if count > len(classes):
            raise DataError(f"{self.labels} holds class {count - 1}, and only {len(classes)} classes are named")
        return ArraySet(images, labels, classes, self.images.name, self.split)


def read_idx(path: Path) -> NDArray[np.uint8]:
    """The values of an IDX file of unsigned bytes.

    Raises:
        DataError: if it is missing, damaged or of another kind.
    """
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
    except FileNotFoundError as error:
        raise DataError(f"there is no file {path}: check the path") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is truncated or damaged ({error}): download it again") from error
    if len(data) < 4 or data[:2] != b"\0\0":
        raise DataError(f"{path} is no IDX file: it begins with {data[:4].hex() or 'nothing'} instead of 0000")
    kind, axes = data[2], data[3]
    if kind != UNSIGNED_BYTE or not 1 <= axes <= MOST_AXES:
        raise DataError(f"{path} holds type {kind} with {axes} axes: images and labels are unsigned bytes (8), 1 to 4")
    if len(data) < 4 + 4 * axes:
        raise DataError(f"{path} is truncated: its header alone takes {4 + 4 * axes} bytes, it has {len(data)}")
    shape = struct.unpack(f">{axes}I", data[4 : 4 + 4 * axes])
    wanted = 1
    for length in shape:
        wanted *= length
    if len(data) - 4 - 4 * axes != wanted:
        raise DataError(
            f"{path} is truncated or damaged: shape {shape} takes {wanted} bytes, it has {len(data) - 4 - 4 * axes}"
        )
    return np.frombuffer(data, np.uint8, offset=4 + 4 * axes).reshape(shape)
