"""One file of the field's formats to structures and named failures; pymatgen, ASE and RDKit do the parsing."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..store import BadRecord
from ..structure import AtomicStructure

if TYPE_CHECKING:
    from rdkit.Chem import Mol

Parsed = list[AtomicStructure | BadRecord]
"""What one file gave, in its order."""


def parse_file(path: Path, name: str) -> Parsed:
    """Every structure in the file at `path`; `name` is what messages call it.

    A file that cannot be read gives one `BadRecord`; it never stops the others.
    """
    parser = find_parser(path)
    if parser is None:
        return [BadRecord(name, f"unknown format {path.suffix or path.name!r}; known are {', '.join(KNOWN_FORMATS)}")]
    if path.stat().st_size == 0:
        return [BadRecord(name, "the file is empty")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # parsers warn of rounding and missing fields; what matters is checked below
        return parser(path, name) or [BadRecord(name, "the file holds no structure")]


def find_parser(path: Path) -> Callable[[Path, str], Parsed] | None:
    """Function that parses a file of this name, None if the format is unknown."""
    if path.stem.upper() in ("POSCAR", "CONTCAR") or path.name.upper().startswith(("POSCAR", "CONTCAR")):
        return _parse_poscar
    return PARSERS.get(path.suffix.lower())


def parse_cif(text: str, name: str) -> Parsed:
    """Structures of the data blocks of a CIF, cells as they stand."""
    from pymatgen.io.cif import CifParser

    # pymatgen raises what its many inner steps raise; any of these means that the text is not a usable CIF.
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            structures = CifParser.from_str(text).parse_structures(primitive=False, check_occu=True)
    except (ValueError, KeyError, IndexError, TypeError, AssertionError, ZeroDivisionError) as error:
        return [BadRecord(name, f"pymatgen cannot read this CIF: {_short(error)}")]
    return [_from_pymatgen(structure, _part(name, i, len(structures))) for i, structure in enumerate(structures)]


def _parse_cif_file(path: Path, name: str) -> Parsed:
    try:
        text = path.read_text()
    except UnicodeDecodeError as error:
        return [BadRecord(name, f"not a text file: {error}")]
    return parse_cif(text, name)


def _parse_poscar(path: Path, name: str) -> Parsed:
    from pymatgen.io.vasp import Poscar

    try:
        structure = Poscar.from_file(path, check_for_potcar=False, read_velocities=False).structure
    except (ValueError, KeyError, IndexError, UnicodeDecodeError) as error:
        return [BadRecord(name, f"pymatgen cannot read this POSCAR: {_short(error)}")]
    return [_from_pymatgen(structure, name)]


def _parse_ase(path: Path, name: str) -> Parsed:
    from ase.io import iread
    from ase.io.formats import UnknownFileTypeError

    parsed: Parsed = []
    # Frame by frame, so that the frames before a broken one are kept.
    try:
        for i, atoms in enumerate(iread(path, index=":", format="extxyz")):
            parsed.append(_from_ase(atoms, f"{name} frame {i + 1}"))
    except (ValueError, KeyError, IndexError, OSError, UnknownFileTypeError, UnicodeDecodeError) as error:
        parsed.append(BadRecord(f"{name} frame {len(parsed) + 1}", f"ASE cannot read this frame: {_short(error)}"))
    if len(parsed) == 1 and isinstance(parsed[0], AtomicStructure):
        return [replace(parsed[0], name=name)]
    return parsed


def _parse_ase_database(path: Path, name: str) -> Parsed:
    import sqlite3

    from ase.db import connect

    parsed: Parsed = []
    try:
        for row in connect(path).select():
            structure = _from_ase(row.toatoms(), f"{name} id {row.id}")
            values = {k: float(v) for k, v in row.key_value_pairs.items() if isinstance(v, int | float)}
            parsed.append(replace(structure, labels={**structure.labels, **values}))
    except (sqlite3.DatabaseError, ValueError, KeyError) as error:
        parsed.append(BadRecord(name, f"ASE cannot read this database: {_short(error)}"))
    return parsed


def _parse_sdf(path: Path, name: str) -> Parsed:
    from rdkit import Chem
    from rdkit.rdBase import BlockLogs

    parsed: Parsed = []
    with BlockLogs():
        for i, block in enumerate(_sdf_blocks(path)):
            supplier = Chem.SDMolSupplier()
            supplier.SetData(block, removeHs=False)
            mol = next(iter(supplier), None)
            parsed.append(from_rdkit(mol, f"{name} record {i + 1}"))
    return parsed


def _sdf_blocks(path: Path) -> Iterator[str]:
    lines: list[str] = []
    with path.open(errors="replace") as file:
        for line in file:
            lines.append(line)
            if line.startswith("$$$$"):
                yield "".join(lines)
                lines = []
    if "".join(lines).strip():
        yield "".join(lines)


def from_rdkit(mol: Mol | None, name: str) -> AtomicStructure | BadRecord:
    """Structure of an RDKit molecule with 3D coordinates, its numeric properties as labels."""
    if mol is None:
        return BadRecord(name, "RDKit refuses this molecule (unreadable block, or a valence that chemistry forbids)")
    if mol.GetNumConformers() == 0 or (mol.GetNumAtoms() > 1 and not mol.GetConformer().Is3D()):
        return BadRecord(name, "no 3D coordinates; embed the molecule first, or give its SMILES to SmilesSource")
    implicit = sum(atom.GetTotalNumHs() for atom in mol.GetAtoms())
    if implicit:
        return BadRecord(name, f"{implicit} hydrogens have no coordinates; add them (RDKit: AddHs with addCoords=True)")
    labels = {}
    for key, value in mol.GetPropsAsDict().items():
        if isinstance(value, int | float) and not key.startswith("_"):
            labels[key] = float(value)
    numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()], dtype=np.int64)
    title = mol.GetProp("_Name") if mol.HasProp("_Name") else ""
    positions = np.asarray(mol.GetConformer().GetPositions(), dtype=np.float64)
    return AtomicStructure(numbers, positions, None, labels, f"{name} {title}".strip())


def _from_pymatgen(structure: Any, name: str) -> AtomicStructure | BadRecord:
    try:
        return AtomicStructure.from_pymatgen(structure, name)
    except ValueError as error:
        return BadRecord(name, str(error).removeprefix(f"{name}: "))


def _from_ase(atoms: Any, name: str) -> AtomicStructure:
    structure = AtomicStructure.from_ase(atoms, name)
    results = atoms.calc.results if atoms.calc is not None else {}
    if "energy" in results:
        return replace(structure, labels={**structure.labels, "energy": float(results["energy"])})
    return structure


def _part(name: str, index: int, count: int) -> str:
    return name if count == 1 else f"{name} block {index + 1}"


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else text[:197] + "..."


PARSERS: dict[str, Callable[[Path, str], Parsed]] = {
    ".cif": _parse_cif_file,
    ".vasp": _parse_poscar,
    ".poscar": _parse_poscar,
    ".sdf": _parse_sdf,
    ".mol": _parse_sdf,
    ".xyz": _parse_ase,
    ".extxyz": _parse_ase,
    ".db": _parse_ase_database,
}
"""Suffix -> parser."""

KNOWN_FORMATS = [*PARSERS, "POSCAR*", "CONTCAR*"]
"""Names that messages list."""
