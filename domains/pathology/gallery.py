"""Virtual stains in the report: H&E, generated, true, and where both are brown."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polydit.data.pathology.tiles import Picture
from polydit.platform.errors import require
from polydit.platform.evaluation.gallery import Gallery, GalleryItem
from polydit.platform.requests import Sample

from .evaluation import measure_overlap
from .item import VirtualStain

GAP = 4
"""White pixels between panels."""

BOTH, GENERATED, TRUE, GROUND = (64, 160, 96), (224, 138, 30), (61, 126, 219), (238, 240, 243)
"""Colours of the overlap: brown in both, in the generated image only, in the true one only, in none."""


class StainGallery(Gallery):
    """H&E, the generated stain, the true one if it is known, and the overlap of their masks, two in a row.

    Args:
        limit: most tiles shown.
        side: height in pixels of a panel; larger images are shrunk to it, smaller ones enlarged by a whole factor.
    """

    title = "Virtual stains"
    packages = ("scikit-image", "pillow")

    def __init__(self, limit: int = 12, side: int = 256) -> None:
        super().__init__(limit)
        if side < 16:
            raise ValueError(f"panels of {side} pixels show nothing: give a side of at least 16")
        self.side = side

    def accepts(self, sample: Sample) -> bool:
        """Whether the sample is a virtual stain."""
        return isinstance(sample.item, VirtualStain)

    def figures(self, samples: list[Sample]) -> list[GalleryItem]:
        """Panels of each."""
        return [self._show(sample.item) for sample in samples]

    def _show(self, item: VirtualStain) -> GalleryItem:
        panels, names = [item.he, item.stain], ["H&E", "generated"]
        if item.truth is not None and item.true_mask is not None:
            panels += [item.truth, paint_overlap(item.mask, item.true_mask)]
            names += ["true", "brown: green in both, orange generated only, blue true only"]
            dice, _ = measure_overlap(item.mask, item.true_mask)
            numbers = f"Dice {dice:.2f}, stained {item.mask.mean():.1%} of {item.true_mask.mean():.1%}"
        else:
            panels.append(paint_overlap(item.mask, np.zeros_like(item.mask)))
            names.append("brown")
            numbers = f"stained {item.mask.mean():.1%}"
        slide = f", {item.slide}" if item.slide else ""
        panels_named = f"above {' | '.join(names[:2])}, below {' | '.join(names[2:])}"
        caption = f"{panels_named}\n{numbers}; {item.he.shape[1]} × {item.he.shape[0]} pixels{slide}"
        return GalleryItem(item.name, caption, encode_png(self._join(panels)))

    def _join(self, panels: list[Picture]) -> Picture:
        """Two panels in a row, which fills a card of the report better than a strip; the last row may have one."""
        sized = [resize(panel, self.side) for panel in panels]
        height, width = sized[0].shape[:2]
        rows = -(-len(sized) // 2)
        sheet = np.full((rows * (height + GAP) - GAP, 2 * width + GAP, 3), 255, np.uint8)
        for place, panel in enumerate(sized):
            top, left = place // 2 * (height + GAP), place % 2 * (width + GAP)
            sheet[top : top + height, left : left + width] = panel
        return sheet


def paint_overlap(mask: NDArray[np.bool_], truth: NDArray[np.bool_]) -> Picture:
    """Picture [h, w, 3] of two masks."""
    colours = np.array([GROUND, GENERATED, TRUE, BOTH], np.uint8)
    return colours[mask.astype(int) + 2 * truth]


def resize(picture: Picture, side: int) -> Picture:
    """The picture about `side` pixels high: enlarged by a whole factor, or shrunk by averaging."""
    height, width = picture.shape[:2]
    factor = max(1, side // height)
    if height <= side:
        return picture.repeat(factor, axis=0).repeat(factor, axis=1)
    pillow: Any = require("PIL.Image", "pathology")
    size = (max(1, round(width * side / height)), side)
    return np.asarray(pillow.fromarray(picture).resize(size, pillow.Resampling.BOX))


def encode_png(picture: Picture) -> bytes:
    """PNG of a picture."""
    pillow: Any = require("PIL.Image", "pathology")
    buffer = io.BytesIO()
    pillow.fromarray(picture).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
