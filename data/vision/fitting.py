"""Images of any size to one size.

Shape legend: h, w height and width as they come, s the side that is wanted, C channels.
"""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import numpy as np

from polydit.platform.errors import ConfigurationError, DataError, require

from .decoding import EXTRA
from .pictures import Pixels

Fit = Literal["crop", "random_crop", "resize", "refuse"]


def check_fit(fit: Fit, size: int) -> None:
    """Refuse what is no way to fit images.

    Raises:
        ConfigurationError: naming what was given.
    """
    if fit not in get_args(Fit):
        raise ConfigurationError(f"fit {fit!r} is none of {', '.join(get_args(Fit))}")
    if size < 1:
        raise ConfigurationError(f"size {size} must be at least 1 pixel")


def fit_image(image: Pixels, size: int, fit: Fit, name: str, generator: np.random.Generator | None) -> Pixels:
    """An image [s, s, C].

    Args:
        image: [h, w, C].
        size: s.
        fit: "crop" shrinks or enlarges the shorter side to s and takes the centre, as DiT prepares ImageNet;
            "random_crop" takes a random part of 0.08 to 1 of the area and 3/4 to 4/3 in shape (Inception's), and the
            centre where nothing is drawn; "resize" ignores the shape; "refuse" takes images of s x s alone.
        name: for messages.
        generator: draws the crop; None: nothing is drawn.

    Raises:
        DataError: if the size differs and that is to be refused.
    """
    height, width = image.shape[:2]
    if (height, width) == (size, size):
        return image
    if fit == "refuse":
        raise DataError(
            f"{name} is {height} x {width} pixels and {size} x {size} are wanted: cut all images alike, or set "
            "data.fit: crop"
        )
    if fit == "random_crop" and generator is not None:
        return resize_image(_draw_crop(image, generator), (size, size))
    if fit == "resize":
        return resize_image(image, (size, size))
    scale = size / min(height, width)
    image = resize_image(image, (max(size, round(height * scale)), max(size, round(width * scale))))
    top, left = (image.shape[0] - size) // 2, (image.shape[1] - size) // 2
    return np.ascontiguousarray(image[top : top + size, left : left + size])


def resize_image(image: Pixels, size: tuple[int, int]) -> Pixels:
    """An image of this height and width, by Lanczos' filter, which averages where it shrinks."""
    if image.shape[:2] == size:
        return image
    pillow: Any = require("PIL.Image", EXTRA)
    bare = image[..., 0] if image.shape[2] == 1 else image
    resized = np.asarray(pillow.fromarray(bare).resize((size[1], size[0]), pillow.Resampling.LANCZOS))
    return resized[..., None] if resized.ndim == 2 else resized


def _draw_crop(image: Pixels, generator: np.random.Generator) -> Pixels:
    height, width = image.shape[:2]
    for _ in range(10):
        area = height * width * generator.uniform(0.08, 1.0)
        ratio = math.exp(generator.uniform(math.log(3 / 4), math.log(4 / 3)))
        h, w = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < h <= height and 0 < w <= width:
            top, left = int(generator.integers(height - h + 1)), int(generator.integers(width - w + 1))
            return image[top : top + h, left : left + w]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return image[top : top + side, left : left + side]
