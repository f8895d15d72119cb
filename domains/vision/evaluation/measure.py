"""The contract of a measure, and the real images that it measures against.

Shape legend: B images, C channels, h, w height and width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from polydit.data.vision.dataset import ImageDataset
from polydit.data.vision.fitting import square_batch
from polydit.data.vision.pictures import ImageBatch, MixedImageBatch, Picture
from polydit.platform.errors import DataError
from polydit.platform.evaluation.evaluator import Histograms, Row
from polydit.platform.evaluation.statistics import Estimate

BATCH = 64
"""Images read at a time."""


class References:
    """Real images of a data module: those that samples are compared with, and those of training.

    Images of sizes of their own are all resized to the square of the data's size, as samples are.

    Args:
        datamodule: the data.
        split: held-out split; where it is empty, the next of test, val and train is taken.
        limit: most images of either.

    Raises:
        DataError: if there are no images.
    """

    def __init__(self, datamodule: Any, split: str, limit: int) -> None:
        if not getattr(datamodule, "sources", None):
            raise DataError("the data module has no sources: name the images that samples are to be compared with")
        wanted = dict.fromkeys((split, "test", "val", "train"))
        self.split = next((name for name in wanted if any(map(len, datamodule.chosen[name]))), "")
        if not self.split:
            raise DataError("the data module has no images to compare samples with: give its sources some")
        self.limit = limit
        self.size: int = datamodule.size
        self.classes: tuple[str, ...] = datamodule.classes
        self._held_out: ImageDataset = datamodule.images(self.split)
        self._train: ImageDataset = datamodule.images("train")
        trainer = getattr(datamodule, "trainer", None)
        self.folder = None if trainer is None else Path(trainer.default_root_dir)

    def held_out(self, limit: int | None = None) -> Iterator[ImageBatch]:
        """Images that were not trained on, as far as there are any."""
        return self._read(self._held_out, limit)

    def train(self, limit: int | None = None) -> Iterator[ImageBatch]:
        """Images of the training split, none drawn or flipped."""
        return self._read(self._train, limit)

    def _read(self, images: ImageDataset, limit: int | None) -> Iterator[ImageBatch]:
        for batch in images.batches(BATCH, self.limit if limit is None else min(limit, self.limit)):
            yield square_batch(batch, self.size) if isinstance(batch, MixedImageBatch) else batch


class Measure(ABC):
    """One way to judge images as a set; `ImageEvaluator` runs several over the same samples."""

    @abstractmethod
    def prepare(self, references: References) -> None:
        """Take what is needed of the real images.

        Raises:
            DataError: if they do not have it, such as classes; the measure is then left out.
        """

    @abstractmethod
    def reset(self) -> None:
        """Forget all samples; what `prepare` took may stay."""

    def see(self, pictures: Sequence[Picture]) -> None:
        """Samples as they were made, before `update` gets them at one size. Nothing is done by default."""
        return None

    @abstractmethod
    def update(self, images: Tensor, labels: Tensor) -> None:
        """Add samples.

        Args:
            images: [B, C, h, w] uint8, of the size of the real ones.
            labels: [B] number of the wanted class; -1: none was.
        """

    @abstractmethod
    def compute(self) -> dict[str, Estimate]:
        """Metric name -> number."""

    def columns(self) -> list[Row]:
        """What is known of each sample; called after `compute`. None by default."""
        return []

    def histograms(self) -> Histograms:
        """Distributions for the report; none by default."""
        return {}

    @abstractmethod
    def descriptions(self) -> dict[str, str]:
        """Metric name -> what it means."""
