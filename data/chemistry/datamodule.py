"""The data module of molecules and crystals: sources to batches and requests.

Shape legend: B structures of a batch.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Literal

import torch
from pytorch_lightning import LightningDataModule
from pytorch_lightning.trainer.states import TrainerFn
from torch.utils.data import DataLoader

from polydit.data.batching import BucketBatchSampler, ResumableDataLoader
from polydit.platform.errors import ConfigurationError, DataError
from polydit.platform.requests import Request, expand_requests

from .collection import StructureCollection
from .dataset import AtomDataset
from .drawn import is_drawn
from .references import check_entry, expand_entry
from .sources import Source

DEFAULT_BATCH_SIZE = 256
"""Structures in a batch (ADiT), where neither a batch size nor a token budget is given."""


class ChemistryDataModule(StructureCollection, LightningDataModule):
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
        labelled: structures that lack one of these labels are left out of every split.
        train_part: two shares between which this run's part of the training split lies: [0, 0.5] is its first half in a
            random order. Parts that do not overlap have no structure in common, whatever the other options.
        part_seed: of the order that parts are cut from; the same in runs whose parts are to be disjoint.
        requests: what `predict` and `test` sample: wishes in the words of the domain, and ``count``, default 1. A
            property whose value is ``drawn`` is drawn from the training split, with the number of atoms; ``elements:
            drawn`` is the formula of a training structure, at the size and in the domain asked for. An entry with
            ``elements_of: test`` asks ``count`` times for the elements of every structure of that split: of those of
            its ``domain`` and of the source named ``source``, where given, and of ``limit`` of them at most.
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
        labelled: list[str] | None = None,
        train_part: list[float] | None = None,
        part_seed: int = 0,
        requests: list[dict[str, Any]] | None = None,
        request_batch_size: int = 1024,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        LightningDataModule.__init__(self)
        if not sources:
            raise ConfigurationError("sources is empty: name one, such as polydit.data.chemistry.builtin.BuiltinSource")
        if batch_size is not None and max_tokens is not None:
            raise ConfigurationError(f"give batch_size ({batch_size}) or max_tokens ({max_tokens}), not both")
        StructureCollection.__init__(
            self, sources, cache_dir, splits, max_atoms, limit, properties, labelled, train_part, part_seed, seed
        )
        self.batch_size = DEFAULT_BATCH_SIZE if batch_size is None and max_tokens is None else batch_size
        self.max_tokens = max_tokens
        self.bucket = bucket
        for entry in requests or []:
            check_entry(entry)
        self.request_entries = list(requests or [])
        self.request_batch_size = request_batch_size
        self.num_workers = num_workers

    def prepare_data(self) -> None:
        """Build the stores that the cache lacks; `predict` needs none, unless requests are made from structures."""
        predicting = self.trainer is not None and self.trainer.state.fn == TrainerFn.PREDICTING
        if not predicting or any("elements_of" in entry for entry in self.request_entries):
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
                    f"max_atoms={self.max_atoms}, labelled={self.labelled}, train_part={list(self.train_part)}; "
                    "give fractions such as splits: [0.8, 0.1, 0.1], or leave out less"
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
        requests = self.drawn_requests()
        return DataLoader(requests, batch_size=self.request_batch_size, collate_fn=list)  # type: ignore[arg-type]

    def drawn_requests(self) -> list[Request]:
        """The requests, with values in place of what is to be drawn; only then is the training split read."""
        if not any(is_drawn(request.wishes) for request in self.requests):
            return self.requests
        structures = self.labelled_structures()
        return [structures.draw(request) for request in self.requests]

    @cached_property
    def requests(self) -> list[Request]:
        """What `predict` samples; reads the data only where requests are made from structures."""
        entries = [made for entry in self.request_entries for made in self._expand(entry)]
        return expand_requests(entries, self.seed)

    def _expand(self, entry: dict[str, Any]) -> list[dict[str, Any]]:
        if "elements_of" not in entry:
            return [entry]
        split, domain, source = entry["elements_of"], entry.get("domain"), entry.get("source")
        chosen = self.structures(split, domain, entry.get("limit"), source)
        if not len(chosen):
            kind = " ".join(filter(None, [domain or "structure", source and f"of the source {source}"]))
            raise DataError(f"the {split} split has no {kind} to make requests of: {entry}")
        return expand_entry(entry, chosen)

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
