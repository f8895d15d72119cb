"""What is drawn of a molecule or a crystal: which atoms, which bonds, and from where they are seen.

Shape legend: n atoms drawn, m bonds.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from polydit.data.chemistry.structure import AtomicStructure
from polydit.platform.errors import require

Array = NDArray[np.float64]

BOND_TOLERANCE = 1.15
"""A pair is drawn bonded below this multiple of its summed covalent radii (the usual 1.1 to 1.3)."""

SMALLEST_BALL, BALL_SCALE = 0.16, 0.3
"""Ball radius is the first, Å, plus the second times the covalent radius: sticks show, and hydrogen is not lost."""

STICK_RADIUS = 0.12
"""Å."""

MAX_ATOMS = 400
"""At most this many atoms of a structure are drawn."""

EDGE_COLOUR = "#8a93a0"
"""Of the cell's edges; mid grey shows on a light and on a dark page."""


@dataclass(frozen=True)
class Scene:
    """What is drawn of a structure, turned so that the viewer looks along -y with z up.

    Args:
        numbers: [n] atomic numbers.
        positions: [n, 3] Å, centred.
        bonds: [m, 2] indices of bonded atoms.
        edges: [12, 2, 3] ends of the cell's edges, Å; None for a molecule.
    """

    numbers: NDArray[np.int64]
    positions: Array
    bonds: NDArray[np.int64]
    edges: Array | None = None

    @property
    def reach(self) -> float:
        """Radius of a sphere around the centre that holds all that is drawn, however it is turned, Å."""
        points = self.positions if self.edges is None else np.concatenate([self.positions, self.edges.reshape(-1, 3)])
        largest = max((ball_radius(int(number)) for number in np.unique(self.numbers)), default=0.0)
        return float(np.linalg.norm(points, axis=1).max(initial=0.5)) + largest


def stage_structure(structure: AtomicStructure) -> Scene:
    """Scene of a structure: copies of atoms on a cell's faces, bonds by distance, a view that shows most of it.

    Atoms whose coordinates are not finite are left out.
    """
    finite = np.isfinite(structure.positions).all(axis=1)
    numbers, positions = structure.numbers[finite][:MAX_ATOMS], structure.positions[finite][:MAX_ATOMS]
    if structure.cell is None or not np.isfinite(structure.cell).all():
        centre = positions.mean(axis=0) if len(positions) else np.zeros(3)
        positions = (positions - centre) @ find_principal_axes(positions - centre).T
        return Scene(numbers, positions, find_bonds(numbers, positions))
    cell = structure.cell
    if abs(np.linalg.det(cell)) > 1e-6:
        numbers, positions = fill_cell(numbers, positions, cell)
        numbers, positions = numbers[:MAX_ATOMS], positions[:MAX_ATOMS]
    bonds = find_bonds(numbers, positions)
    centre, turn = cell.sum(axis=0) / 2, find_cell_view(cell)
    return Scene(numbers, (positions - centre) @ turn.T, bonds, (list_cell_edges(cell) - centre) @ turn.T)


def find_principal_axes(positions: Array) -> Array:
    """[3, 3] rotation after which a molecule is widest along x, then z, and flattest along the line of sight y."""
    if len(positions) < 2:
        return np.eye(3)
    _, _, axes = np.linalg.svd(positions, full_matrices=True)
    rotation = axes[[0, 2, 1]]
    return np.asarray(rotation * np.array([1.0, np.sign(np.linalg.det(rotation)), 1.0])[:, None])


def find_cell_view(cell: Array) -> Array:
    """[3, 3] rotation that stands the c axis nearly upright and looks at the a-c face from above and beside."""
    up = normalise(cell[2])
    right = normalise(cell[0] - (cell[0] @ up) * up)
    upright = np.stack([right, np.cross(up, right), up])
    aside, above = np.deg2rad(20), np.deg2rad(14)
    about_z = np.array([[np.cos(aside), -np.sin(aside), 0], [np.sin(aside), np.cos(aside), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(above), -np.sin(above)], [0, np.sin(above), np.cos(above)]])
    return np.asarray(about_x @ about_z @ upright)


def normalise(vector: Array) -> Array:
    """Unit vector; a vanishing vector stays zero."""
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-12))


def fill_cell(numbers: NDArray[np.int64], positions: Array, cell: Array) -> tuple[NDArray[np.int64], Array]:
    """Atoms wrapped into the cell, those on a face, edge or corner repeated on the opposite ones."""
    fractional = np.linalg.solve(cell.T, positions.T).T % 1.0
    margin = 1e-2
    fractional[fractional > 1 - margin] -= 1.0
    shifts = np.array(list(np.ndindex(2, 2, 2)), dtype=np.float64)
    images = fractional[:, None] + shifts  # [n, 8, 3]
    inside = (images < 1 + margin).all(axis=-1)
    return np.repeat(numbers, inside.sum(axis=1)), images[inside] @ cell


def list_cell_edges(cell: Array) -> Array:
    """[12, 2, 3] ends of the edges of a cell whose corner is the origin."""
    edges = []
    for axis in range(3):
        first, second = (cell[i] for i in range(3) if i != axis)
        for start in (np.zeros(3), first, second, first + second):
            edges.append((start, start + cell[axis]))
    return np.array(edges)


def find_bonds(numbers: NDArray[np.int64], positions: Array) -> NDArray[np.int64]:
    """[m, 2] pairs closer than `BOND_TOLERANCE` times their summed covalent radii."""
    radii = element_radii()[numbers]
    distance = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    return np.argwhere(np.triu(distance < BOND_TOLERANCE * (radii[:, None] + radii), k=1))


@cache
def element_radii() -> Array:
    """[119] covalent radii by atomic number, Å (Cordero et al. 2008, through ASE)."""
    return np.asarray(require("ase.data", "chemistry").covalent_radii)[:119]


def element_colour(number: int) -> str:
    """Colour of an element as hexadecimal RGB (Jmol's table, through ASE)."""
    colours = require("ase.data.colors", "chemistry").jmol_colors
    return "#" + "".join(f"{round(255 * float(channel)):02x}" for channel in colours[number])


def element_name(number: int) -> str:
    """English name of an element."""
    return str(require("ase.data", "chemistry").atomic_names[number])


def ball_radius(number: int) -> float:
    """Radius of an element's ball, Å."""
    return SMALLEST_BALL + BALL_SCALE * float(element_radii()[number])
