"""One molecule or crystal, and its way in and out of RDKit, pymatgen and ASE.

Shape legend: n atoms.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from polydit.platform.errors import require

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure


@dataclass(frozen=True, eq=False)
class AtomicStructure:
    """Atoms in space, periodic or not.

    Args:
        numbers: [n] int64 atomic numbers, 1 = hydrogen.
        positions: [n, 3] float64 Cartesian coordinates, Å.
        cell: [3, 3] float64 lattice vectors as rows, Å; None for a molecule.
        labels: scalar properties by name, in the unit its data set states.
        name: identifier in its source, for messages and files.
    """

    numbers: NDArray[np.int64]
    positions: NDArray[np.float64]
    cell: NDArray[np.float64] | None = None
    labels: dict[str, float] = field(default_factory=dict)
    name: str = ""

    @property
    def is_periodic(self) -> bool:
        """Whether this is a crystal."""
        return self.cell is not None

    @property
    def fractional(self) -> NDArray[np.float64]:
        """[n, 3] fractional coordinates wrapped into [0, 1)."""
        if self.cell is None:
            raise ValueError(f"molecule {self.name!r} has no cell, so no fractional coordinates")
        return np.asarray(np.linalg.solve(self.cell.T, self.positions.T).T % 1.0, dtype=np.float64)

    def to_ase(self) -> Atoms:
        """ASE atoms, labels in ``info``."""
        require("ase", "chemistry")
        from ase import Atoms

        return Atoms(
            numbers=self.numbers, positions=self.positions, cell=self.cell, pbc=self.is_periodic,
            info={**self.labels, "name": self.name},
        )

    def to_pymatgen(self) -> Structure:
        """A pymatgen structure of a crystal, labels in ``properties``."""
        require("pymatgen", "chemistry")
        from pymatgen.core import Structure

        if self.cell is None:
            raise ValueError(f"molecule {self.name!r} has no cell: use to_ase() or the RDKit conversion")
        return Structure(
            self.cell, self.numbers.tolist(), self.positions, coords_are_cartesian=True, to_unit_cell=True,
            properties=dict(self.labels),
        )

    @staticmethod
    def from_ase(atoms: Atoms, name: str = "") -> AtomicStructure:
        """Structure from ASE atoms; periodic if any direction is."""
        numeric: dict[str, Any] = {k: v for k, v in atoms.info.items() if isinstance(v, int | float | np.number)}
        return AtomicStructure(
            np.asarray(atoms.numbers, dtype=np.int64), np.asarray(atoms.positions, dtype=np.float64),
            np.asarray(atoms.cell.array, dtype=np.float64) if atoms.pbc.any() else None,
            {k: float(v) for k, v in numeric.items()}, name or str(atoms.info.get("name", "")),
        )

    @staticmethod
    def from_pymatgen(structure: Structure, name: str = "", labels: dict[str, float] | None = None) -> AtomicStructure:
        """Structure from an ordered pymatgen structure.

        Raises:
            ValueError: if a site is partially occupied or shared by elements.
        """
        if not structure.is_ordered:
            raise ValueError(f"{name or structure.formula}: partial occupancy; order the structure (pymatgen's "
                             "OrderDisorderedStructureTransformation) or drop it")
        return AtomicStructure(
            np.asarray(structure.atomic_numbers, dtype=np.int64), np.asarray(structure.cart_coords, dtype=np.float64),
            np.asarray(structure.lattice.matrix, dtype=np.float64), dict(labels or {}), name,
        )
