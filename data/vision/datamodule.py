"""The data module of images: sources to batches, and requests."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from polydit.data.batching import EpochBatchSampler
from polydit.data.splitting import SplitDataModule, Splits, check_splits
from polydit.platform.errors import ConfigurationError
from polydit.platform.requests import Request

from .dataset import ImageDataset
from .decoding import Decoder
from .fitting import Fit, check_fit
from .pictures import ImageSet, ImageSource
from .splitting import divide_images
from .wishes import ALL, ImageWish, expand_entries


class ImageDataModule(SplitDataModule):
    """Images, square or of sizes of their own, with or without classes, from any number of sources.

    Classes of several sources are one where their names are.

    Args:
        sources: where images come from.
        size: side in pixels of the square images that batches hold; with ``fit: keep`` images have a height and a width
            of their own, and at most as many pixels as such a square.
        batch_size: images in a batch.
        splits: three fractions for train, val and test, by which every class is divided by seed; or "stored" for those
            that the sources list.
        limit: at most this many images of each source in each split, drawn by seed, for quick runs.
        decoder: channels, and what is done with transparency and 16 bits; None: colour, over white, scaled.
        fit: what is done with images of another size: "crop", "random_crop", "resize", "refuse" or "keep", see
            `polydit.data.vision.fitting.fit_image`. With "keep" images of like area share a batch, so that little of it
            is padding.
        multiple: what heights and widths are multiples of with ``fit: keep``: the patch, times an autoencoder's factor.
        flip: whether training mirrors half of its images left to right. Not for digits or letters.
        requests: images that `predict`, and `test` after the held-out data, ask for: ``class`` (number from 0, name, or
            "all" for each), ``count``, ``seed``, ``size``.
        request_batch_size: requests handed over at a time.
        request_seed: seed of the first image; the others count up.
        cache_limit_mb: decoded images that are kept in memory.
        seed: of splits, shuffling, crops and flips.
        num_workers: processes that decode; 0: the training process.

    Raises:
        ConfigurationError: if arguments contradict each other.
    """

    def __init__(
        self,
        sources: list[ImageSource],
        size: int = 256,
        batch_size: int = 64,
        splits: Splits = [0.8, 0.1, 0.1],  # noqa: B006  # jsonargparse shows it; never changed
        limit: int | None = None,
        decoder: Decoder | None = None,
        fit: Fit = "crop",
        flip: bool = False,
        requests: list[dict[str, Any]] | None = None,
        request_batch_size: int = 256,
        request_seed: int = 0,
        cache_limit_mb: float = 1024,
        seed: int = 0,
        num_workers: int = 0,
        multiple: int = 1,
    ) -> None:
        super().__init__()
        if not sources and not requests:
            raise ConfigurationError("sources is empty: name one, such as polydit.data.vision.builtin.Digits")
        if batch_size < 1 or request_batch_size < 1:
            raise ConfigurationError(
                f"batch_size {batch_size} and request_batch_size {request_batch_size} must be at least 1"
            )
        if limit is not None and limit < 1:
            raise ConfigurationError(f"limit {limit} must be at least 1; null takes all images")
        check_fit(fit, size, multiple)
        check_splits(splits)
        self.sources, self.size, self.batch_size, self.splits, self.limit = sources, size, batch_size, splits, limit
        self.decoder, self.fit, self.flip, self.multiple = decoder or Decoder(), fit, flip, multiple
        self._request_entries, self._request_seed = requests or [], request_seed
        self.request_batch_size = request_batch_size
        self.cache_limit_mb, self.seed, self.num_workers = cache_limit_mb, seed, num_workers

    nothing_asked = "nothing to draw: add data.requests, such as [{class: all, count: 10}]"

    @cached_property
    def requests(self) -> list[Request]:
        """The requests, one for each image, checked as far as possible without a model."""
        wants_all = any(entry.get("class") == ALL for entry in self._request_entries)
        requests = expand_entries(
            self._request_entries, self._request_seed, len(self.classes) if wants_all and self.sources else 0
        )
        if self.sources:
            for request in requests:
                ImageWish.parse(request.wishes).resolve(self.classes)
        return requests

    def describe_empty(self) -> str:
        """How much there is, and what to do where a split got nothing of it."""
        count = sum(len(images) for images in self.opened)
        return f"{count} images in all, splits={self.splits!r}; give more of them, or a larger fraction"

    @cached_property
    def opened(self) -> list[ImageSet]:
        """The opened images of each source."""
        return [source.open() for source in self.sources]

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Names of all classes: those of the first source in its order, then new ones of the others."""
        return tuple(dict.fromkeys(name for images in self.opened for name in images.classes))

    def divide(self, items: Any) -> dict[str, NDArray[np.int64]]:
        """Split -> places of one source's images."""
        return divide_images(items, self.splits, self.seed)

    def open_split(self, split: str) -> Dataset[Any]:
        """The images of a split."""
        return self.images(split)

    def images(self, split: str) -> ImageDataset:
        """The images of a split."""
        numbers: list[Sequence[int]] = [
            [self.classes.index(name) for name in images.classes] for images in self.opened
        ]
        return ImageDataset(
            self.opened, self.chosen[split], numbers, self.size, self.decoder, self.fit, self.flip,
            self.cache_limit_mb * 1e6, self.seed, self.multiple,
        )

    def make_sampler(self, items: Any, shuffle: bool) -> EpochBatchSampler:
        """Batches that say the epoch too, where training draws something for each of the images."""
        options = self.sampling(items, shuffle)
        if self.fit == "keep":
            tokens = [height * width // self.multiple**2 for height, width in items.measure()]
            options |= {"lengths": np.array(tokens, dtype=np.int64), "bucket": True}
        sampler = EpochBatchSampler(**options)
        sampler.draws = shuffle
        return sampler
