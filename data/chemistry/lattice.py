"""Cells between vectors and lengths with angles, and the crystallography done once per record.

Shape legend: n crystals.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .structure import AtomicStructure

SYMMETRY_PRECISION = 0.1
"""Å, how far atoms may be from symmetric places; 0.1 is what the Materials Project uses."""


def cell_parameters(cells: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lengths a, b, c [n, 3], Å, and angles alpha, beta, gamma [n, 3], radians; zero for cells [n, 3, 3] of zeros."""
    lengths = np.linalg.norm(cells, axis=-1)
    norms = lengths[:, [1, 2, 0]] * lengths[:, [2, 0, 1]]
    cosines = (cells[:, [1, 2, 0]] * cells[:, [2, 0, 1]]).sum(axis=-1) / np.where(norms > 0, norms, 1.0)
    return lengths, np.where(norms > 0, np.arccos(np.clip(cosines, -1.0, 1.0)), 0.0)


def cell_vectors(lengths: NDArray[np.float64], angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Lattice vectors [n, 3, 3] as rows, a along x and b in the xy plane (as in ASE).

    Args:
        lengths: [n, 3] a, b, c, Å.
        angles: [n, 3] alpha, beta, gamma, radians; three that close no cell give NaN in c.
    """
    cosine, sine = np.cos(angles), np.sin(angles[:, 2])
    cells = np.zeros((len(lengths), 3, 3))
    cells[:, 0, 0] = 1.0
    cells[:, 1, 0], cells[:, 1, 1] = cosine[:, 2], sine
    cells[:, 2, 0] = cosine[:, 1]
    cells[:, 2, 1] = (cosine[:, 0] - cosine[:, 1] * cosine[:, 2]) / sine
    with np.errstate(invalid="ignore"):
        cells[:, 2, 2] = np.sqrt(1.0 - cells[:, 2, 0] ** 2 - cells[:, 2, 1] ** 2)
    return cells * lengths[:, :, None]


def find_space_group(structure: AtomicStructure, precision: float = SYMMETRY_PRECISION) -> int:
    """International number by spglib, 0 if it finds none within `precision` Å."""
    import spglib

    if structure.cell is None:
        return 0
    symmetry = spglib.get_symmetry_dataset(
        (structure.cell.tolist(), structure.fractional.tolist(), structure.numbers.tolist()), symprec=precision
    )
    return 0 if symmetry is None else int(symmetry.number)


def niggli_reduce(structure: AtomicStructure) -> AtomicStructure:
    """The same crystal in its Niggli-reduced cell (the cell of MP-20 and CDVAE)."""
    reduced = structure.to_pymatgen().get_reduced_structure("niggli")
    return AtomicStructure.from_pymatgen(reduced, structure.name, structure.labels)


def standardise(structure: AtomicStructure, niggli: bool, find: bool) -> tuple[AtomicStructure, int]:
    """The crystal, Niggli-reduced if `niggli`, and its space group if `find`, else 0; molecules pass.

    Raises:
        ValueError: if the reduction fails.
    """
    if structure.cell is None:
        return structure, 0
    reduced = niggli_reduce(structure) if niggli else structure
    return reduced, find_space_group(reduced) if find else 0
