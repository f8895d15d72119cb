"""One file of the field's formats to structures and named failures; pymatgen, ASE and RDKit do the parsing."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..labels import LABELS, NAME, collect_labels, read_group
from ..store import BadRecord
from ..structure import AtomicStructure

if TYPE_CHECKING:
    from rdkit.Chem import Mol

Parsed = list[AtomicStructure | BadRecord]
"""What one file gave, in its order."""


def parse_file(path: str | Path, name: str = "") -> Parsed:
    """Every structure in the file at `path`, labels included; `name` is what messages call it, empty: the file's name.

    A file that cannot be read gives one `BadRecord`; it never stops the others.
    """
    path = Path(path)
    name = name or path.name
    parser = find_parser(path)
    if parser is None:
        return [BadRecord(name, f"unknown format {path.suffix or path.name!r}; known are {', '.join(KNOWN_FORMATS)}")]
    if path.stat().st_size == 0:
        return [BadRecord(name, "the file is empty")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # parsers warn of rounding and missing fields; what matters is checked below
        return parser(path, name) or [BadRecord(name, "the file holds no structure")]


def find_parser(path: Path) -> Callable[[Path, str], Parsed] | None:
    """Function that parses a file, by its name; of JSON only ASE's databases. None if the format is unknown."""
    if path.stem.upper() in ("POSCAR", "CONTCAR") or path.name.upper().startswith(("POSCAR", "CONTCAR")):
        return _parse_poscar
    if path.suffix.lower() == ".json" and not _is_ase_json(path):
        return None
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
            structure = AtomicStructure.from_ase(atoms)
            parsed.append(replace(structure, name=_join(f"{name} frame {i + 1}", structure.name)))
    except (ValueError, KeyError, IndexError, OSError, UnknownFileTypeError, UnicodeDecodeError) as error:
        parsed.append(BadRecord(f"{name} frame {len(parsed) + 1}", f"ASE cannot read this frame: {_short(error)}"))
    if len(parsed) == 1 and isinstance(parsed[0], AtomicStructure):
        return [replace(parsed[0], name=name + parsed[0].name.removeprefix(f"{name} frame 1"))]
    return parsed


def _parse_ase_database(path: Path, name: str) -> Parsed:
    import sqlite3

    from ase.db import connect

    parsed: Parsed = []
    try:
        for row in connect(path, type="json" if path.suffix.lower() == ".json" else "db").select():
            structure = AtomicStructure.from_ase(row.toatoms())
            # What we wrote says what its labels are; in a row of others they are the keys that hold a number.
            if isinstance(row.data.get(LABELS), dict):
                labels = read_group(row.data[LABELS])
            else:
                labels = {**structure.labels, **collect_labels(row.key_value_pairs)}
            parsed.append(replace(structure, labels=labels, name=_join(f"{name} id {row.id}", row.data.get(NAME, ""))))
    except (sqlite3.DatabaseError, ValueError, KeyError, AttributeError, TypeError) as error:
        parsed.append(BadRecord(name, f"ASE cannot read this database: {_short(error)}"))
    return parsed


def _is_ase_json(path: Path) -> bool:
    """Whether a JSON file is a database of ASE, which ends with the number of its next row."""
    with path.open("rb") as file:
        file.seek(0, 2)
        file.seek(max(file.tell() - 200, 0))
        return b'"nextid"' in file.read()


def _parse_sdf(path: Path, name: str) -> Parsed:
    from rdkit import Chem
    from rdkit.rdBase import BlockLogs

    parsed: Parsed = []
    with BlockLogs():
        for i, block in enumerate(_sdf_blocks(path)):
            supplier = Chem.SDMolSupplier()
            supplier.SetData(block, removeHs=False)
            mol = next(iter(supplier), None)
            parsed.append(_from_rdkit(mol, f"{name} record {i + 1}"))
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


def _from_rdkit(mol: Mol | None, name: str) -> AtomicStructure | BadRecord:
    if mol is None:
        return BadRecord(name, "RDKit refuses this molecule (unreadable block, or a valence that chemistry forbids)")
    try:
        structure = AtomicStructure.from_rdkit(mol)
    except ValueError as error:
        return BadRecord(name, str(error))
    return replace(structure, name=_join(name, structure.name))


def _from_pymatgen(structure: Any, name: str) -> AtomicStructure | BadRecord:
    try:
        return AtomicStructure.from_pymatgen(structure, name)
    except ValueError as error:
        return BadRecord(name, str(error).removeprefix(f"{name}: "))


def _join(name: str, title: str) -> str:
    """Where a record stands, and what it calls itself."""
    return f"{name} {title}".strip()


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
    ".json": _parse_ase_database,
}
"""Suffix -> parser."""

KNOWN_FORMATS = [*PARSERS, "POSCAR*", "CONTCAR*"]
"""Names that messages list."""
