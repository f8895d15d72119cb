"""One cached, memory-mapped binary form for every set of molecules and crystals.

Shape legend: n structures, a atoms of all structures together, L labels.

A store is a folder of plain arrays that the operating system pages in as they are read:

    meta.json          schema, counts, elements, labels with units, digest of the content, bad records
    numbers.npy        [a] uint8, atomic numbers
    positions.npy      [a, 3] float64, Cartesian, Å
    offsets.npy        [n + 1] int64, structure i owns atoms offsets[i]:offsets[i + 1]
    cells.npy          [n, 3, 3] float64 lattice vectors as rows, Å; NaN for molecules
    space_group.npy    [n] int16, international number; 0 unknown or molecule
    split.npy          [n] int8, 0 train, 1 val, 2 test, -1 unassigned
    labels.npy         [n, L] float64, NaN where missing
    names.npy          UTF-8 bytes of all names, cut by name_offsets.npy [n + 1] int64
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from polydit.platform.errors import DataError

from .structure import AtomicStructure

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SCHEMA = "polydit-structures-1"
"""Name and version of the layout above; a store of another schema is not opened."""

SPLITS = {"train": 0, "val": 1, "test": 2}
"""Stored split codes; -1 is unassigned."""


@dataclass(frozen=True)
class BadRecord:
    """A record that did not enter a store.

    Args:
        name: where it stands in its source (file, line, identifier).
        reason: what is wrong with it: value, limit, fix.
    """

    name: str
    reason: str


@dataclass(frozen=True)
class RawBatch:
    """Structures as flat arrays, straight from the memory maps.

    Args:
        numbers: [a] atomic numbers of all structures, one after another.
        positions: [a, 3] float64, Å.
        counts: [n] int64, atoms of each structure.
        cells: [n, 3, 3] float64, Å; NaN for molecules.
        space_group: [n] international number, 0 unknown.
        labels: name -> [n] float64, NaN where missing.
        index: [n] int64, positions in the store.
    """

    numbers: NDArray[Any]
    positions: NDArray[np.float64]
    counts: NDArray[np.int64]
    cells: NDArray[np.float64]
    space_group: NDArray[Any]
    labels: dict[str, NDArray[np.float64]]
    index: NDArray[np.int64]


class StructureStore:
    """Read-only sequence of structures in the layout of this module; use `open`, and `StoreWriter` to make one.

    Pickling a store carries its path alone, so data-loader workers map the files themselves.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.meta = _read_meta(self.path)
        self.numbers = self._map("numbers")
        self.positions = self._map("positions")
        self.offsets: NDArray[np.int64] = self._map("offsets")
        self.cells = self._map("cells")
        self.space_group = self._map("space_group")
        self.split = self._map("split")
        self.labels = self._map("labels")
        self._names = self._map("names")
        self._name_offsets = self._map("name_offsets")
        self.label_names: list[str] = list(self.meta["labels"])
        self._check_sizes()

    @classmethod
    def open(cls, path: str | Path) -> StructureStore:
        """Open the store in folder `path`.

        Raises:
            DataError: if the folder holds no ``meta.json``.
            DataError: if the schema is another one or the arrays contradict the counts.
        """
        return cls(path)

    @staticmethod
    def write(structures: Iterable[AtomicStructure], path: str | Path, on_error: str = "raise") -> StructureStore:
        """Write `structures` to a new store at `path`, streaming, and open it."""
        from .writer import StoreWriter

        with StoreWriter(path, on_error=on_error) as writer:
            for structure in structures:
                writer.add(structure)
        return StructureStore(path)

    def __reduce__(self) -> tuple[type[StructureStore], tuple[Path]]:
        return StructureStore, (self.path,)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> AtomicStructure:
        size = len(self)
        if not -size <= index < size:
            raise IndexError(f"structure {index} of a store of {size}")
        index = index % size
        atoms = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        cell = np.array(self.cells[index])
        values = zip(self.label_names, self.labels[index].tolist(), strict=True)
        return AtomicStructure(
            self.numbers[atoms].astype(np.int64),
            np.array(self.positions[atoms]),
            None if np.isnan(cell).any() else cell,
            {name: value for name, value in values if not np.isnan(value)},
            self.name(index),
        )

    def __iter__(self) -> Iterator[AtomicStructure]:
        return (self[i] for i in range(len(self)))

    @property
    def num_atoms(self) -> NDArray[np.int64]:
        """[n] atoms of each structure."""
        return np.diff(self.offsets)

    @property
    def periodic(self) -> NDArray[np.bool_]:
        """[n] True for crystals."""
        return ~np.isnan(self.cells[:, 0, 0])

    @property
    def units(self) -> dict[str, str]:
        """Unit of each label, "" where its source states none."""
        return dict(self.meta["labels"])

    @property
    def bad_records(self) -> list[BadRecord]:
        """What was left out when the store was made."""
        return [BadRecord(name, reason) for name, reason in self.meta["bad_records"]]

    def name(self, index: int) -> str:
        """Identifier of structure `index` in its source."""
        return bytes(self._names[self._name_offsets[index] : self._name_offsets[index + 1]]).decode()

    def label(self, name: str) -> NDArray[np.float64]:
        """[n] values of a label; all NaN if the store does not have it."""
        if name not in self.label_names:
            return np.full(len(self), np.nan)
        values: NDArray[np.float64] = self.labels[:, self.label_names.index(name)]
        return values

    def read(self, index: NDArray[np.int64], labels: Iterable[str] = ()) -> RawBatch:
        """Flat arrays of the structures at `index` [n], read from the memory maps without making objects."""
        counts = self.offsets[index + 1] - self.offsets[index]
        ends = np.cumsum(counts)
        atoms = np.repeat(self.offsets[index] - (ends - counts), counts) + np.arange(counts.sum())
        return RawBatch(
            self.numbers[atoms],
            self.positions[atoms],
            counts,
            self.cells[index],
            self.space_group[index],
            {name: self.label(name)[index] for name in labels},
            index,
        )

    def _map(self, name: str) -> NDArray[Any]:
        path = self.path / f"{name}.npy"
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            shape = (np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0)(
                file
            )[0]
        # An array without elements cannot be memory-mapped; a plain view indexes faster than np.memmap.
        mode: Literal["r"] | None = "r" if 0 not in shape else None
        array: NDArray[Any] = np.load(path, mmap_mode=mode, allow_pickle=False)
        return array.view(np.ndarray)

    def _check_sizes(self) -> None:
        structures, atoms = self.meta["count"], self.meta["num_atoms"]
        found = (len(self), len(self.cells), len(self.labels), len(self.split), len(self.numbers), self.offsets[-1])
        if found != (structures, structures, structures, structures, atoms, atoms):
            raise DataError(
                f"{self.path}: arrays hold {found} entries but meta.json counts {structures} structures and {atoms} "
                "atoms; the folder is damaged: delete it and it will be built again"
            )


def _read_meta(path: Path) -> dict[str, Any]:
    file = path / "meta.json"
    if not file.is_file():
        raise DataError(f"{path} is not a structure store: it holds no meta.json; make one with StructureStore.write")
    meta: dict[str, Any] = json.loads(file.read_text())
    if meta.get("schema") != SCHEMA:
        raise DataError(f"{path}: schema {meta.get('schema')!r}, but this version reads {SCHEMA!r}; delete the folder, "
                         "and it will be built again")
    return meta
