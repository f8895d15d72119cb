"""What makes a record unfit for training, found in whole arrays at once.

Shape legend: n structures, a atoms of all structures together, m atoms of one structure.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_ATOMIC_NUMBER = 99
"""The element table of the models has 100 entries; index 0 is the mask (ADiT), so einsteinium is the last element."""

MIN_CELL_VOLUME = 0.1
"""Å^3; a smaller cell is flat (the limit of CDVAE's structural validity)."""


def record_faults(
    numbers: NDArray[Any],
    positions: NDArray[np.float64],
    counts: NDArray[np.int64],
    cells: NDArray[np.float64],
    space_group: NDArray[Any],
    minimum_distance: float,
) -> Iterator[tuple[int, str]]:
    """Position and reason of every bad record, in order; one reason each.

    Args:
        numbers: [a] atomic numbers, one structure after another.
        positions: [a, 3] Å.
        counts: [n] atoms of each structure.
        cells: [n, 3, 3] Å, NaN for molecules.
        space_group: [n] international numbers, 0 unknown.
        minimum_distance: Å, under which two atoms overlap; 0 switches that check off.
    """
    reasons: dict[int, str] = {int(i): "no atoms" for i in np.flatnonzero(counts == 0)}
    owner = np.repeat(np.arange(len(counts)), counts)
    for i in np.unique(owner[~np.isfinite(positions).all(axis=1)]).tolist():
        bad = positions[owner == i]
        atom = int(np.flatnonzero(~np.isfinite(bad).all(axis=1))[0])
        reasons.setdefault(i, f"atom {atom + 1} has the coordinates {bad[atom].tolist()}, which are not finite numbers")
    for i in np.unique(owner[(numbers < 1) | (numbers > MAX_ATOMIC_NUMBER)]).tolist():
        worst = [int(z) for z in numbers[owner == i] if z < 1 or z > MAX_ATOMIC_NUMBER]
        reasons.setdefault(i, f"atomic number {worst[0]} is outside the element table 1..{MAX_ATOMIC_NUMBER}; "
                              "remove or replace the atom")
    periodic = ~np.isnan(cells).all(axis=(1, 2))
    volumes = np.zeros(len(counts))
    whole = np.isfinite(cells).all(axis=(1, 2))
    volumes[whole] = np.abs(np.linalg.det(cells[whole]))
    for i in np.flatnonzero(periodic & (volumes < MIN_CELL_VOLUME)).tolist():
        reasons.setdefault(i, f"cell volume {volumes[i]:.3g} Å^3 is below {MIN_CELL_VOLUME}: check the lattice vectors")
    for i in np.flatnonzero((space_group < 0) | (space_group > 230)).tolist():
        reasons.setdefault(i, f"space group {space_group[i]} is outside 1..230 (0: unknown)")
    if minimum_distance > 0:
        skip = np.isin(np.arange(len(counts)), list(reasons))
        for i, distance in _overlaps(positions, counts, cells, skip, minimum_distance):
            reasons[i] = f"two atoms are {distance:.3f} Å apart, closer than {minimum_distance} Å: remove the duplicate"
    yield from sorted(reasons.items())


def _overlaps(
    positions: NDArray[np.float64],
    counts: NDArray[np.int64],
    cells: NDArray[np.float64],
    skip: NDArray[np.bool_],
    limit: float,
) -> Iterator[tuple[int, float]]:
    """Structures with two atoms nearer than `limit`, one size at a time so that all arrays are dense.

    Periodic images are taken by rounding fractional differences. That is exact for atoms that nearly coincide, which is
    what this looks for; it is no general minimum-image distance in a skewed cell.
    """
    starts = np.cumsum(counts) - counts
    for size in np.unique(counts[~skip & (counts > 1)]).tolist():
        block = max(1, 2_000_000 // (size * size))
        members = np.flatnonzero(~skip & (counts == size))
        first, second = np.triu_indices(size, k=1)
        for begin in range(0, len(members), block):
            index = members[begin : begin + block]
            points = positions[starts[index, None] + np.arange(size)]
            delta = points[:, first] - points[:, second]
            crystal = ~np.isnan(cells[index]).any(axis=(1, 2))
            if crystal.any():
                cell = cells[index[crystal]]
                fractional = delta[crystal] @ np.linalg.inv(cell)
                delta[crystal] = (fractional - np.round(fractional)) @ cell
            nearest = np.sqrt((delta**2).sum(axis=-1).min(axis=1))
            for k in np.flatnonzero(nearest < limit).tolist():
                yield int(index[k]), float(nearest[k])
