"""Hypotheses in the report, over each other and over the truth where it is known."""

from __future__ import annotations

import numpy as np

from polydit.platform.evaluation.gallery import Gallery, GalleryItem
from polydit.platform.requests import Sample

from .drawing import DRAWN, build_figure, draw_still, finite
from .hypotheses import PoseHypotheses
from .metrics import mpjpe


class PoseGallery(Gallery):
    """The first hypotheses of each picture; blue is the person's left, red the right, green the truth.

    Args:
        limit: most pictures shown.
        turning: whether the hypotheses can be turned, too; stills alone are lighter and show the heatmaps.
    """

    title = "Poses"

    def __init__(self, limit: int = 12, turning: bool = False) -> None:
        super().__init__(limit)
        self.turning = turning

    def accepts(self, sample: Sample) -> bool:
        """Whether the sample is a set of hypotheses."""
        return isinstance(sample.item, PoseHypotheses)

    def figures(self, samples: list[Sample]) -> list[GalleryItem]:
        """A picture of each set."""
        return [self._show(sample.item) for sample in samples]

    def _show(self, item: PoseHypotheses) -> GalleryItem:
        poses = finite(item.poses).astype(np.float64) * 1000
        lines = [f"{min(DRAWN, len(item.poses))} of {len(item.poses)} hypotheses"]
        if len(poses) < len(item.poses):
            lines.append(f"{len(item.poses) - len(poses)} of them are no finite numbers")
        if len(poses):
            lines[0] += f", spread {np.linalg.norm(poses - poses.mean(axis=0), axis=-1).mean():.0f} mm"
        if len(poses) and item.truth is not None:
            errors = mpjpe(poses, item.truth.astype(np.float64) * 1000)
            lines.append(f"error: best {errors.min():.0f} mm, mean {errors.mean():.0f} mm")
        still = draw_still(item)
        if self.turning:
            return GalleryItem(item.name, "\n".join(lines), build_figure(item), still)
        return GalleryItem(item.name, "\n".join(lines), still)
