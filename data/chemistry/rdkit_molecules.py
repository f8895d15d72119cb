"""Molecules in and out of RDKit, bonds inferred from distances."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

from polydit.platform.errors import require

from .bonds import infer_bond_orders
from .labels import LABELS, check_names, collect_labels, split_labels
from .structure import AtomicStructure

if TYPE_CHECKING:
    from rdkit.Chem import Mol


def to_rdkit(structure: AtomicStructure, sanitize: bool = True) -> Mol | None:
    """RDKit molecule with one 3-D conformer and the bond orders that the EDM bond table infers.

    Args:
        structure: a molecule, hydrogens explicit, positions in Å.
        sanitize: check valences and perceive rings and aromaticity, and refuse what RDKit refuses. False: the bare
            graph of any structure, for writing files of samples good and bad.

    Atoms get no hydrogens beyond those there are: what an atom lacks in bonds shows as radical electrons. Labels become
    properties, the name the title.

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
    check_names(structure.labels, structure.name)
    # RDKit takes names with a leading underscore for its own and hides them.
    plain, rest = split_labels(structure.labels, lambda name, _: bool(name) and name[0] != "_")
    for name, value in plain.items():
        molecule.SetDoubleProp(name, float(value))
    if rest:
        molecule.SetProp(LABELS, json.dumps(rest))
    return sanitize_molecule(molecule.GetMol()) if sanitize else molecule.GetMol()


def from_rdkit(molecule: Mol, name: str = "", conformer: int = -1) -> AtomicStructure:
    """Structure of an RDKit molecule with explicit hydrogens and a 3-D conformer, its numeric properties as labels.

    Args:
        molecule: sanitised or not; its bonds stay behind.
        name: what to call it; empty: its title.
        conformer: id of the conformer; -1: the first.

    Raises:
        ValueError: if there is no such conformer, if it is flat, or if hydrogens have no coordinates.
    """
    ids = [found.GetId() for found in molecule.GetConformers()]
    if ids and conformer != -1 and conformer not in ids:
        raise ValueError(f"there is no conformer {conformer}; the molecule has {ids}")
    if not ids or (molecule.GetNumAtoms() > 1 and not molecule.GetConformer(conformer).Is3D()):
        raise ValueError("no 3D coordinates; embed the molecule first, or give its SMILES to SmilesSource")
    chem = require("rdkit.Chem", "chemistry")
    counted = chem.Mol(molecule)
    counted.UpdatePropertyCache(strict=False)  # of atoms that were never sanitised RDKit counts no hydrogens
    implicit = sum(atom.GetTotalNumHs() for atom in counted.GetAtoms())
    if implicit:
        raise ValueError(f"{implicit} hydrogens have no coordinates; add them (RDKit: AddHs with addCoords=True)")
    numbers = np.array([atom.GetAtomicNum() for atom in molecule.GetAtoms()], dtype=np.int64)
    title = molecule.GetProp("_Name") if molecule.HasProp("_Name") else ""
    positions = np.array(molecule.GetConformer(conformer).GetPositions(), dtype=np.float64).reshape(-1, 3)
    return AtomicStructure(numbers, positions, None, collect_labels(molecule.GetPropsAsDict()), name or title)


def sanitize_molecule(molecule: Mol) -> Mol | None:
    """The molecule itself after RDKit's sanitisation, in place; None where RDKit refuses it."""
    chem = require("rdkit.Chem", "chemistry")
    rdbase = require("rdkit.rdBase", "chemistry")
    with rdbase.BlockLogs():
        problem = chem.SanitizeMol(molecule, catchErrors=True)
    return molecule if problem == chem.SanitizeFlags.SANITIZE_NONE else None
