"""Generated images in the report: a grid by class, and some by themselves.

Shape legend: n images, h, w height and width of a cell.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from polydit.data.vision.decoding import EXTRA
from polydit.data.vision.pictures import Picture, Pixels
from polydit.platform.errors import require
from polydit.platform.evaluation.gallery import Gallery, GalleryItem
from polydit.platform.requests import Sample

GAP = 2
"""Pixels between the cells of a grid."""

GROUND = 232
"""Grey between them."""

MARGIN = 60
"""Pixels to the left of a row for the name of its class."""


class ImageGallery(Gallery):
    """All chosen images in one grid, a row a class, and the first of them one by one.

    Args:
        limit: most images in the grid.
        alone: of these, how many are shown one by one too, with seed and flags.
        columns: of the grid.
        cell: side in pixels of a cell; smaller images are enlarged by a whole factor, larger ones shrunk, those of
            several sizes in proportion.
    """

    title = "Images"
    packages = ("pillow",)

    def __init__(self, limit: int = 100, alone: int = 8, columns: int = 10, cell: int = 64) -> None:
        super().__init__(limit)
        if columns < 1 or cell < 8:
            raise ValueError(f"columns {columns} must be at least 1 and cell {cell} at least 8 pixels")
        self.columns, self.cell = columns, cell
        self.alone = alone

    def accepts(self, sample: Sample) -> bool:
        """Whether the sample is an image."""
        return isinstance(sample.item, Picture)

    def overview(self, samples: list[Sample]) -> tuple[bytes, str]:
        """The grid."""
        pictures = [sample.item for sample in samples]
        rows = arrange_by_class(pictures, self.columns)
        caption = "In the order of sampling" + (", a row a class." if any(name for name, _ in rows) else ".")
        return encode_png(draw_grid(rows, self.columns, self.cell)), caption

    def figures(self, samples: list[Sample]) -> list[GalleryItem]:
        """Each image by itself."""
        return [self._show(sample.item) for sample in samples]

    def _show(self, item: Picture) -> GalleryItem:
        height, width = item.pixels.shape[:2]
        return GalleryItem(
            item.class_name or "image", f"{width} × {height} pixels", encode_png(scale(item.pixels, 4 * self.cell))
        )


def arrange_by_class(pictures: Sequence[Picture], columns: int) -> list[tuple[str, list[Pixels]]]:
    """Rows of a grid with the names of their classes, by number; a class of many images takes several rows."""
    labels = sorted({(picture.label, picture.class_name) for picture in pictures})
    rows = []
    for label, name in labels:
        own = [picture.pixels for picture in pictures if picture.label == label]
        rows += [(name, own[start : start + columns]) for start in range(0, len(own), columns)]
    return rows


def draw_grid(rows: Sequence[tuple[str, Sequence[Pixels]]], columns: int, cell: int) -> Pixels:
    """A picture [h, w, 3] of rows of images, each in the middle of its cell, the name of each row before it."""
    pillow, drawing = require("PIL.Image", EXTRA), require("PIL.ImageDraw", EXTRA)
    largest = max(max(image.shape[:2]) for _, images in rows for image in images)
    scaled = [
        (name, [scale(image, choose_side(max(image.shape[:2]), largest, cell)) for image in images])
        for name, images in rows
    ]
    height = max(image.shape[0] for _, images in scaled for image in images)
    width = max(image.shape[1] for _, images in scaled for image in images)
    columns = min(columns, max(len(images) for _, images in scaled))
    margin = MARGIN if any(name for name, _ in rows) else 0
    sheet = np.full((len(rows) * (height + GAP) + GAP, margin + columns * (width + GAP) + GAP, 3), GROUND, np.uint8)
    sheet[:, :margin] = 255
    for row, (_, images) in enumerate(scaled):
        for column, image in enumerate(images):
            top = GAP + row * (height + GAP) + (height - image.shape[0]) // 2
            left = margin + GAP + column * (width + GAP) + (width - image.shape[1]) // 2
            sheet[top : top + image.shape[0], left : left + image.shape[1]] = image
    if not margin:
        return sheet
    page = pillow.fromarray(sheet)
    pen = drawing.Draw(page)
    for row, (name, _) in enumerate(scaled):
        if row == 0 or scaled[row - 1][0] != name:
            text = name if len(name) <= 9 else name[:8] + "…"
            pen.text((4, GAP + row * (height + GAP) + height // 2 - 6), text, fill=(40, 44, 52))
    return np.asarray(page)


def choose_side(longest: int, largest: int, cell: int) -> int:
    """The side that an image is brought to, in proportion to the largest of a grid and a quarter of a cell at least.

    Args:
        longest: longer side of the image.
        largest: of all images.
        cell: side of a cell.
    """
    if largest <= cell:
        return cell // largest * longest
    return max(1, cell // 4, round(cell * longest / largest))


def scale(image: Pixels, side: int) -> Pixels:
    """An image [h, w, 3] about `side` pixels high: enlarged by a whole factor, or shrunk by averaging."""
    height, width = image.shape[:2]
    colour = image.repeat(3, axis=2) if image.shape[2] == 1 else image
    longest = max(height, width)
    if longest <= side:
        factor = max(1, side // longest)
        return colour.repeat(factor, axis=0).repeat(factor, axis=1)
    pillow: Any = require("PIL.Image", EXTRA)
    size = (max(1, round(width * side / longest)), max(1, round(height * side / longest)))
    return np.asarray(pillow.fromarray(colour).resize(size, pillow.Resampling.BOX))


def encode_png(picture: Pixels) -> bytes:
    """PNG of a picture [h, w, 3]."""
    pillow: Any = require("PIL.Image", EXTRA)
    buffer = io.BytesIO()
    pillow.fromarray(picture).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
