"""Images of any size to one size, or to one that keeps their shape.

Shape legend: h, w height and width as they come, s the side that is wanted, m what sides are multiples of, C channels.
"""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import numpy as np
import torch

from polydit.platform.errors import ConfigurationError, DataError, require

from .decoding import EXTRA
from .pictures import ImageBatch, MixedImageBatch, Pixels, to_tensor

Fit = Literal["crop", "random_crop", "resize", "refuse", "keep"]

MOST_DISTORTION = 2.0
"""Factor by which "keep" may change height over width. Sides of five multiples and more change by a fifth at most."""


def check_fit(fit: Fit, size: int, multiple: int = 1) -> None:
    """Refuse what is no way to fit images.

    Raises:
        ConfigurationError: naming what was given.
    """
    if fit not in get_args(Fit):
        raise ConfigurationError(f"fit {fit!r} is none of {', '.join(get_args(Fit))}")
    if size < 1:
        raise ConfigurationError(f"size {size} must be at least 1 pixel")
    if multiple < 1 or size % multiple:
        raise ConfigurationError(f"multiple {multiple} must be a divisor of size {size}")


def fit_image(
    image: Pixels, size: int, fit: Fit, name: str, generator: np.random.Generator | None, multiple: int = 1
) -> Pixels:
    """An image [s, s, C], or with "keep" of a size of its own.

    Args:
        image: [h, w, C].
        size: s.
        fit: "crop" shrinks or enlarges the shorter side to s and takes the centre, as DiT prepares ImageNet;
            "random_crop" takes a random part of 0.08 to 1 of the area and 3/4 to 4/3 in shape (Inception's), and the
            centre where nothing is drawn; "resize" ignores the shape; "refuse" takes images of s x s alone;
            "keep" is `keep_shape`.
        name: for messages.
        generator: draws the crop; None: nothing is drawn.
        multiple: m, of "keep".

    Raises:
        DataError: if the size differs and that is to be refused, or a shape cannot be kept.
    """
    height, width = image.shape[:2]
    if fit == "keep":
        return resize_image(image, keep_shape((height, width), size, multiple, name))
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


def keep_shape(shape: tuple[int, int], size: int, multiple: int, name: str) -> tuple[int, int]:
    """The height and width nearest to an image's own that are multiples of m and hold no more than s x s pixels.

    As FiT prepares images (arXiv 2402.12376, section 3.3): shrunk if they are larger, never cut, and enlarged by less
    than a multiple alone. Sides are rounded up or down, whichever of what fits changes both least.

    Args:
        shape: (h, w).
        size: s.
        multiple: m, a divisor of s.
        name: for messages.

    Raises:
        DataError: if h over w would change by more than `MOST_DISTORTION`.
    """
    height, width = shape
    limit = (size // multiple) ** 2
    scale = min(1.0, size / math.sqrt(height * width)) / multiple
    wanted = height * scale, width * scale
    sides = [sorted({max(1, math.floor(side)), math.ceil(side)}) for side in wanted]
    fitting = [(rows, columns) for rows in sides[0] for columns in sides[1] if rows * columns <= limit]
    if not fitting:  # one side is less than a multiple, and the other too long for that
        fitting = [(min(sides[0][0], limit), min(sides[1][0], limit))]

    def change(grid: tuple[int, int]) -> float:
        return sum(abs(math.log(side / want)) for side, want in zip(grid, wanted, strict=True))

    rows, columns = min(fitting, key=change)
    distortion = abs(math.log(rows * width / (columns * height)))
    if distortion > math.log(MOST_DISTORTION) + 1e-9:
        raise DataError(
            f"{name} is {height} x {width} pixels, too thin for {limit} squares of {multiple} x {multiple}: cut it in "
            "parts, leave it out, or raise data.size"
        )
    return rows * multiple, columns * multiple


def resize_image(image: Pixels, size: tuple[int, int]) -> Pixels:
    """An image of this height and width, by Lanczos' filter, which averages where it shrinks."""
    if image.shape[:2] == size:
        return image
    pillow: Any = require("PIL.Image", EXTRA)
    bare = image[..., 0] if image.shape[2] == 1 else image
    resized = np.asarray(pillow.fromarray(bare).resize((size[1], size[0]), pillow.Resampling.LANCZOS))
    return resized[..., None] if resized.ndim == 2 else resized


def square_batch(batch: MixedImageBatch, size: int) -> ImageBatch:
    """The images of a batch, all squeezed to this height and width."""
    images = [to_tensor(resize_image(image.permute(1, 2, 0).numpy(), (size, size))) for image in batch.images]
    return ImageBatch(torch.stack(images), batch.labels, batch.index, batch.names)


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
