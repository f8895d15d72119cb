"""Images of a split as batches: decoded, fitted, flipped.

Shape legend: B images, h, w height and width, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from .decoding import Decoder, measure_image
from .fitting import Fit, fit_image, keep_shape
from .pictures import ImageBatch, ImageSet, MixedImageBatch, Pixels, to_tensor

Key = tuple[int | None, int]
"""Epoch, or None where nothing is drawn, and place in the split."""


class ImageDataset(Dataset[ImageBatch | MixedImageBatch]):
    """Images of several sources, square or of sizes of their own; indexed by lists of (epoch, place).

    With an epoch, crops and flips are drawn from (seed, epoch, place); without, nothing is.

    Args:
        sets: images of each source.
        chosen: places in each of them.
        labels: for each source, number of its classes among those of all.
        size: side of square images; others hold as many pixels at most.
        decoder: files to pixels.
        fit: how images come to their size, see `fit_image`.
        flip: whether half of what is drawn is mirrored left to right.
        keep: bytes of decoded images that are kept in memory.
        seed: of crops and flips.
        multiple: what sides are multiples of where images keep their shape.
    """

    def __init__(
        self,
        sets: Sequence[ImageSet],
        chosen: Sequence[NDArray[np.int64]],
        labels: Sequence[Sequence[int]],
        size: int,
        decoder: Decoder,
        fit: Fit,
        flip: bool,
        keep: float,
        seed: int,
        multiple: int = 1,
    ) -> None:
        self.sets, self.classes, self.size, self.decoder = list(sets), list(labels), size, decoder
        self.fit, self.flip, self.seed, self.keep, self.multiple = fit, flip, seed, keep, multiple
        self.places = [(number, index) for number, part in enumerate(chosen) for index in part.tolist()]
        self._kept: dict[int, Pixels] = {}

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, keys: Sequence[Key]) -> ImageBatch | MixedImageBatch:
        """The batch of these images."""
        images = [to_tensor(self.draw(epoch, place)) for epoch, place in keys]
        places = [place for _, place in keys]
        labels, names = torch.tensor([self.label(place) for place in places]), [self.name(place) for place in places]
        if self.fit == "keep":
            return MixedImageBatch(images, labels, torch.tensor(places), names)
        return ImageBatch(torch.stack(images), labels, torch.tensor(places), names)

    def measure(self) -> list[tuple[int, int]]:
        """Height and width of each image as batches hold it, of which files' headers alone are read.

        Raises:
            DataError: if an image is damaged, or its shape cannot be kept.
        """
        if self.fit != "keep":
            return [(self.size, self.size)] * len(self)
        return [self._measure(place) for place in range(len(self))]

    def label(self, place: int) -> int:
        """Number of an image's class among those of all sources; -1: unknown."""
        number, index = self.places[place]
        label = self.sets[number].label(index)
        return self.classes[number][label] if label >= 0 else label

    def name(self, place: int) -> str:
        """Name of an image."""
        number, index = self.places[place]
        return self.sets[number].name(index)

    def draw(self, epoch: int | None, place: int) -> Pixels:
        """One image [h, w, C]."""
        generator = None if epoch is None else np.random.default_rng((self.seed, epoch, place))
        image = fit_image(self._decode(place), self.size, self.fit, self.name(place), generator, self.multiple)
        if self.flip and generator is not None and generator.random() < 0.5:
            image = image[:, ::-1]
        return image

    def batches(self, size: int, limit: int | None = None) -> Iterator[ImageBatch | MixedImageBatch]:
        """Images as they are, without anything drawn, in batches; at most `limit`, spread over the split."""
        count = len(self) if limit is None else min(limit, len(self))
        chosen = np.linspace(0, len(self), count, endpoint=False).astype(int).tolist()
        for start in range(0, count, size):
            yield self[[(None, place) for place in chosen[start : start + size]]]

    def _measure(self, place: int) -> tuple[int, int]:
        number, index = self.places[place]
        shape = measure_image(self.sets[number].header(index), self.name(place))
        return keep_shape(shape, self.size, self.multiple, self.name(place))

    def _decode(self, place: int) -> Pixels:
        if place in self._kept:
            return self._kept[place]
        number, index = self.places[place]
        image = self.decoder.decode(self.sets[number].read(index), self.name(place))
        if self.fit != "random_crop":
            image = fit_image(image, self.size, self.fit, self.name(place), None, self.multiple)
        if image.nbytes <= self.keep:
            self.keep -= image.nbytes
            self._kept[place] = image
        return image
