"""One view over several stores: split, filtered, read in whole batches.

Shape legend: n structures of all stores together, k of them chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from .batch import AtomBatch
from .collate import collate_raw
from .store import RawBatch, StructureStore
from .structure import AtomicStructure


class StructureView(Sequence[AtomicStructure]):
    """Structures of several stores at chosen places, made as they are asked for.

    Args:
        stores: counted through one after another.
        places: [k] places in that count.
    """

    def __init__(self, stores: Sequence[StructureStore], places: NDArray[np.int64]) -> None:
        self.stores = list(stores)
        self.places = places
        self.starts = store_starts(stores)

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, item: int) -> AtomicStructure: ...
    @overload
    def __getitem__(self, item: slice) -> StructureView: ...
    def __getitem__(self, item: int | slice) -> AtomicStructure | StructureView:
        if isinstance(item, slice):
            return StructureView(self.stores, self.places[item])
        place = int(self.places[item])
        store = int(np.searchsorted(self.starts, place, side="right")) - 1
        return self.stores[store][place - int(self.starts[store])]


class AtomDataset(Dataset[AtomBatch]):
    """Maps a list of positions to one `AtomBatch`, reading whole batches from the memory maps.

    Args:
        stores: counted through one after another.
        places: [k] places in that count; position i of this data set is ``places[i]``.
        properties: labels of the batches.
    """

    def __init__(self, stores: Sequence[StructureStore], places: NDArray[np.int64], properties: Sequence[str]) -> None:
        self.stores = list(stores)
        self.places = places
        self.properties = tuple(properties)
        self.starts = store_starts(stores)
        self.lengths = np.concatenate([store.num_atoms for store in stores])[places]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, positions: list[int]) -> AtomBatch:
        # In order of place: the memory maps are read forwards, and a batch does not depend on the order of positions.
        places = np.sort(self.places[np.asarray(positions, dtype=np.int64)])
        owners = np.searchsorted(self.starts, places, side="right") - 1
        parts = [
            self.stores[owner].read(places[owners == owner] - self.starts[owner], self.properties)
            for owner in np.unique(owners).tolist()
        ]
        return collate_raw(_join(parts, places))


def store_starts(stores: Sequence[StructureStore]) -> NDArray[np.int64]:
    """Place of each store's first structure in the count through all of them."""
    return np.cumsum([0, *(len(store) for store in stores)])[:-1].astype(np.int64)


def _join(parts: list[RawBatch], places: NDArray[np.int64]) -> RawBatch:
    return RawBatch(
        np.concatenate([part.numbers for part in parts]),
        np.concatenate([part.positions for part in parts]),
        np.concatenate([part.counts for part in parts]),
        np.concatenate([part.cells for part in parts]),
        np.concatenate([part.space_group for part in parts]),
        {name: np.concatenate([part.labels[name] for part in parts]) for name in parts[0].labels},
        places,
    )
