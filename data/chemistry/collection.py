"""Structures of several sources together: which split each is in, what labels they have, what they are like.

Shape legend: n structures of all sources together.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polydit.data.splitting import check_splits
from polydit.platform.errors import ConfigurationError, DataError

from .dataset import StructureView, store_starts
from .drawn import LabelledStructures
from .references import list_elements
from .sources import Source
from .splitting import WHOLE, assign_splits, check_part, choose
from .store import SPLITS, StructureStore
from .structure import AtomicStructure


class StructureCollection:
    """Structures of several sources, counted through one after another; see `ChemistryDataModule` for the arguments."""

    def __init__(
        self,
        sources: Sequence[Source],
        cache_dir: str | Path,
        splits: Literal["stored"] | list[float] = "stored",
        max_atoms: int | None = None,
        limit: int | None = None,
        properties: list[str] | None = None,
        labelled: list[str] | None = None,
        train_part: list[float] | None = None,
        part_seed: int = 0,
        seed: int = 0,
    ) -> None:
        check_splits(splits)
        check_part(train_part or WHOLE)
        self.sources = list(sources)
        self.cache_dir = Path(cache_dir)
        self.splits = splits
        self.max_atoms = max_atoms
        self.limit = limit
        self.wanted_properties = properties
        self.labelled = labelled or []
        self.train_part = tuple(train_part or WHOLE)
        self.part_seed = part_seed
        self.seed = seed

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

    def labelled_structures(self) -> LabelledStructures:
        """Sizes, labels and formulas of the training split, for requests to be drawn from."""
        places, structures = self.places("train"), self.structures("train")
        return LabelledStructures(
            self._joined("num_atoms")[places], self._joined("periodic")[places],
            {name: self._label(name)[places] for name in self.properties},
            lambda index: list_elements(structures[index]),
        )

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

    def _owned_by(self, name: str) -> NDArray[np.bool_]:
        """[n] True for structures of the sources of that name."""
        known = sorted({source.name for source in self.sources})
        if name not in known:
            raise ConfigurationError(f"no source is called {name!r}: those of this data module are {', '.join(known)}")
        lengths = [len(store) for store in self.stores]
        return np.repeat([source.name == name for source in self.sources], lengths)

    def _joined(self, attribute: str) -> NDArray[Any]:
        return np.concatenate([getattr(store, attribute) for store in self.stores])
