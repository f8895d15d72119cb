"""From atoms in space to RDKit molecules, with bonds inferred from distances."""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO
from typing import TYPE_CHECKING, Literal

import numpy as np

from polydit.data.chemistry.structure import AtomicStructure
from polydit.platform.errors import require

from .stability import infer_bond_orders

if TYPE_CHECKING:
    from rdkit.Chem import Mol

Convention = Literal["lengths", "pdb"]
"""How bonds are found: ``"lengths"`` by the EDM bond table, ``"pdb"`` as RDKit reads a PDB file (ADiT's validity)."""

_PDB_LIMIT = 999.0
"""Å; coordinates of a PDB file have eight columns with three decimals."""


def to_rdkit(structure: AtomicStructure, sanitize: bool = True) -> Mol | None:
    """RDKit molecule with one 3-D conformer and the bond orders that the EDM bond table infers.

    Args:
        structure: a molecule, hydrogens explicit, positions in Å.
        sanitize: check valences and perceive rings and aromaticity, and refuse what RDKit refuses. False: the bare
            graph of any structure, for writing files of samples good and bad.

    Atoms get no hydrogens beyond those there are: what an atom lacks in bonds shows as radical electrons.

    Returns:
        The molecule; None where `sanitize` is set and a coordinate is not finite or RDKit refuses the graph.

    Raises:
        ValueError: if the structure is a crystal.
    """
    if structure.is_periodic:
        raise ValueError(f"crystal {structure.name!r} has no RDKit molecule: use to_pymatgen()")
    if sanitize and not np.isfinite(structure.positions).all():
        return None
    chem = require("rdkit.Chem", "chemistry")
    orders = infer_bond_orders(structure.numbers, structure.positions)
    kinds = (None, chem.BondType.SINGLE, chem.BondType.DOUBLE, chem.BondType.TRIPLE)
    molecule = chem.RWMol()
    for number in structure.numbers.tolist():
        atom = chem.Atom(number)
        atom.SetNoImplicit(True)
        molecule.AddAtom(atom)
    for i, j in np.argwhere(np.triu(orders)).tolist():
        molecule.AddBond(i, j, kinds[orders[i, j]])
    conformer = chem.Conformer(len(structure.numbers))
    conformer.SetPositions(np.ascontiguousarray(structure.positions, dtype=np.float64))
    molecule.AddConformer(conformer, assignId=True)
    if structure.name:
        molecule.SetProp("_Name", structure.name)
    return sanitize_molecule(molecule.GetMol()) if sanitize else molecule.GetMol()


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


def sanitize_molecule(molecule: Mol) -> Mol | None:
    """The molecule itself after RDKit's sanitisation, in place; None where RDKit refuses it."""
    chem = require("rdkit.Chem", "chemistry")
    rdbase = require("rdkit.rdBase", "chemistry")
    with rdbase.BlockLogs():
        problem = chem.SanitizeMol(molecule, catchErrors=True)
    return molecule if problem == chem.SanitizeFlags.SANITIZE_NONE else None


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
