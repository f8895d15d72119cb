"""The evaluator of generated images: several measures over the same samples, one row per sample.

Shape legend: B images, C channels, h, w height and width.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal

import torch

from polydit.data.vision.fitting import resize_image
from polydit.data.vision.pictures import Picture, to_tensor
from polydit.platform.errors import ConfigurationError, DataError
from polydit.platform.evaluation.evaluator import Evaluator, Histograms, Row
from polydit.platform.evaluation.statistics import Estimate
from polydit.platform.requests import Sample

from .judgement import ClassifierJudgement
from .measure import Measure, References
from .neighbours import NearestNeighbours
from .sliced import SlicedWasserstein


class ImageEvaluator(Evaluator):
    """Judges generated images as a set, against real ones that were held out.

    Samples of another size than the square of the data's are squeezed to it before they are measured, and so are real
    images of sizes of their own: distances do not see the shape, only what it holds.

    Args:
        measures: what is measured; None: `SlicedWasserstein`, `ClassifierJudgement` and `NearestNeighbours`, none of
            which needs weights from elsewhere.
        split: of the real images that samples are compared with.
        limit: most real images that are read of either split.
    """

    def __init__(
        self, measures: list[Measure] | None = None, split: Literal["train", "val", "test"] = "test", limit: int = 5000
    ) -> None:
        if limit < 2:
            raise ConfigurationError(f"limit {limit} must be at least 2 real images")
        usual: list[Measure] = [SlicedWasserstein(), ClassifierJudgement(), NearestNeighbours()]
        self.measures = usual if measures is None else measures
        self.split, self.limit = split, limit
        self.references: References | None = None
        self._ready: list[Measure] = []
        self._rows: list[Row] = []

    def accepts(self, output: Any) -> bool:
        """Whether an output is a generated image."""
        return isinstance(output, Sample) and isinstance(output.item, Picture)

    def prepare(self, datamodule: Any) -> None:
        """Let every measure take what it needs; one that cannot is left out, and said.

        Raises:
            DataError: if there are no real images.
        """
        self.references, self._ready = None, []
        self.references = References(datamodule, self.split, self.limit)
        for measure in self.measures:
            try:
                measure.prepare(self.references)
            except DataError as error:
                warnings.warn(f"{type(measure).__name__} is left out: {error}", stacklevel=2)
            else:
                self._ready.append(measure)

    def reset(self) -> None:
        """Forget all samples."""
        self._rows = []
        for measure in self.measures:
            measure.reset()

    def update(self, outputs: Sequence[Any]) -> None:
        """Hand the images to the measures, those of one size together."""
        items = [output.item for output in outputs]
        for item in items:
            self._rows.append({
                "class": item.class_name or None, "height": item.pixels.shape[0], "width": item.pixels.shape[1],
                "mean": float(item.pixels.mean()), "contrast": float(item.pixels.std()),
            })
        if self.references is None or not self._ready:
            return
        size = self.references.size
        images = torch.stack([to_tensor(resize_image(item.pixels, (size, size))) for item in items])
        labels = torch.tensor([item.label for item in items])
        for measure in self._ready:
            measure.see(items)
            measure.update(images, labels)

    def compute(self) -> dict[str, Estimate]:
        """The numbers of all measures."""
        estimates: dict[str, Estimate] = {}
        for measure in self._ready:
            estimates |= measure.compute()
        return estimates

    def rows(self) -> list[Row]:
        """One row per image."""
        rows = [dict(row) for row in self._rows]
        for measure in self._ready:
            for row, more in zip(rows, measure.columns() or [{}] * len(rows), strict=True):
                row |= more
        return rows

    def histograms(self) -> Histograms:
        """Distributions of all measures."""
        return {name: pair for measure in self._ready for name, pair in measure.histograms().items()}

    def descriptions(self) -> dict[str, str]:
        """What the numbers mean."""
        return {name: text for measure in self.measures for name, text in measure.descriptions().items()}
