"""The data module of molecules and crystals: sources to batches, requests, and statistics of the training split.

Shape legend: B structures of a batch, n structures of all sources together.
"""

from __future__ import annotations

import difflib
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import LightningDataModule
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor
from torch.utils.data import DataLoader

from polydit.data.batching import BucketBatchSampler, ResumableDataLoader
from polydit.platform.errors import ConfigurationError, DataError
from polydit.platform.requests import Request, expand_requests

from .dataset import AtomDataset, StructureView, store_starts
from .sources import Source
from .splitting import assign_splits, check_splits, choose
from .store import SPLITS, StructureStore
from .wishes import Wishes

DEFAULT_BATCH_SIZE = 256
"""Structures in a batch (ADiT), where neither a batch size nor a token budget is given."""


class ChemistryDataModule(LightningDataModule):
    """Molecules and crystals from any number of sources, trained on together.

    Args:
        sources: where structures come from; their stores are counted through one after another.
        cache_dir: folder of the binary stores, made on first use.
        batch_size: structures in a batch; 256 if `max_tokens` is not given either.
        max_tokens: instead of `batch_size`: most atoms, padding included, in a batch.
        bucket: put structures of like size into a batch, so that little is padding (about 5 % instead of 40 % on QM9
            with Materials Project crystals).
        splits: "stored" takes the split that comes with the data, and 80/10/10 by seed where none does; three fractions
            divide everything anew by seed.
        max_atoms: larger structures are left out.
        limit: at most this many structures of each source in each split, for quick runs.
        properties: labels that batches carry; None: every label of any source.
        requests: what `predict` and `test` sample: wishes in the words of the domain, and ``count``, default 1.
        request_batch_size: requests handed over at a time.
        seed: of splits, shuffling and requests.
        num_workers: processes that read batches; 0 reads in the training process, which is fast enough for most runs.

    Raises:
        ConfigurationError: if arguments contradict each other or a request is malformed.
    """

    def __init__(
        self,
        sources: list[Source],
        cache_dir: str = "cache",
        batch_size: int | None = None,
        max_tokens: int | None = None,
        bucket: bool = True,
        splits: Literal["stored"] | list[float] = "stored",
        max_atoms: int | None = None,
        limit: int | None = None,
        properties: list[str] | None = None,
        requests: list[dict[str, Any]] | None = None,
        request_batch_size: int = 1024,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        if not sources:
            raise ConfigurationError("sources is empty: name one, such as polydit.data.chemistry.builtin.BuiltinSource")
        if batch_size is not None and max_tokens is not None:
            raise ConfigurationError(f"give batch_size ({batch_size}) or max_tokens ({max_tokens}), not both")
        check_splits(splits)
        self.sources = sources
        self.cache_dir = Path(cache_dir)
        self.batch_size = DEFAULT_BATCH_SIZE if batch_size is None and max_tokens is None else batch_size
        self.max_tokens = max_tokens
        self.bucket = bucket
        self.splits = splits
        self.max_atoms = max_atoms
        self.limit = limit
        self.wanted_properties = properties
        for entry in requests or []:
            Wishes.parse({key: value for key, value in entry.items() if key != "count"})
        self.requests: list[Request] = expand_requests(requests or [], seed)
        self.request_batch_size = request_batch_size
        self.seed = seed
        self.num_workers = num_workers

    def prepare_data(self) -> None:
        """Build the stores that the cache lacks; `predict` alone needs none."""
        if self.trainer is None or self.trainer.state.fn != TrainerFn.PREDICTING:
            for source in self.sources:
                source.load(self.cache_dir)

    def setup(self, stage: str) -> None:
        """Open the stores and check the splits, except for `predict`."""
        if stage == "predict":
            return
        for name in ("train",) if stage == "fit" else ("val",) if stage == "validate" else ("test",):
            if not len(self.places(name)):
                total = sum(len(store) for store in self.stores)
                raise DataError(
                    f"the {name} split is empty: {total} structures in all, splits={self.splits!r}, "
                    f"max_atoms={self.max_atoms}; give fractions such as splits: [0.8, 0.1, 0.1]"
                )

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled batches of the training split, `AtomBatch` each; resumes in mid-epoch."""
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> DataLoader[Any] | list[DataLoader[Any]]:
        """Batches of the validation split in a fixed order; no loader, so no validation, if it is empty."""
        return self._loader("val", shuffle=False) if len(self.places("val")) else []

    def test_dataloader(self) -> list[DataLoader[Any]]:
        """Batches of the test split, and after them the requests if there are any."""
        loaders = [self._loader("test", shuffle=False)]
        return [*loaders, self.predict_dataloader()] if self.requests else loaders

    def predict_dataloader(self) -> DataLoader[Any]:
        """Lists of `Request`."""
        if not self.requests:
            raise ConfigurationError("nothing to sample: add data.requests, such as [{domain: molecule, count: 16}]")
        return DataLoader(self.requests, batch_size=self.request_batch_size, collate_fn=list)  # type: ignore[arg-type]

    @cached_property
    def stores(self) -> list[StructureStore]:
        """The opened store of each source."""
        return [source.load(self.cache_dir) for source in self.sources]

    @cached_property
    def properties(self) -> list[str]:
        """Labels that batches carry.

        Raises:
            DataError: if a wanted one is in no source.
        """
        known = sorted({name for store in self.stores for name in store.label_names})
        for name in self.wanted_properties or []:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known) or 'none'}"
                raise DataError(f"no source has the property {name!r}: {hint}")
        return known if self.wanted_properties is None else self.wanted_properties

    def places(self, split: str) -> NDArray[np.int64]:
        """Places of a split's structures in the count through all stores, ascending."""
        if split not in SPLITS:
            raise ValueError(f"split is one of {', '.join(SPLITS)}, not {split!r}")
        return self._splits[split]

    def structures(self, split: str, domain: str | None = None, limit: int | None = None) -> StructureView:
        """Structures of a split, each made when it is asked for.

        Args:
            split: train, val or test.
            domain: "molecule" or "crystal" alone; None: both.
            limit: at most this many, drawn by the seed of the data module; None: all.
        """
        if domain not in (None, "molecule", "crystal"):
            raise ValueError(f"domain is 'molecule', 'crystal' or None, not {domain!r}")
        places = self.places(split)
        if domain is not None:
            places = places[self._joined("periodic")[places] == (domain == "crystal")]
        return StructureView(self.stores, choose(places, limit, self.seed))

    def count_histogram(self) -> dict[str, Tensor]:
        """Domain -> [largest + 1] long, training structures by number of atoms; a domain without any is left out."""
        places = self.places("train")
        counts, periodic = self._joined("num_atoms")[places], self._joined("periodic")[places]
        histograms = {"molecule": np.bincount(counts[~periodic]), "crystal": np.bincount(counts[periodic])}
        return {domain: torch.from_numpy(values).long() for domain, values in histograms.items() if len(values)}

    def property_statistics(self) -> dict[str, tuple[float, float, int]]:
        """Property -> mean, standard deviation and count over the training structures that have it."""
        places = self.places("train")
        statistics = {}
        for name in self.properties:
            values = np.concatenate([store.label(name) for store in self.stores])[places]
            values = values[~np.isnan(values)]
            if len(values):
                statistics[name] = (float(values.mean()), float(values.std()), len(values))
        return statistics

    def elements(self) -> list[int]:
        """Atomic numbers in the training split, ascending."""
        found: set[int] = set()
        starts = store_starts(self.stores)
        owners = np.searchsorted(starts, self.places("train"), side="right") - 1
        for owner, store in enumerate(self.stores):
            numbers = store.read(self.places("train")[owners == owner] - starts[owner]).numbers
            found.update(np.unique(numbers).tolist())
        return sorted(found)

    @cached_property
    def _splits(self) -> dict[str, NDArray[np.int64]]:
        parts = [assign_splits(store, self.splits, self.seed, self.max_atoms, self.limit) for store in self.stores]
        starts = store_starts(self.stores)
        return {
            name: np.concatenate([part[name] + start for part, start in zip(parts, starts, strict=True)])
            for name in SPLITS
        }

    def _joined(self, attribute: str) -> NDArray[Any]:
        return np.concatenate([getattr(store, attribute) for store in self.stores])

    def _loader(self, split: str, shuffle: bool) -> DataLoader[Any]:
        dataset = AtomDataset(self.stores, self.places(split), self.properties)
        if self.max_tokens is not None and dataset.lengths.max() > self.max_tokens:
            raise ConfigurationError(
                f"a structure of the {split} split has {dataset.lengths.max()} atoms, more than max_tokens "
                f"{self.max_tokens}: raise it, or leave such structures out with max_atoms"
            )
        trainer = self.trainer
        sampler = BucketBatchSampler(
            dataset.lengths, self.batch_size, self.max_tokens, shuffle, self.bucket, seed=self.seed,
            num_replicas=1 if trainer is None else trainer.world_size,
            rank=0 if trainer is None else trainer.global_rank,
        )
        return ResumableDataLoader(
            dataset, sampler=sampler, batch_size=None, num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0, pin_memory=torch.cuda.is_available(),
            multiprocessing_context="spawn" if self.num_workers else None,
        )
