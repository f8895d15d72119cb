"""Structures in and out of ASE, pymatgen, RDKit and torch-geometric, without loss where the library allows.

What travels: atomic numbers, positions, cell, labels and name. Numbers, positions and cells keep every bit, except the
positions of a pymatgen ``Structure``, which stores fractions. What a structure has no place for stays behind: charges,
spins, oxidation states, isotopes (deuterium is hydrogen), velocities, the bonds of an RDKit molecule (`to_rdkit` infers
them anew). Dummy atoms have number 0: ASE's ``X``, RDKit's ``*``, a ``DummySpecies`` of pymatgen.

Labels are numbers: integers and flags become floats, NaN stays NaN (a store takes it for missing), text is left out.

Shape legend: n atoms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from polydit.platform.errors import require

from .labels import LABELS, NAME, check_names, collect_labels, read_number
from .rdkit_molecules import from_rdkit, sanitize_molecule, to_rdkit
from .structure import AtomicStructure

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Molecule, Structure
    from torch_geometric.data import Data

__all__ = [
    "from_ase", "from_pymatgen", "from_rdkit", "from_torch_geometric", "sanitize_molecule", "to_ase", "to_pymatgen",
    "to_rdkit", "to_torch_geometric",
]

_SCALAR_RESULTS = ("energy", "free_energy", "magmom")


def to_ase(structure: AtomicStructure) -> Atoms:
    """ASE atoms, labels and name in ``info``; all directions of a crystal periodic."""
    require("ase", "chemistry")
    from ase import Atoms

    return Atoms(
        numbers=structure.numbers, positions=structure.positions, cell=structure.cell, pbc=structure.is_periodic,
        info=_describe(structure),
    )


def from_ase(atoms: Atoms, name: str = "") -> AtomicStructure:
    """Structure from ASE atoms, with the numbers in ``info`` and the energy of a finished calculation as labels.

    A slab, periodic in one or two directions, becomes the crystal of its cell, vacuum included. The box of atoms
    without periodicity is left out.

    Args:
        atoms: of any size.
        name: what to call it; empty: ``info["name"]``.

    Raises:
        ValueError: if the cell is flat although a direction is periodic.
    """
    cell = np.array(atoms.cell.array, dtype=np.float64) if atoms.pbc.any() else None
    if cell is not None and not atoms.pbc.all() and not np.linalg.det(cell):
        raise ValueError(
            f"{name or atoms.get_chemical_formula()}: periodic in {int(atoms.pbc.sum())} of 3 directions, and without "
            "a cell vector in another; give it vacuum first: atoms.center(vacuum=10, axis=...)"
        )
    return AtomicStructure(
        np.array(atoms.numbers, dtype=np.int64), np.array(atoms.positions, dtype=np.float64), cell,
        {**collect_labels(atoms.info), **_read_results(atoms)}, name or str(atoms.info.get(NAME, "")),
    )


def to_pymatgen(structure: AtomicStructure, wrap: bool = False) -> Any:
    """A pymatgen ``Structure`` of a crystal, a ``Molecule`` of a molecule, labels and name in ``properties``.

    Args:
        structure: crystal or molecule.
        wrap: move atoms into the cell, as files of crystallography expect. False: leave them in their images.
    """
    core = require("pymatgen.core", "chemistry")
    species = [core.Element.from_Z(z) if z else core.DummySpecies("X", 0) for z in structure.numbers.tolist()]
    if structure.cell is None:
        return core.Molecule(species, structure.positions, properties=_describe(structure))
    return core.Structure(
        structure.cell, species, structure.positions, coords_are_cartesian=True, to_unit_cell=wrap,
        properties=_describe(structure),
    )


def from_pymatgen(
    structure: Structure | Molecule, name: str = "", labels: Mapping[str, float] | None = None
) -> AtomicStructure:
    """Structure from an ordered pymatgen structure or molecule, with the numbers in ``properties`` as labels.

    Args:
        structure: ordered; dummy species become atoms of number 0.
        name: what to call it; empty: ``properties["name"]``.
        labels: more labels; they go before those of ``properties``.

    Raises:
        ValueError: if a site is partially occupied or shared by elements.
    """
    core = require("pymatgen.core", "chemistry")
    properties = structure.properties or {}
    name = name or str(properties.get(NAME, ""))
    if not structure.is_ordered:
        raise ValueError(f"{name or structure.formula}: partial occupancy; order the structure (pymatgen's "
                         "OrderDisorderedStructureTransformation) or drop it")
    numbers = [0 if isinstance(site.specie, core.DummySpecies) else site.specie.Z for site in structure]
    lattice = getattr(structure, "lattice", None)
    return AtomicStructure(
        np.array(numbers, dtype=np.int64), np.array(structure.cart_coords, dtype=np.float64).reshape(-1, 3),
        None if lattice is None else np.array(lattice.matrix, dtype=np.float64),
        {**collect_labels(properties), **(labels or {})}, name,
    )


def to_torch_geometric(structure: AtomicStructure) -> Data:
    """torch-geometric data: ``z`` [n] int64, ``pos`` [n, 3] float64, ``cell`` [1, 3, 3] of a crystal, labels, name.

    ``labels`` is a dict of [1] float64 tensors, so that a label may be called what it likes, and a batch of data with
    the same labels holds [B] of each.
    """
    data = require("torch_geometric.data", "chemistry")
    import torch

    check_names(structure.labels, structure.name)
    entries: dict[str, Any] = {
        "z": torch.from_numpy(structure.numbers.astype(np.int64)),
        "pos": torch.from_numpy(structure.positions.astype(np.float64)),
        LABELS: {key: torch.tensor([value], dtype=torch.float64) for key, value in structure.labels.items()},
        NAME: structure.name,
    }
    if structure.cell is not None:
        entries["cell"] = torch.from_numpy(structure.cell.astype(np.float64))[None]
    found: Data = data.Data(num_nodes=len(structure.numbers), **entries)
    return found


def from_torch_geometric(data: Data, name: str = "", targets: Sequence[str] = ()) -> AtomicStructure:
    """Structure from one torch-geometric graph with ``z`` and ``pos``; edges stay behind.

    Args:
        data: of one structure, on any device; ``cell`` as [1, 3, 3] or [3, 3] makes it a crystal.
        name: what to call it; empty: ``data.name``.
        targets: names of the columns of ``data.y`` [1, L], such as a public set documents; they become labels.

    Raises:
        ValueError: if ``z`` or ``pos`` is missing, or ``y`` has another number of columns.
    """
    missing = [key for key in ("z", "pos") if data.get(key) is None]
    if missing:
        raise ValueError(f"data without {' and '.join(missing)}: give atomic numbers as z [n] and positions as pos "
                         "[n, 3], Å")
    labels = {key: _first(value) for key, value in (data.get(LABELS) or {}).items()}
    if targets:
        values = [] if data.get("y") is None else data.y.reshape(-1).tolist()
        if len(values) != len(targets):
            raise ValueError(f"{len(targets)} targets are named, but y holds {len(values)} numbers: {list(targets)}")
        labels |= dict(zip(targets, map(float, values), strict=True))
    cell = data.get("cell")
    return AtomicStructure(
        _array(data.z).astype(np.int64), _array(data.pos).astype(np.float64),
        None if cell is None else _array(cell).astype(np.float64).reshape(3, 3),
        labels, name or str(data.get(NAME) or ""),
    )


def _describe(structure: AtomicStructure) -> dict[str, Any]:
    check_names(structure.labels, structure.name)
    return {**structure.labels, **({NAME: structure.name} if structure.name else {})}


def _read_results(atoms: Atoms) -> dict[str, float]:
    """Scalars that a calculator found for these very positions; none of a calculation that is yet to be done."""
    if atoms.calc is None:
        return {}
    from ase.calculators.calculator import CalculatorError

    found = {}
    for name in _SCALAR_RESULTS:
        try:
            value = read_number(atoms.calc.get_property(name, atoms, allow_calculation=False))
        except (CalculatorError, NotImplementedError):  # not found yet, or not of this calculator's kind
            continue
        if value is not None:
            found[name] = value
    return found


def _first(value: Any) -> float:
    return float(value.reshape(-1)[0]) if hasattr(value, "reshape") else float(value)


def _array(tensor: Any) -> NDArray[Any]:
    return np.array(tensor.detach().cpu().numpy())
