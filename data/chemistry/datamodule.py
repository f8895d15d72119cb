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
from .drawn_properties import LabelledStructures, drawn_properties
from .references import check_entry, expand_entry
from .sources import Source
from .splitting import WHOLE, assign_splits, check_part, check_splits, choose
from .store import SPLITS, StructureStore
from .structure import AtomicStructure

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
        labelled: structures that lack one of these labels are left out of every split.
        train_part: two shares between which this run's part of the training split lies: [0, 0.5] is its first half in a
            random order. Parts that do not overlap have no structure in common, whatever the other options.
        part_seed: of the order that parts are cut from; the same in runs whose parts are to be disjoint.
        requests: what `predict` and `test` sample: wishes in the words of the domain, and ``count``, default 1. A
            property whose value is ``drawn`` is drawn from the training split, with the number of atoms. An entry with
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
        super().__init__()
        if not sources:
            raise ConfigurationError("sources is empty: name one, such as polydit.data.chemistry.builtin.BuiltinSource")
        if batch_size is not None and max_tokens is not None:
            raise ConfigurationError(f"give batch_size ({batch_size}) or max_tokens ({max_tokens}), not both")
        check_splits(splits)
        check_part(train_part or WHOLE)
        self.sources = sources
        self.cache_dir = Path(cache_dir)
        self.batch_size = DEFAULT_BATCH_SIZE if batch_size is None and max_tokens is None else batch_size
        self.max_tokens = max_tokens
        self.bucket = bucket
        self.splits = splits
        self.max_atoms = max_atoms
        self.limit = limit
        self.wanted_properties = properties
        self.labelled = labelled or []
        self.train_part = tuple(train_part or WHOLE)
        self.part_seed = part_seed
        for entry in requests or []:
            check_entry(entry)
        self.request_entries = list(requests or [])
        self.request_batch_size = request_batch_size
        self.seed = seed
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
        """The requests, with numbers in place of what is to be drawn; only then is the training split read."""
        if not any(drawn_properties(request.wishes) for request in self.requests):
            return self.requests
        places = self.places("train")
        structures = LabelledStructures(
            self._joined("num_atoms")[places], self._joined("periodic")[places],
            {name: self._label(name)[places] for name in self.properties},
        )
        return [structures.draw(request) for request in self.requests]

    @cached_property
    def requests(self) -> list[Request]:
        """What `predict` samples; reads the data only where requests are made from structures."""
        entries = [made for entry in self.request_entries for made in self._expand(entry)]
        return expand_requests(entries, self.seed)

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
        for name in self.wanted_properties or []:
            self._check_label(name)
        return self._known_labels if self.wanted_properties is None else self.wanted_properties

    def places(self, split: str) -> NDArray[np.int64]:
        """Places of a split's structures in the count through all stores, ascending."""
        if split not in SPLITS:
            raise ValueError(f"split is one of {', '.join(SPLITS)}, not {split!r}")
        return self._splits[split]

    def structure(self, place: int) -> AtomicStructure:
        """The structure at a place in the count through all stores, such as a request's ``reference``."""
        return StructureView(self.stores, np.array([place]))[0]

    def structures(
        self, split: str, domain: str | None = None, limit: int | None = None, source: str | None = None
    ) -> StructureView:
        """Structures of a split, each made when it is asked for.

        Args:
            split: train, val or test.
            domain: "molecule" or "crystal" alone; None: both.
            limit: at most this many, drawn by the seed of the data module; None: all.
            source: those of the sources of this name alone, such as "cdvae-csv"; None: of all.
        """
        if domain not in (None, "molecule", "crystal"):
            raise ValueError(f"domain is 'molecule', 'crystal' or None, not {domain!r}")
        places = self.places(split)
        if domain is not None:
            places = places[self._joined("periodic")[places] == (domain == "crystal")]
        if source is not None:
            places = places[self._owned_by(source)[places]]
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
            values = self._label(name)[places]
            values = values[~np.isnan(values)]
            if len(values):
                statistics[name] = (float(values.mean()), float(values.std()), len(values))
        return statistics

    def property_unit(self, name: str) -> str:
        """Unit of a property, "" where no source states one.

        Raises:
            DataError: if sources give it in different units.
        """
        units = sorted({store.units[name] for store in self.stores if name in store.units} - {""})
        if len(units) > 1:
            raise DataError(
                f"{name} comes in {' and '.join(units)} from different sources: convert one of them, or use one source"
            )
        return units[0] if units else ""

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
        for name in self.labelled:
            self._check_label(name)
        parts = [
            assign_splits(
                store, self.splits, self.seed, self.max_atoms, self.limit, self.labelled, self.train_part,
                self.part_seed,
            )
            for store in self.stores
        ]
        starts = store_starts(self.stores)
        return {
            name: np.concatenate([part[name] + start for part, start in zip(parts, starts, strict=True)])
            for name in SPLITS
        }

    @property
    def _known_labels(self) -> list[str]:
        return sorted({name for store in self.stores for name in store.label_names})

    def _check_label(self, name: str) -> None:
        known = self._known_labels
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known) or 'none'}"
            raise DataError(f"no source has the property {name!r}: {hint}")

    def _label(self, name: str) -> NDArray[np.float64]:
        return np.concatenate([store.label(name) for store in self.stores])

    def _expand(self, entry: dict[str, Any]) -> list[dict[str, Any]]:
        if "elements_of" not in entry:
            return [entry]
        split, domain, source = entry["elements_of"], entry.get("domain"), entry.get("source")
        chosen = self.structures(split, domain, entry.get("limit"), source)
        if not len(chosen):
            kind = " ".join(filter(None, [domain or "structure", source and f"of the source {source}"]))
            raise DataError(f"the {split} split has no {kind} to make requests of: {entry}")
        return expand_entry(entry, chosen)

    def _owned_by(self, name: str) -> NDArray[np.bool_]:
        """[n] True for structures of the sources of that name."""
        known = sorted({source.name for source in self.sources})
        if name not in known:
            raise ConfigurationError(f"no source is called {name!r}: those of this data module are {', '.join(known)}")
        lengths = [len(store) for store in self.stores]
        return np.repeat([source.name == name for source in self.sources], lengths)

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
