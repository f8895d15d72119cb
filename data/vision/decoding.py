"""Encoded images to 8-bit pixels, with every loss chosen or refused.

Shape legend: h, w height and width in pixels, C channels.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from polydit.platform.errors import ConfigurationError, DataError, require

from .pictures import Pixels

EXTRA = "vision"

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
"""Files that are taken for images."""

ORIENTATION = 274
"""EXIF tag."""

LYING = (5, 6, 7, 8)
"""Its values under which height and width change places."""

BITS_PER_SAMPLE = 258
"""TIFF tag."""


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """How files become pixels [h, w, C] uint8.

    Palettes are resolved and the rotation that a camera noted is applied; neither loses anything. Grey is repeated
    where colour is wanted, colour weighed to grey (ITU-R 601) where grey is.

    Args:
        channels: C, 1 or 3.
        alpha: what is done with transparent pixels: "white" lays them over white, "black" over black, "refuse" raises.
        depth: what is done with 16 bits a channel: "scale" divides by 257, so that 65535 is white, "refuse" raises.

    Raises:
        ConfigurationError: if an option is none of these.
    """

    channels: int = 3
    alpha: Literal["white", "black", "refuse"] = "white"
    depth: Literal["scale", "refuse"] = "scale"

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise ConfigurationError(f"channels {self.channels} must be 1, grey, or 3, colour")
        if self.alpha not in ("white", "black", "refuse"):
            raise ConfigurationError(f"alpha {self.alpha!r} is none of white, black and refuse")
        if self.depth not in ("scale", "refuse"):
            raise ConfigurationError(f"depth {self.depth!r} is neither scale nor refuse")

    def decode(self, data: bytes | NDArray[Any], name: str) -> Pixels:
        """Pixels of an encoded file or of bare values.

        Args:
            data: bytes of a file, or values [h, w] or [h, w, 1 or 3] uint8.
            name: for messages.

        Raises:
            DataError: if it is damaged, no image, or something that is to be refused.
        """
        if isinstance(data, bytes | bytearray | memoryview):
            return self._convert(*load_image(bytes(data), name), name)
        values = np.asarray(data)
        if values.ndim == 2:
            values = values[..., None]
        if values.ndim != 3 or values.shape[2] not in (1, 3) or values.dtype != np.uint8 or not values.size:
            raise DataError(
                f"{name} is an array {values.shape} of {values.dtype}: images are [h, w] or [h, w, 1 or 3] of uint8"
            )
        return self._with_channels(values)

    def _convert(self, image: Any, deep: bool, name: str) -> Pixels:
        if deep and self.depth == "refuse":
            raise DataError(f"{name} has 16 bits a channel: convert it to 8, or set depth: scale")
        if image.mode == "F":
            raise DataError(f"{name} holds floating-point values, whose range nobody knows: convert it to 8 bits")
        if image.mode == "I" or image.mode.startswith("I;16"):
            values = np.asarray(image).astype(np.int64)
            if values.min() < 0 or values.max() > 65535:
                raise DataError(f"{name} holds values from {values.min()} to {values.max()}: 16 bits end at 65535")
            return self._with_channels(((values + 128) // 257).astype(np.uint8)[..., None])
        if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
            image = self._without_alpha(image.convert("RGBA"), name)
        return self._with_channels(np.asarray(image.convert("L" if self.channels == 1 else "RGB")))

    def _without_alpha(self, image: Any, name: str) -> Any:
        pillow = require("PIL.Image", EXTRA)
        opacity = np.asarray(image.getchannel("A"))
        if self.alpha == "refuse" and opacity.min() < 255:
            raise DataError(
                f"{name}: {(opacity < 255).mean():.1%} of the pixels are transparent: save it on a background, or set "
                "alpha: white"
            )
        ground = pillow.new("RGBA", image.size, "black" if self.alpha == "black" else "white")
        return pillow.alpha_composite(ground, image)

    def _with_channels(self, values: NDArray[Any]) -> Pixels:
        values = values[..., None] if values.ndim == 2 else values
        if values.shape[2] == self.channels:
            return np.ascontiguousarray(values)
        if self.channels == 3:
            return values.repeat(3, axis=2)
        grey = (values.astype(np.uint32) @ np.array([19595, 38470, 7471], np.uint32) + 32768) >> 16
        return grey.astype(np.uint8)[..., None]


DAMAGE = (
    OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, ArithmeticError, AttributeError, struct.error,
    zlib.error,
)
"""What Pillow's readers raise of damaged files, most of it by accident."""


def load_image(data: bytes, name: str) -> tuple[Any, bool]:
    """A decoded, upright Pillow image of an encoded file, and whether it has more than 8 bits a channel.

    Raises:
        DataError: if it is damaged, no image, or too large.
    """
    ops: Any = require("PIL.ImageOps", EXTRA)
    if not data:
        raise DataError(f"{name} is empty: copy or export it again")
    with _open_image(io.BytesIO(data), name) as image:
        deep = is_deep(image)
        image.load()
        return ops.exif_transpose(image), deep


def measure_image(data: bytes | Path | NDArray[Any], name: str) -> tuple[int, int]:
    """Upright height and width in pixels, of which a file's header alone is read.

    Args:
        data: an encoded file or its path, or values [h, w] or [h, w, C].
        name: for messages.

    Raises:
        DataError: if it is damaged, no image, or too large.
    """
    if isinstance(data, np.ndarray):
        if data.ndim < 2 or not data.size:
            raise DataError(f"{name} is an array {data.shape}: images are [h, w] or [h, w, C]")
        return data.shape[0], data.shape[1]
    with _open_image(data if isinstance(data, Path) else io.BytesIO(data), name) as image:
        lies = image.getexif().get(ORIENTATION, 1) in LYING
        return (image.width, image.height) if lies else (image.height, image.width)


@contextmanager
def _open_image(file: io.BytesIO | Path, name: str) -> Iterator[Any]:
    pillow: Any = require("PIL.Image", EXTRA)
    try:
        with pillow.open(file) as image:
            yield image
    except pillow.DecompressionBombError as error:
        raise DataError(f"{name} is too large to be decoded ({error}): cut or shrink it first") from error
    except pillow.UnidentifiedImageError as error:
        raise DataError(f"{name} is no image that can be read: save it as PNG, JPEG, WebP or TIFF") from error
    except DAMAGE as error:
        raise DataError(f"{name} is truncated or damaged ({error}): copy or export it again") from error


def is_deep(image: Any) -> bool:
    """Whether an opened Pillow image has more than 8 bits a channel."""
    bits = max(getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE, (8,)))
    raw = " ".join(str(part) for entry in getattr(image, "tile", ()) for part in entry)
    return bits > 8 or ";16" in raw or image.mode == "I" or image.mode.startswith("I;16")
