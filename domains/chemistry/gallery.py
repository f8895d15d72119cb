"""Galleries of the report: molecules and crystals that can be turned in three dimensions."""

from __future__ import annotations

import warnings

import numpy as np

from polydit.data.chemistry.structure import AtomicStructure
from polydit.platform.errors import require
from polydit.platform.evaluation.gallery import Gallery, GalleryItem
from polydit.platform.requests import Sample

from .drawing.figure import build_figure
from .drawing.scene import stage_structure
from .drawing.still import draw_still
from .evaluation.rdkit_conversion import to_rdkit
from .writers import is_usable, reduce_formula

SYMMETRY_PRECISION = 0.1
"""Å; the tolerance that the Materials Project uses, wide since generated crystals are not relaxed."""

SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


class MoleculeGallery(Gallery):
    """Ball-and-stick molecules with formula and SMILES."""

    title = "Molecules"
    packages = ("rdkit", "ase")

    def accepts(self, sample: Sample) -> bool:
        """Whether the sample is a structure without a cell."""
        return isinstance(sample.item, AtomicStructure) and not sample.item.is_periodic

    def figures(self, samples: list[Sample]) -> list[GalleryItem]:
        """A figure of each molecule; its bonds are those drawn by distance, the SMILES is that of the metrics."""
        return [picture(sample.item, count_formula(sample.item), describe_molecule(sample.item)) for sample in samples]


class CrystalGallery(Gallery):
    """Ball-and-stick crystals in their cell, with formula, space group and lattice."""

    title = "Crystals"
    packages = ("pymatgen", "ase", "spglib")

    def accepts(self, sample: Sample) -> bool:
        """Whether the sample is a structure with a cell."""
        return isinstance(sample.item, AtomicStructure) and sample.item.is_periodic

    def figures(self, samples: list[Sample]) -> list[GalleryItem]:
        """A figure of each crystal."""
        return [
            picture(sample.item, reduce_formula(sample.item).translate(SUBSCRIPTS), describe_crystal(sample.item))
            for sample in samples
        ]


def picture(structure: AtomicStructure, title: str, caption: str) -> GalleryItem:
    """Item of the gallery for one structure."""
    scene = stage_structure(structure)
    return GalleryItem(title, caption, build_figure(scene), draw_still(scene))


def count_formula(structure: AtomicStructure) -> str:
    """Formula in Hill order with subscripts, such as C₂H₆O."""
    formula = require("ase.formula", "chemistry").Formula
    symbols = require("ase.data", "chemistry").chemical_symbols
    text = formula.from_list([symbols[number] for number in structure.numbers]).format("hill")
    return str(text).translate(SUBSCRIPTS)


def describe_molecule(structure: AtomicStructure) -> str:
    """Size and SMILES without hydrogens, or why there is none."""
    chem = require("rdkit.Chem", "chemistry")
    molecule = to_rdkit(structure)
    if not np.isfinite(structure.positions).all():
        smiles = "coordinates are not finite"
    elif molecule is None:
        smiles = "no SMILES: a valence is not allowed"
    else:
        smiles = chem.MolToSmiles(chem.RemoveHs(molecule))
    return f"{smiles}\n{len(structure.numbers)} atoms"


def describe_crystal(structure: AtomicStructure) -> str:
    """Space group, number of atoms and lattice constants."""
    atoms = f"{len(structure.numbers)} atom{'s' if len(structure.numbers) != 1 else ''} in the cell"
    if not is_usable(structure):
        return f"{atoms}\nthe cell is flat or not finite"
    lattice = structure.to_pymatgen().lattice
    lengths = " ".join(f"{axis} {length:.2f}" for axis, length in zip("abc", lattice.abc, strict=True))
    angles = " ".join(f"{axis} {angle:.0f}°" for axis, angle in zip("αβγ", lattice.angles, strict=True))
    return f"{find_space_group(structure)}\n{atoms}\n{lengths} Å\n{angles}"


def find_space_group(structure: AtomicStructure) -> str:
    """Space group symbol and number, as spglib finds them within `SYMMETRY_PRECISION`."""
    symmetry = require("pymatgen.symmetry.analyzer", "chemistry")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of spglib, for how pymatgen calls it
            analyzer = symmetry.SpacegroupAnalyzer(structure.to_pymatgen(), SYMMETRY_PRECISION)
    except symmetry.SymmetryUndeterminedError:  # overlapping atoms, as a rule
        return "no space group found"
    return f"space group {analyzer.get_space_group_symbol()} ({analyzer.get_space_group_number()})"
