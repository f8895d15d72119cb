"""Extended XYZ and the ASE database: written so that `parse_file` and ASE give labels and names back.

Whatever a format cannot hold under its own name (a label called ``pbc``, a title that reads as a number) goes into a
field of its own, so that nothing is lost. Extended XYZ keeps eight decimals of a coordinate and every bit of labels and
cell; the database keeps every bit of all.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polydit.platform.errors import require

from .labels import LABELS, NAME, check_names, read_number, split_labels
from .structure import AtomicStructure

if TYPE_CHECKING:
    from ase import Atoms

INDEX = "index"
"""Entry that says which sample of a run a row of a database is."""

_ENERGY = "energy"


def write_extxyz(
    path: str | Path, structures: Sequence[AtomicStructure], entries: Sequence[Mapping[str, Any]] = (),
    append: bool = False,
) -> None:
    """Write structures as frames of an extended XYZ file, labels and name in the comment line.

    Args:
        path: file, usually ``.extxyz``.
        structures: molecules and crystals in any order.
        entries: more for the comment line of each frame: numbers and text by name; none, or one mapping a structure.
            An entry goes before a label of its name, which then stands with those that have no place of their own.
        append: add to the file instead of replacing it.
    """
    write = require("ase.io", "chemistry").write
    extra = entries or [{}] * len(structures)
    images = [_frame(structure, entry) for structure, entry in zip(structures, extra, strict=True)]
    write(path, images, format="extxyz", append=append)


def write_ase_database(
    path: str | Path, structures: Sequence[AtomicStructure], entries: Sequence[Mapping[str, Any]] = (), start: int = 0
) -> None:
    """Write structures as rows of an ASE database, all in one transaction.

    A row's ``key_value_pairs`` hold what can be searched for: the labels and numbers or text of `entries` whose names
    ASE allows; a label ``energy`` (eV) is the row's energy. ``data`` holds labels and name in full, and all entries.

    Args:
        path: ``.db`` (SQLite).
        structures: molecules and crystals in any order.
        entries: JSON values by name beside each; none, or one mapping a structure.
        start: position of the first structure. 0 begins the file anew; otherwise rows whose ``index`` is `start` or
            more, left by an attempt before this one, are replaced, so that a repeated call writes nothing twice.
    """
    database = require("ase.db", "chemistry")
    path = Path(path)
    extra = entries or [{}] * len(structures)
    rows = [
        _row(structure, {INDEX: index, **entry})
        for index, (structure, entry) in enumerate(zip(structures, extra, strict=True), start)
    ]
    if start == 0:
        path.unlink(missing_ok=True)
    with database.connect(path) as connection:
        if start > 0:
            connection.delete([row.id for row in connection.select(f"{INDEX}>={start}")])
        for atoms, pairs, data in rows:
            connection.write(atoms, key_value_pairs=pairs, data=data)


def _frame(structure: AtomicStructure, entry: Mapping[str, Any]) -> Atoms:
    check_names(structure.labels, structure.name)
    atoms = structure.to_ase()
    plain, rest = split_labels(structure.labels, lambda name, value: name not in entry and _fits_comment(name, value))
    atoms.info = dict(plain)
    if rest:
        atoms.info[LABELS] = _encode(LABELS, json.dumps(rest))
    for key, value in {**({NAME: structure.name} if structure.name else {}), **entry}.items():
        atoms.info[key] = _encode(key, value) if isinstance(value, str) else value
    return atoms


def _fits_comment(name: str, value: float) -> bool:
    """Whether a label comes back from a comment line as it went in, by the library's own account."""
    from ase.calculators.calculator import all_properties

    # Names that the format or ASE's reader takes for something else than a number.
    taken = {"Lattice", "Properties", "pbc", "virial", "stress", *all_properties} - {"energy", "free_energy", "magmom"}
    return name not in taken and _survives(name, value, value)


def _survives(key: str, written: str | float, expected: str | float) -> bool:
    """Whether an entry comes back from the middle of a comment line, and leaves its neighbours as they are."""
    from ase.io.extxyz import key_val_dict_to_str, key_val_str_to_dict

    line = key_val_dict_to_str({"_before": 1, key: written, "_after": 1})
    if len(line.splitlines()) != 1:
        return False
    try:
        found = key_val_str_to_dict(line)
    except (ValueError, AttributeError, IndexError, TypeError):  # of text that it takes for JSON or for an array
        return False
    if list(found) != ["_before", key, "_after"] or (found["_before"], found["_after"]) != (1, 1):
        return False
    if isinstance(expected, str):
        return isinstance(found[key], str) and found[key] == expected
    number = read_number(found[key])
    return number is not None and (number == expected or (math.isnan(number) and math.isnan(expected)))


def _encode(key: str, text: str) -> str:
    """Text as it must be handed to ASE's writer to come back from its reader.

    Within quotes a reader takes each backslash for an escape, while ASE's writer does so only for quotation marks; text
    that reads as a number, a flag or an array comes back as text from JSON alone.
    """
    coded = "_JSON " + json.dumps(text)
    for candidate in (text, text.replace("\\", "\\\\"), coded, coded.replace("\\", "\\\\")):
        if _survives(key, candidate, text):
            return candidate
    raise ValueError(f"{key} {text!r} has no place in extended XYZ: leave out what is not text")


def _row(structure: AtomicStructure, entry: Mapping[str, Any]) -> tuple[Atoms, dict[str, Any], dict[str, Any]]:
    check_names(structure.labels, structure.name)
    from ase.calculators.singlepoint import SinglePointCalculator

    atoms = structure.to_ase()
    atoms.info = {}
    energy = structure.labels.get(_ENERGY, math.nan)
    if math.isfinite(energy):
        atoms.calc = SinglePointCalculator(atoms, energy=energy)
    pairs = {key: value for key, value in {**structure.labels, **entry}.items() if _fits_database(key, value)}
    data = {**entry, NAME: structure.name, LABELS: dict(structure.labels)}
    return atoms, pairs, data


def _fits_database(key: str, value: Any) -> bool:
    """Whether ASE takes a key-value pair without a complaint, and does not answer to the name with something else."""
    from ase.db.core import check
    from ase.db.row import AtomsRow

    if hasattr(AtomsRow, key) or not isinstance(value, int | float | str) or value == "":
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            check({key: value})
    except (ValueError, UserWarning):
        return False
    return True
