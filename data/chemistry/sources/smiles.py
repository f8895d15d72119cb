"""A table of SMILES, embedded in three dimensions by RDKit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from polydit.platform.errors import DataError

from ..structure import AtomicStructure
from ..writer import StoreWriter
from .base import OnError, Source, describe_files, map_records, read_text
from .cdvae import numeric_columns, read_table


class SmilesSource(Source):
    """Molecules from a table with a column of SMILES, hydrogens added, embedded by ETKDG and relaxed by MMFF94.

    Args:
        path: CSV (``.csv``), tab-separated (``.tsv``) or one SMILES a line (``.smi``, ``.txt``), plain or gzipped.
        column: name of the SMILES column; ignored for one SMILES a line.
        labels: numeric columns to keep; None: all.
        seed: of the embedding.
        workers: processes that embed; None: every core.
        on_error: see `Source`.
    """

    name = "smiles"

    def __init__(
        self, path: str, column: str = "smiles", labels: Sequence[str] | None = None, seed: int = 0,
        workers: int | None = None, on_error: OnError = "skip",
    ) -> None:
        super().__init__(on_error)
        self.path = path
        self.column = column
        self.labels = labels
        self.seed = seed
        self.workers = workers

    def fingerprint(self) -> dict[str, Any]:
        """Settings and file, see `Source.fingerprint`."""
        path = Path(self.path).expanduser()
        if not path.is_file():
            raise DataError(f"there is no file {path}; give a .csv, .tsv, .smi or .txt file of SMILES")
        labels = None if self.labels is None else list(self.labels)
        return {
            "files": describe_files([path], path.parent), "column": self.column, "labels": labels, "seed": self.seed,
        }  # fmt: skip

    def read(self, writer: StoreWriter) -> None:
        """Put the molecules into `writer`, see `Source.read`."""
        path = Path(self.path).expanduser()
        rows, labels = self._rows(path)
        tasks = [(row[self.column].strip(), self.seed) for row in rows]
        outcomes = map_records(embed_smiles, tasks, f"embedding {path.name}", self.workers)
        for line, (row, outcome) in enumerate(zip(rows, outcomes, strict=True), start=1):
            if outcome.value is None:
                writer.reject(f"{path.name} record {line} ({row[self.column]})", outcome.problem)
            else:
                writer.add(replace(outcome.value, labels={name: float(row[name]) for name in labels if row[name]}))

    def _rows(self, path: Path) -> tuple[list[dict[str, str]], list[str]]:
        suffix = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
        if suffix in (".smi", ".txt"):
            return _read_lines(path, self.column), []
        rows = read_table(path, "\t" if suffix == ".tsv" else ",")
        if not rows or self.column not in rows[0]:
            columns = ", ".join(rows[0]) if rows else "none"
            raise DataError(f"{path}: no column {self.column!r} with rows below it; columns are {columns}")
        return rows, numeric_columns(rows, path, self.labels)


def embed_smiles(task: tuple[str, int]) -> AtomicStructure:
    """Structure of (SMILES, seed): hydrogens added, ETKDGv3, MMFF94; named by its SMILES.

    Coordinates are rounded to 1e-4 Å, so that the last bits of a processor's arithmetic do not enter the data.

    Raises:
        DataError: if RDKit refuses the SMILES, finds no conformer, or has no force field for it.
    """
    from rdkit import Chem
    from rdkit.Chem import rdDistGeom, rdForceFieldHelpers
    from rdkit.rdBase import BlockLogs

    smiles, seed = task
    with BlockLogs():
        mol = Chem.MolFromSmiles(smiles) if smiles else None
        if mol is None or mol.GetNumAtoms() == 0:
            raise DataError("RDKit refuses this SMILES")
        mol = Chem.AddHs(mol)
        if rdDistGeom.EmbedMolecule(mol, _embedding(seed)) != 0:
            raise DataError("RDKit's ETKDG finds no 3D conformer")
        if not rdForceFieldHelpers.MMFFHasAllMoleculeParams(mol):
            raise DataError("MMFF94 has no parameters for an atom of it")
        rdForceFieldHelpers.MMFFOptimizeMolecule(mol, maxIters=1000)
    numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()], dtype=np.int64)
    positions = np.asarray(mol.GetConformer().GetPositions(), dtype=np.float64)
    return AtomicStructure(numbers, positions.round(4), None, {}, smiles)


def _embedding(seed: int) -> Any:
    from rdkit.Chem import rdDistGeom

    parameters: Any = rdDistGeom.ETKDGv3()
    parameters.randomSeed = seed
    return parameters


def _read_lines(path: Path, column: str) -> list[dict[str, str]]:
    return [{column: line.split()[0]} for line in read_text(path).splitlines() if line.strip()]
