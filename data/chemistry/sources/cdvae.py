"""Tables in the style of CDVAE (Xie et al. 2022): one row a crystal, its CIF in a column."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from polydit.platform.errors import DataError

from ..lattice import standardise
from ..store import BadRecord
from ..structure import AtomicStructure
from ..writer import StoreWriter
from .base import OnError, Source, describe_files, map_records, read_text
from .parsing import parse_cif

UNITS = {
    "formation_energy_per_atom": "eV/atom", "band_gap": "eV", "e_above_hull": "eV/atom",
    "heat_all": "eV/atom", "heat_ref": "eV/atom", "dir_gap": "eV", "ind_gap": "eV",
}  # fmt: skip

SPLIT_FILES = {"train": 0, "val": 1, "valid": 1, "test": 2}
"""First part of a file's name -> split code."""


class CDVAECsvSource(Source):
    """Crystals from CSV tables with a ``cif`` column: MP-20, Perov-5, Carbon-24 and your own.

    Args:
        path: a CSV file, plain or gzipped, or a folder of them; files called train, val and test give the split.
        labels: numeric columns to keep; None: every column that is numeric wherever it is filled.
        niggli: reduce every cell (MP-20's are reduced already).
        find_space_groups: by spglib where the table has no ``spacegroup.number``.
        workers: processes that parse; None: every core.
        on_error: see `Source`.
    """

    name = "cdvae-csv"
    units = UNITS

    def __init__(
        self, path: str, labels: Sequence[str] | None = None, niggli: bool = False, find_space_groups: bool = True,
        workers: int | None = None, on_error: OnError = "skip",
    ) -> None:
        super().__init__(on_error)
        self.path = path
        self.labels = labels
        self.niggli = niggli
        self.find_space_groups = find_space_groups
        self.workers = workers

    def _files(self) -> list[Path]:
        path = Path(self.path).expanduser()
        if not path.exists():
            raise DataError(f"there is no {path}; give a CSV file or a folder of them")
        files = [path] if path.is_file() else sorted([*path.glob("*.csv"), *path.glob("*.csv.gz")])
        if not files:
            raise DataError(f"{path} holds no .csv or .csv.gz file")
        return files

    def fingerprint(self) -> dict[str, Any]:
        """Settings and files, see `Source.fingerprint`."""
        files = self._files()
        return {
            "files": describe_files(files, files[0].parent),
            "labels": None if self.labels is None else list(self.labels),
            "niggli": self.niggli, "find_space_groups": self.find_space_groups,
        }  # fmt: skip

    def read(self, writer: StoreWriter) -> None:
        """Put the crystals into `writer`, see `Source.read`."""
        for path in self._files():
            rows = read_table(path)
            if not rows or "cif" not in rows[0]:
                raise DataError(f"{path}: no 'cif' column with rows below it; a CDVAE table has one CIF text a row")
            split = SPLIT_FILES.get(path.name.split(".")[0], -1)
            labels = numeric_columns(rows, path, self.labels)
            tasks = [(row["cif"], self._space_group(row), self.niggli) for row in rows]
            outcomes = map_records(_parse_row, tasks, path.name, self.workers)
            for line, (row, outcome) in enumerate(zip(rows, outcomes, strict=True), start=1):
                name = row.get("material_id") or f"{path.name} row {line}"
                if outcome.value is None:
                    writer.reject(name, outcome.problem)
                    continue
                structure, space_group = outcome.value
                values = {label: float(row[label]) for label in labels if row[label]}
                writer.add(
                    AtomicStructure(structure.numbers, structure.positions, structure.cell, values, name),
                    space_group, split,
                )  # fmt: skip

    def _space_group(self, row: dict[str, str]) -> int:
        """Number in the table, 0 to leave it unknown, -1 to find it."""
        number = row.get("spacegroup.number", "")
        return int(float(number)) if number else -int(self.find_space_groups)


def read_table(path: Path, delimiter: str = ",") -> list[dict[str, str]]:
    """Rows of a CSV file, plain or gzipped."""
    return list(csv.DictReader(io.StringIO(read_text(path)), delimiter=delimiter))


def numeric_columns(rows: list[dict[str, str]], path: Path, wanted: Sequence[str] | None) -> list[str]:
    """Columns to keep as labels: those `wanted`, or every numeric one that is neither an index nor a symmetry number.

    Raises:
        DataError: if a wanted column is absent or not numeric.
    """
    present = [name for name in rows[0] if name]
    numeric = [name for name in present if _is_numeric(row[name] for row in rows)]
    if wanted is None:
        return [name for name in numeric if name not in ("spacegroup.number", "material_id")]
    for name in wanted:
        if name not in numeric:
            state = "is not numeric" if name in present else "is absent"
            raise DataError(f"{path}: label column {name!r} {state}; numeric are {', '.join(numeric) or 'none'}")
    return list(wanted)


def _is_numeric(values: Any) -> bool:
    filled = [value for value in values if value]
    try:
        return bool(filled) and all(float(value) is not None for value in filled)
    except ValueError:
        return False


def _parse_row(task: tuple[str, int, bool]) -> tuple[AtomicStructure, int]:
    text, space_group, niggli = task
    parsed = parse_cif(text, "the cif column")[0]
    if isinstance(parsed, BadRecord):
        raise DataError(parsed.reason)
    structure, found = standardise(parsed, niggli, find=space_group < 0)
    return structure, found if space_group < 0 else space_group
