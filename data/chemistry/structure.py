"""One molecule or crystal, and its way in and out of ASE, pymatgen, RDKit and torch-geometric.

Shape legend: n atoms.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ase import Atoms
    from pymatgen.core import Molecule, Structure
    from rdkit.Chem import Mol
    from torch_geometric.data import Data


@dataclass(frozen=True, eq=False)
class AtomicStructure:
    """Atoms in space, periodic or not.

    Args:
        numbers: [n] int64 atomic numbers, 1 = hydrogen; 0 is a dummy atom, which stores refuse.
        positions: [n, 3] float64 Cartesian coordinates, Å.
        cell: [3, 3] float64 lattice vectors as rows, Å; None for a molecule.
        labels: scalar properties by name, in the unit its data set states; NaN is missing.
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
        """ASE atoms, labels in ``info``; see `polydit.data.chemistry.interchange`."""
        from .interchange import to_ase

        return to_ase(self)

    def to_pymatgen(self, wrap: bool = False) -> Any:
        """A pymatgen ``Structure`` of a crystal (atoms moved into the cell if `wrap`), a ``Molecule`` of a molecule."""
        from .interchange import to_pymatgen

        return to_pymatgen(self, wrap)

    def to_rdkit(self, sanitize: bool = True) -> Mol | None:
        """RDKit molecule of a molecule, bonds inferred from distances; None where `sanitize` and RDKit refuses it."""
        from .interchange import to_rdkit

        return to_rdkit(self, sanitize)

    def to_torch_geometric(self) -> Data:
        """torch-geometric data with ``z``, ``pos``, ``cell`` of a crystal, ``labels`` and ``name``."""
        from .interchange import to_torch_geometric

        return to_torch_geometric(self)

    @staticmethod
    def from_ase(atoms: Atoms, name: str = "") -> AtomicStructure:
        """Structure from ASE atoms; periodic if any direction is."""
        from .interchange import from_ase

        return from_ase(atoms, name)

    @staticmethod
    def from_pymatgen(
        structure: Structure | Molecule, name: str = "", labels: Mapping[str, float] | None = None
    ) -> AtomicStructure:
        """Structure from an ordered pymatgen structure or molecule.

        Raises:
            ValueError: if a site is partially occupied or shared by elements.
        """
        from .interchange import from_pymatgen

        return from_pymatgen(structure, name, labels)

    @staticmethod
    def from_rdkit(molecule: Mol, name: str = "", conformer: int = -1) -> AtomicStructure:
        """Structure of an RDKit molecule with explicit hydrogens and a conformer.

        Raises:
            ValueError: if atoms lack coordinates.
        """
        from .interchange import from_rdkit

        return from_rdkit(molecule, name, conformer)

    @staticmethod
    def from_torch_geometric(data: Data, name: str = "", targets: Sequence[str] = ()) -> AtomicStructure:
        """Structure from one torch-geometric graph with ``z`` and ``pos``; `targets` name the columns of ``y``.

        Raises:
            ValueError: if one of them is missing.
        """
        from .interchange import from_torch_geometric

        return from_torch_geometric(data, name, targets)
