"""Episodes in the report: frames of the film side by side."""

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


class EpisodeGallery(Gallery):
    """A strip of frames from the start to the end of each filmed episode.

    Args:
        limit: most episodes shown.
        frames: of a strip.
    """

    title = "Episodes"
    packages = ("gymnasium", "mujoco", "metaworld")

    def __init__(self, limit: int = 12, frames: int = 6) -> None:
        super().__init__(limit)
        if frames < 1:
            raise ValueError(f"a strip has at least 1 frame, not {frames}")
        self.frames = frames

    def accepts(self, sample: Sample) -> bool:
        """Whether the sample is an episode that was filmed."""
        return isinstance(sample.item, Episode) and bool(sample.item.frames)

    def figures(self, samples: list[Sample]) -> list[GalleryItem]:
        """A strip of each episode."""
        return [self._show(sample.item) for sample in samples]

    def _show(self, episode: Episode) -> GalleryItem:
        outcome = "solved" if episode.success else f"failed: {episode.error}" if episode.error else "not solved"
        when = f" at step {episode.success_step}" if episode.success_step is not None else ""
        caption = f"“{episode.instruction}”\n{outcome}{when} of {episode.steps}, seed {episode.request.seed}"
        assert episode.frames is not None
        places = np.linspace(0, len(episode.frames) - 1, self.frames).round().astype(int)
        return GalleryItem(name_task(episode), caption, encode_png(join_strip([episode.frames[i] for i in places])))


def join_strip(frames: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Frames [h, w, 3] side by side with a white line between them."""
    line = np.full((frames[0].shape[0], 2, 3), 255, np.uint8)
    parts = [part for frame in frames for part in (frame, line)][:-1]
    return np.concatenate(parts, axis=1)


def encode_png(image: NDArray[np.uint8]) -> bytes:
    """PNG of an image [h, w, 3]."""
    pillow: Any = require("PIL.Image", "robotics")
    buffer = io.BytesIO()
    pillow.fromarray(image).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
