"""Samples as files of chemistry: SDF for molecules, CIF for crystals, extended XYZ and an ASE database for both.

Every record states its position in the run (``index``), its ``seed`` and its ``request`` as JSON, so that it can be
made again alone; labels stand beside them, except in CIF, which has no place for any. Broken samples are written too,
as far as the format allows, and say what is wrong with them: no file holds fewer samples than were generated.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from polydit.data.chemistry.formats import write_ase_database, write_extxyz
from polydit.data.chemistry.labels import LABELS, split_labels
from polydit.data.chemistry.structure import AtomicStructure
from polydit.platform.errors import require
from polydit.platform.evaluation.writer import Writer
from polydit.platform.requests import Request, Sample

from .evaluation.rdkit_conversion import sanitize_molecule, to_rdkit

if TYPE_CHECKING:
    from rdkit.Chem import Mol

SMALLEST_VOLUME = 1e-3
"""Å³; a flatter cell has no usable inverse, so its fractional coordinates mean nothing."""


_FIELD = re.compile(r"[A-Za-z][\w .,/()-]*", re.ASCII)
"""Names that a data field of an SDF may have without harm to the file."""


class SDFWriter(Writer):
    """Writes molecules to ``molecules.sdf`` with bonds inferred from distances (EDM bond table).

    Data fields beside index, seed and request: ``valid`` (1 if RDKit sanitises the molecule), ``num_bonds`` (0: no pair
    of atoms is close enough, the atoms stand alone) and, for coordinates that are not finite, ``problem``; such a
    record has its atoms at the origin.
    """

    def write(self, samples: list[Sample], folder: Path, start: int = 0) -> list[Path]:
        """Append the molecules among `samples`."""
        chem = require("rdkit.Chem", "chemistry")
        path = folder / "molecules.sdf"
        molecules = list(iterate_structures(samples, start, periodic=False))
        if not molecules:
            return []
        with path.open("a", encoding="utf-8") as file:
            writer = chem.SDWriter(file)
            writer.SetKekulize(False)  # the orders hold no aromatic bond, and an invalid graph cannot be kekulised
            for index, request, structure in molecules:
                writer.write(annotate_molecule(structure, index, request))
            writer.close()
        return [path]


class CIFWriter(Writer):
    """Writes each crystal to ``crystals/<index>_<formula>.cif`` in space group P1, all atoms listed.

    Index, seed and request are data items ``_polydit_index``, ``_polydit_seed`` and ``_polydit_request``. A crystal
    whose cell is flat or not finite has no CIF; it goes to ``crystals/<index>_<formula>.extxyz``.
    """

    def write(self, samples: list[Sample], folder: Path, start: int = 0) -> list[Path]:
        """Write the crystals among `samples`, one file each."""
        paths = []
        for index, request, structure in iterate_structures(samples, start, periodic=True):
            stem = f"{index:05d}_{reduce_formula(structure)}"
            (folder / "crystals").mkdir(exist_ok=True)
            if is_usable(structure):
                path = folder / "crystals" / f"{stem}.cif"
                path.write_text(format_cif(structure, index, request), encoding="ascii")
            else:
                path = folder / "crystals" / f"{stem}.extxyz"
                append_extxyz(path, [(index, request, structure)])
            paths.append(path)
        return paths


class ExtxyzWriter(Writer):
    """Writes ``molecules.extxyz`` and ``crystals.extxyz`` with index, seed and request in ASE's ``info``."""

    def write(self, samples: list[Sample], folder: Path, start: int = 0) -> list[Path]:
        """Append `samples` to the file of their kind."""
        paths = []
        for name, periodic in (("molecules", False), ("crystals", True)):
            entries = list(iterate_structures(samples, start, periodic))
            if entries:
                append_extxyz(folder / f"{name}.extxyz", entries)
                paths.append(folder / f"{name}.extxyz")
        return paths


class ASEDatabaseWriter(Writer):
    """Writes ``structures.db``, an ASE database with one row a molecule or crystal.

    ``key_value_pairs`` hold index, seed, what was asked for (``request_domain="crystal"``) and the labels, as far as
    ASE allows their names; ``data`` holds the request, name and labels in full. A batch enters in one transaction, and
    replaces what an attempt before it left.
    """

    def write(self, samples: list[Sample], folder: Path, start: int = 0) -> list[Path]:
        """Add rows for the structures among `samples`."""
        path = folder / "structures.db"
        chosen = [(index, s) for index, s in enumerate(samples, start) if isinstance(s.item, AtomicStructure)]
        if not chosen:
            return []
        write_ase_database(
            path, [sample.item for _, sample in chosen], [describe_row(index, s.request) for index, s in chosen], start
        )
        return [path]


def describe_row(index: int, request: Request) -> dict[str, Any]:
    """What a row of `ASEDatabaseWriter` says beside the structure."""
    wishes = json.loads(format_request(request))
    return {
        **{f"request_{name}": value for name, value in wishes.items()},
        "index": index, "seed": request.seed, "request": wishes,
    }


def iterate_structures(
    samples: list[Sample], start: int, periodic: bool
) -> Iterator[tuple[int, Request, AtomicStructure]]:
    """(index in the run, request, structure) of the crystals (`periodic`) or the molecules among `samples`."""
    for index, sample in enumerate(samples, start):
        if isinstance(sample.item, AtomicStructure) and sample.item.is_periodic == periodic:
            yield index, sample.request, sample.item


def annotate_molecule(structure: AtomicStructure, index: int, request: Request) -> Mol:
    """RDKit molecule of the bare inferred graph, with the data fields of `SDFWriter`."""
    chem = require("rdkit.Chem", "chemistry")
    finite = bool(np.isfinite(structure.positions).all())
    molecule = to_rdkit(structure, sanitize=False)
    assert molecule is not None, "an unsanitised molecule is never refused"
    fields = {
        "_Name": " ".join(structure.name.split()) or f"sample {index}",  # one line
        "index": str(index),
        "seed": str(request.seed),
        "request": format_request(request),
        "valid": str(int(finite and sanitize_molecule(chem.Mol(molecule)) is not None)),
        "num_bonds": str(molecule.GetNumBonds()),
    }
    if not finite:
        molecule.GetConformer().SetPositions(np.zeros_like(structure.positions))
        fields["problem"] = "coordinates are not finite"
    for name in list(molecule.GetPropNames()):  # RDKit's own text of a number has fewer digits
        molecule.ClearProp(name)
    plain, rest = split_labels(structure.labels, lambda name, _: name not in fields and bool(_FIELD.fullmatch(name)))
    texts = {name: repr(float(value)) for name, value in plain.items()}
    for name, text in {**texts, **({LABELS: json.dumps(rest)} if rest else {}), **fields}.items():
        molecule.SetProp(name, text)
    return molecule


def format_cif(structure: AtomicStructure, index: int, request: Request) -> str:
    """CIF text of a crystal with the data items of `CIFWriter`."""
    cif = require("pymatgen.io.cif", "chemistry").CifWriter(structure.to_pymatgen(wrap=True))
    # A text field, since quotation marks may not be nested in CIF; pymatgen takes " #" for a comment even there.
    wishes = format_request(request).replace("#", "\\u0023")
    return (
        f"# sample {index}, seed {request.seed}, generated by polydit\n{cif}"
        f"_polydit_index   {index}\n_polydit_seed   {request.seed}\n_polydit_request\n;\n{wishes}\n;\n"
    )


def append_extxyz(path: Path, entries: list[tuple[int, Request, AtomicStructure]]) -> None:
    """Append structures to an extended XYZ file."""
    write_extxyz(
        path, [structure for _, _, structure in entries],
        [{"index": index, "seed": request.seed, "request": format_request(request)} for index, request, _ in entries],
        append=path.exists(),
    )


def format_request(request: Request) -> str:
    """The wishes of a request as one line of ASCII JSON."""
    return json.dumps(request.wishes, sort_keys=True, default=str)


def reduce_formula(structure: AtomicStructure) -> str:
    """Reduced formula such as ``TiO2``, elements by electronegativity."""
    composition = require("pymatgen.core", "chemistry").Composition
    symbols = require("ase.data", "chemistry").chemical_symbols
    counts = dict(zip(*np.unique(structure.numbers, return_counts=True), strict=True))
    return str(composition({symbols[number]: int(count) for number, count in counts.items()}).reduced_formula)


def is_usable(structure: AtomicStructure) -> bool:
    """Whether a crystal's cell and positions are finite and its volume exceeds `SMALLEST_VOLUME`."""
    assert structure.cell is not None
    finite = np.isfinite(structure.cell).all() and np.isfinite(structure.positions).all()
    return bool(finite and abs(np.linalg.det(structure.cell)) > SMALLEST_VOLUME)
