"""Splits of data, and what data modules share that divide items of several sources into them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence, Sized
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from polydit.platform.errors import ConfigurationError, DataError
from polydit.platform.requests import Request

from .batching import BucketBatchSampler, ResumableDataLoader

SPLITS = ("train", "val", "test")

Splits = Literal["stored"] | list[float]


def check_splits(splits: str | Sequence[float]) -> None:
    """Refuse anything but "stored" and three fractions that sum to 1.

    Raises:
        ConfigurationError: naming what was given.
    """
    if isinstance(splits, str):
        if splits != "stored":
            raise ConfigurationError(f"splits is 'stored' or three fractions such as [0.8, 0.1, 0.1], not {splits!r}")
    elif len(splits) != 3 or min(splits) < 0 or abs(sum(splits) - 1.0) > 1e-6:
        raise ConfigurationError(
            f"splits {list(splits)} must be three fractions for train, val and test, none negative, that sum to 1; "
            f"these sum to {sum(splits):g}"
        )


class SplitDataModule(LightningDataModule):
    """Items of several sources in three splits, and requests; what an item is, a domain says.

    A domain sets the attributes, and gives `requests`, `opened`, `divide`, `open_split`, `describe_empty` and
    `nothing_asked`.

    Attributes:
        batch_size: items in a batch.
        limit: at most this many items of each source in each split, drawn by seed; None: all.
        request_batch_size: requests handed over at a time.
        seed: of splits and shuffling.
        num_workers: processes that read; 0: the training process.
    """

    batch_size: int
    limit: int | None
    request_batch_size: int
    seed: int
    num_workers: int
    nothing_asked: str
    """What to say where `predict` finds no request."""
    _request_entries: list[dict[str, Any]]

    @property
    @abstractmethod
    def requests(self) -> list[Request]:
        """The requests, checked."""

    @property
    @abstractmethod
    def opened(self) -> Sequence[Any]:
        """The items of each source."""

    @abstractmethod
    def divide(self, items: Any) -> dict[str, NDArray[np.int64]]:
        """Split -> places of one source's items."""

    @abstractmethod
    def open_split(self, split: str) -> Dataset[Any]:
        """The items of a split."""

    @abstractmethod
    def describe_empty(self) -> str:
        """How much there is, and what to do where a split got nothing of it."""

    def setup(self, stage: str) -> None:
        """Open the sources and check that the split has items, except for `predict`.

        Raises:
            DataError: if it has none, unless there are requests to test on.
        """
        if stage == "predict":
            return
        name = {"fit": "train", "validate": "val"}.get(stage, "test")
        if not any(map(len, self.chosen[name])) and not (name == "test" and self._request_entries):
            raise DataError(f"the {name} split is empty: {self.describe_empty()}")

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled batches of the training split; resumes in mid-epoch."""
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> DataLoader[Any] | list[DataLoader[Any]]:
        """Batches of the validation split in a fixed order; no loader, so no validation, if it is empty."""
        return self._loader("val", shuffle=False) if any(map(len, self.chosen["val"])) else []

    def test_dataloader(self) -> list[DataLoader[Any]]:
        """Batches of the test split if there is one, and after them the requests if there are any."""
        loaders = [self._loader("test", shuffle=False)] if any(map(len, self.chosen["test"])) else []
        return [*loaders, self.predict_dataloader()] if self._request_entries else loaders

    def predict_dataloader(self) -> DataLoader[Any]:
        """Lists of `Request`.

        Raises:
            ConfigurationError: if there are none.
        """
        if not self._request_entries:
            raise ConfigurationError(self.nothing_asked)
        return DataLoader(self.requests, batch_size=self.request_batch_size, collate_fn=list)  # type: ignore[arg-type]

    @cached_property
    def chosen(self) -> dict[str, list[NDArray[np.int64]]]:
        """Split -> for each source, places of its items."""
        divided = [self.divide(items) for items in self.opened]
        if self.limit is not None:
            generator = np.random.default_rng(self.seed)
            divided = [
                {name: np.sort(generator.permutation(places)[: self.limit]) for name, places in parts.items()}
                for parts in divided
            ]
        return {name: [parts[name] for parts in divided] for name in SPLITS}

    def make_sampler(self, items: Sized, shuffle: bool) -> BucketBatchSampler:
        """Batches of places among the items of a split."""
        return BucketBatchSampler(**self.sampling(items, shuffle))

    def sampling(self, items: Sized, shuffle: bool) -> dict[str, Any]:
        """Options of a sampler over items of one length, each process its share."""
        trainer = self.trainer
        return {
            "lengths": np.ones(len(items), dtype=np.int64), "batch_size": self.batch_size, "shuffle": shuffle,
            "bucket": False, "seed": self.seed, "num_replicas": 1 if trainer is None else trainer.world_size,
            "rank": 0 if trainer is None else trainer.global_rank,
        }

    def _loader(self, split: str, shuffle: bool) -> DataLoader[Any]:
        dataset: Any = self.open_split(split)
        return ResumableDataLoader(
            dataset, sampler=self.make_sampler(dataset, shuffle), batch_size=None, num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0, pin_memory=torch.cuda.is_available(),
            multiprocessing_context="spawn" if self.num_workers else None,
        )
