"""Making a structure store: streamed to a temporary folder, checked record by record, renamed when whole.

Shape legend: n structures, a atoms of all structures together.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from polydit.platform.errors import DataError

from .records import record_faults
from .store import SCHEMA, BadRecord
from .structure import AtomicStructure

CHUNK = 4096
"""Structures kept in memory before they are checked and appended to the files."""

ARRAYS: dict[str, tuple[str, tuple[int, ...]]] = {
    "numbers": ("<u1", ()),
    "positions": ("<f8", (3,)),
    "offsets": ("<i8", ()),
    "cells": ("<f8", (3, 3)),
    "space_group": ("<i2", ()),
    "split": ("|i1", ()),
    "names": ("<u1", ()),
    "name_offsets": ("<i8", ()),
}
"""Name -> dtype and trailing shape of every streamed array; byte order is fixed so that digests agree everywhere."""


class BadRecordError(DataError):
    """A record that may not enter a store, when the user chose to refuse rather than to skip."""


class StoreWriter:
    """Context manager that writes a store to `path`; the folder appears whole or not at all.

    Args:
        path: folder to make. One that exists already is left alone (another process was faster).
        on_error: "skip" notes bad records in ``meta.json`` and goes on; "raise" stops at the first one.
        units: label -> unit, for the labels whose unit the source knows.
        source: JSON-able description of where the data came from, kept in ``meta.json``.
        minimum_distance: atoms closer than this, Å, make a record bad.

    Raises:
        BadRecordError: at the first bad record with ``on_error="raise"``.
        DataError: if no record was good.
    """

    def __init__(
        self,
        path: str | Path,
        on_error: str = "skip",
        units: dict[str, str] | None = None,
        source: dict[str, Any] | None = None,
        minimum_distance: float = 0.3,
    ) -> None:
        if on_error not in ("skip", "raise"):
            raise ValueError(f"on_error must be 'skip' or 'raise', not {on_error!r}")
        self.path = Path(path)
        self.on_error = on_error
        self.units = dict(units or {})
        self.source = dict(source or {})
        self.minimum_distance = minimum_distance
        self.bad_records: list[BadRecord] = []
        self._pending: list[tuple[AtomicStructure, int, int]] = []
        self._labels: dict[str, list[tuple[int, NDArray[np.float64]]]] = {}
        self._count = self._atoms = self._name_bytes = 0
        self._elements = np.zeros(256, dtype=np.int64)

    def __enter__(self) -> StoreWriter:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._folder = Path(tempfile.mkdtemp(prefix=f".{self.path.name}-", dir=self.path.parent))
        self._files = {name: _ArrayFile(self._folder / f"{name}.npy", *spec) for name, spec in ARRAYS.items()}
        self._files["offsets"].append(np.zeros(1))
        self._files["name_offsets"].append(np.zeros(1))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            for file in self._files.values():
                file.close()
            shutil.rmtree(self._folder, ignore_errors=True)

    def add(self, structure: AtomicStructure, space_group: int = 0, split: int = -1) -> None:
        """Append one structure; `space_group` 0 is unknown, `split` as in `polydit.data.chemistry.store.SPLITS`."""
        self._pending.append((structure, space_group, split))
        if len(self._pending) >= CHUNK:
            self._flush()

    def reject(self, name: str, reason: str) -> None:
        """Note a bad record, or stop there if the user chose ``on_error="raise"``."""
        if self.on_error == "raise":
            raise BadRecordError(f"{name}: {reason} (on_error='skip' leaves such records out)")
        self.bad_records.append(BadRecord(name, reason))

    def extend(
        self,
        numbers: NDArray[Any],
        positions: NDArray[np.float64],
        counts: NDArray[np.int64],
        cells: NDArray[np.float64],
        names: list[str],
        labels: dict[str, NDArray[np.float64]] | None = None,
        space_group: NDArray[Any] | None = None,
        split: NDArray[Any] | None = None,
    ) -> None:
        """Append many structures given as flat arrays, shaped as in `polydit.data.chemistry.store.RawBatch`.

        Args:
            numbers: [a] atomic numbers, one structure after another.
            positions: [a, 3], Å.
            counts: [n] atoms of each structure.
            cells: [n, 3, 3] lattice vectors as rows, Å; NaN for molecules.
            names: n identifiers.
            labels: name -> [n], NaN where missing.
            space_group: [n] international numbers; None: unknown.
            split: [n] split codes; None: unassigned.
        """
        counts = np.asarray(counts, dtype=np.int64)
        size = len(counts)
        space_group = np.zeros(size) if space_group is None else space_group
        split = np.full(size, -1) if split is None else split
        good = np.ones(size, dtype=bool)
        for i, reason in record_faults(numbers, positions, counts, cells, space_group, self.minimum_distance):
            self.reject(names[i], reason)
            good[i] = False
        keep = np.repeat(good, counts)
        self._append(
            numbers[keep], positions[keep], counts[good], cells[good],
            [name for name, ok in zip(names, good, strict=True) if ok],
            {name: np.asarray(values, dtype=np.float64)[good] for name, values in (labels or {}).items()},
            space_group[good], split[good],
        )

    def _flush(self) -> None:
        if not self._pending:
            return
        structures = [entry[0] for entry in self._pending]
        space_group, split = (np.array([entry[k] for entry in self._pending]) for k in (1, 2))
        self._pending = []
        missing = np.full((3, 3), np.nan)
        names = sorted({name for structure in structures for name in structure.labels})
        self.extend(
            np.concatenate([structure.numbers for structure in structures]),
            np.concatenate([structure.positions.reshape(-1, 3) for structure in structures]),
            np.array([len(structure.numbers) for structure in structures]),
            np.stack([missing if structure.cell is None else structure.cell for structure in structures]),
            [structure.name for structure in structures],
            {name: np.array([structure.labels.get(name, np.nan) for structure in structures]) for name in names},
            space_group, split,
        )

    def _append(
        self, numbers: NDArray[Any], positions: NDArray[np.float64], counts: NDArray[np.int64],
        cells: NDArray[np.float64], names: list[str], labels: dict[str, NDArray[np.float64]],
        space_group: NDArray[Any], split: NDArray[Any],
    ) -> None:
        encoded = [name.encode() for name in names]
        blob = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        name_ends = self._name_bytes + np.cumsum([len(name) for name in encoded], dtype=np.int64)
        chunk: dict[str, NDArray[Any]] = {
            "numbers": numbers, "positions": positions, "offsets": self._atoms + np.cumsum(counts), "cells": cells,
            "space_group": space_group, "split": split, "names": blob, "name_offsets": name_ends,
        }
        for name, values in chunk.items():
            self._files[name].append(values)
        for name, values in labels.items():
            self._labels.setdefault(name, []).append((self._count, values))
        self._elements += np.bincount(numbers, minlength=256)
        self._count += len(counts)
        self._atoms += len(numbers)
        self._name_bytes += len(blob)

    def _finish(self) -> None:
        self._flush()
        if not self._count:
            first = "".join(f"; first: {bad.name}: {bad.reason}" for bad in self.bad_records[:1])
            raise DataError(f"no usable structure for {self.path.name}: {len(self.bad_records)} bad records{first}")
        label_names = sorted(self._labels)
        table = np.full((self._count, len(label_names)), np.nan)
        for column, name in enumerate(label_names):
            for start, values in self._labels[name]:
                table[start : start + len(values), column] = values
        labels = _ArrayFile(self._folder / "labels.npy", "<f8", (len(label_names),))
        labels.append(table)
        files = {**self._files, "labels": labels}
        digest = hashlib.sha256()
        for name in sorted(files):
            files[name].close()
            digest.update(name.encode() + files[name].digest.digest())
        meta = {
            "schema": SCHEMA,
            "count": self._count,
            "num_atoms": self._atoms,
            "elements": {str(z): int(count) for z, count in enumerate(self._elements) if count},
            "labels": {name: self.units.get(name, "") for name in label_names},
            "digest": digest.hexdigest(),
            "source": self.source,
            "bad_records": [[bad.name, bad.reason] for bad in self.bad_records],
        }
        (self._folder / "meta.json").write_text(json.dumps(meta, indent=1))
        self._publish()

    def _publish(self) -> None:
        """Rename the finished folder to its place; if another process was faster, its equal copy stays."""
        self._folder.chmod(0o755)
        try:
            self._folder.rename(self.path)
        except OSError:
            if not (self.path / "meta.json").is_file():
                raise


class _ArrayFile:
    """A ``.npy`` file that grows along its first axis; numpy pads the header so that the shape can be rewritten."""

    def __init__(self, path: Path, dtype: str, trailing: tuple[int, ...]) -> None:
        self.dtype = np.dtype(dtype)
        self.trailing = trailing
        self.length = 0
        self.digest = hashlib.sha256()
        self._file: BinaryIO = path.open("wb")
        self._write_header()

    def append(self, values: NDArray[Any]) -> None:
        data = np.ascontiguousarray(values, dtype=self.dtype).tobytes()
        self._file.write(data)
        self.digest.update(data)
        self.length += len(values)

    def close(self) -> None:
        if not self._file.closed:
            self._file.seek(0)
            self._write_header()
            self._file.close()

    def _write_header(self) -> None:
        header = {
            "descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False,
            "shape": (self.length, *self.trailing),
        }
        np.lib.format.write_array_header_1_0(self._file, header)
