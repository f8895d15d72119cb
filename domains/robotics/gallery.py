"""Episodes in the report: frames of the film, to be read like a page."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polydit.envs.episodes import Episode
from polydit.platform.errors import require
from polydit.platform.evaluation.gallery import Gallery, GalleryItem
from polydit.platform.requests import Sample

from .evaluation import name_task

GAP = 2
"""Pixels between frames."""


class EpisodeGallery(Gallery):
    """Frames from the start to the end of each filmed episode, in rows.

    Args:
        limit: most episodes shown.
        frames: shown of each.
        columns: frames in a row.
    """

    title = "Filmed episodes"
    packages = ("gymnasium", "mujoco", "metaworld")

    def __init__(self, limit: int = 12, frames: int = 9, columns: int = 3) -> None:
        super().__init__(limit)
        if frames < 1 or columns < 1:
            raise ValueError(f"{frames} frames in {columns} columns show nothing: give at least 1 of each")
        self.frames = frames
        self.columns = columns

    def accepts(self, sample: Sample) -> bool:
        """Whether the sample is an episode that was filmed."""
        return isinstance(sample.item, Episode) and bool(sample.item.frames)

    def figures(self, samples: list[Sample]) -> list[GalleryItem]:
        """A picture of each episode."""
        return [self._show(sample.item) for sample in samples]

    def _show(self, episode: Episode) -> GalleryItem:
        outcome = "solved" if episode.success else f"failed: {episode.error}" if episode.error else "not solved"
        when = f" at step {episode.success_step}" if episode.success_step is not None else ""
        caption = f"“{episode.instruction}”\n{outcome}{when} of {episode.steps}, seed {episode.request.seed}"
        assert episode.frames is not None
        places = np.linspace(0, len(episode.frames) - 1, self.frames).round().astype(int)
        page = tile_frames([episode.frames[i] for i in places], self.columns)
        return GalleryItem(name_task(episode), caption, encode_png(page))


def tile_frames(frames: Sequence[NDArray[np.uint8]], columns: int) -> NDArray[np.uint8]:
    """Frames [h, w, 3] in rows from left to right, with white lines between them; what is left of the last is white."""
    height, width = frames[0].shape[:2]
    rows = -(-len(frames) // columns)
    page = np.full((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3), 255, np.uint8)
    for place, frame in enumerate(frames):
        top, left = place // columns * (height + GAP), place % columns * (width + GAP)
        page[top : top + height, left : left + width] = frame
    return page


def encode_png(image: NDArray[np.uint8]) -> bytes:
    """PNG of an image [h, w, 3]."""
    pillow: Any = require("PIL.Image", "robotics")
    buffer = io.BytesIO()
    pillow.fromarray(image).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
