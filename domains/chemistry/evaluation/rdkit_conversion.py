"""What molecules are to RDKit: validity by two conventions, SMILES, fragments."""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO
from typing import TYPE_CHECKING, Literal

import numpy as np

from polydit.data.chemistry.interchange import sanitize_molecule, to_rdkit
from polydit.data.chemistry.structure import AtomicStructure
from polydit.platform.errors import require

if TYPE_CHECKING:
    from rdkit.Chem import Mol

__all__ = [
    "Convention", "find_largest_fragment", "list_smiles", "perceive", "read_pdb_block", "sanitize_molecule", "to_rdkit",
    "write_smiles",
]

Convention = Literal["lengths", "pdb"]
"""How bonds are found: ``"lengths"`` by the EDM bond table, ``"pdb"`` as RDKit reads a PDB file (ADiT's validity)."""

_PDB_LIMIT = 999.0
"""Å; coordinates of a PDB file have eight columns with three decimals."""


def perceive(structure: AtomicStructure, convention: Convention = "lengths") -> Mol | None:
    """Sanitised RDKit molecule by either convention, or None where RDKit refuses it."""
    return to_rdkit(structure) if convention == "lengths" else read_pdb_block(structure)


def read_pdb_block(structure: AtomicStructure) -> Mol | None:
    """The molecule as RDKit perceives it from a PDB file: its own proximity bonds, all single (ADiT's convention).

    Returns:
        The sanitised molecule, or None where a coordinate does not fit the format or RDKit refuses it.
    """
    if not (np.abs(structure.positions) < _PDB_LIMIT).all():
        return None
    chem = require("rdkit.Chem", "chemistry")
    require("ase", "chemistry")
    from ase.io import write

    text = StringIO()
    write(text, structure.to_ase(), format="proteindatabank")
    molecule = chem.MolFromPDBBlock(text.getvalue(), sanitize=False, removeHs=False)
    return None if molecule is None else sanitize_molecule(molecule)


def write_smiles(molecule: Mol) -> str:
    """Canonical SMILES of the largest fragment, hydrogens written out; what uniqueness and novelty compare."""
    chem = require("rdkit.Chem", "chemistry")
    smiles: str = chem.MolToSmiles(find_largest_fragment(molecule)[0])
    return smiles


def list_smiles(structures: Sequence[AtomicStructure], convention: Convention = "lengths") -> list[str]:
    """SMILES of the valid ones among `structures`."""
    found = (perceive(structure, convention) for structure in structures)
    return [write_smiles(molecule) for molecule in found if molecule is not None]


def find_largest_fragment(molecule: Mol) -> tuple[Mol, int]:
    """The fragment with most atoms (the first among equals) and the number of fragments."""
    chem = require("rdkit.Chem", "chemistry")
    fragments = chem.GetMolFrags(molecule, asMols=True, sanitizeFrags=False)
    return max(fragments, key=lambda fragment: fragment.GetNumAtoms()), len(fragments)
