"""Samples as files of chemistry: SDF for molecules, CIF for crystals, extended XYZ for both.

Every record states its position in the run (``index``), its ``seed`` and its ``request`` as JSON, so that it can be
made again alone. Broken samples are written too, as far as the format allows, and say what is wrong with them: no
file holds fewer samples than were generated.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from polydit.data.chemistry.structure import AtomicStructure
from polydit.platform.errors import require
from polydit.platform.evaluation.writer import Writer
from polydit.platform.requests import Request, Sample

from .evaluation.rdkit_conversion import sanitize_molecule, to_rdkit

if TYPE_CHECKING:
    from rdkit.Chem import Mol

SMALLEST_VOLUME = 1e-3
"""Å³; a flatter cell has no usable inverse, so its fractional coordinates mean nothing."""


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
        "_Name": structure.name or f"sample {index}",
        "index": str(index),
        "seed": str(request.seed),
        "request": format_request(request),
        "valid": str(int(finite and sanitize_molecule(chem.Mol(molecule)) is not None)),
        "num_bonds": str(molecule.GetNumBonds()),
    }
    if not finite:
        molecule.GetConformer().SetPositions(np.zeros_like(structure.positions))
        fields["problem"] = "coordinates are not finite"
    for name, value in fields.items():
        molecule.SetProp(name, value)
    return molecule


def format_cif(structure: AtomicStructure, index: int, request: Request) -> str:
    """CIF text of a crystal with the data items of `CIFWriter`."""
    cif = require("pymatgen.io.cif", "chemistry").CifWriter(structure.to_pymatgen())
    # A text field, since quotation marks may not be nested in CIF; pymatgen takes " #" for a comment even there.
    wishes = format_request(request).replace("#", "\\u0023")
    return (
        f"# sample {index}, seed {request.seed}, generated by polydit\n{cif}"
        f"_polydit_index   {index}\n_polydit_seed   {request.seed}\n_polydit_request\n;\n{wishes}\n;\n"
    )


def append_extxyz(path: Path, entries: list[tuple[int, Request, AtomicStructure]]) -> None:
    """Append structures to an extended XYZ file."""
    write = require("ase.io", "chemistry").write
    images = []
    for index, request, structure in entries:
        atoms = structure.to_ase()
        if not structure.name:
            del atoms.info["name"]
        # Within quotes a reader takes each backslash for an escape; ASE's writer does so only for quotation marks.
        wishes = format_request(request).replace("\\", "\\\\")
        atoms.info.update(index=index, seed=request.seed, request=wishes)
        images.append(atoms)
    write(path, images, format="extxyz", append=path.exists())


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
