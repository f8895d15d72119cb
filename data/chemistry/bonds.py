"""Bond orders from distances, by the EDM bond table.

Shape legend: n atoms of one molecule, Z atomic number.

Source: Hoogeboom et al. 2022 (arXiv 2203.17003); the numbers stand in ``tables/bonds.json``. The rule knows no
aromatic bonds: a ring whose bonds are all alike (benzene, 1.39 Å) counts as single-bonded.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from polydit.platform.errors import require

NUM_ELEMENTS = 119
"""Length of tables that are indexed by atomic number 0..118."""

MAX_VALENCE = 8
"""Length of the table of allowed valences: none above 7 is listed."""


@dataclass(frozen=True)
class BondTable:
    """Thresholds and valences, indexed by atomic number.

    Args:
        thresholds: [3, Z, Z] Å; a pair closer than ``thresholds[k - 1]`` may have order k; -inf where order k has no
            length.
        allowed: [Z, V] bool, whether an atom may have a summed bond order of 0..V-1.
    """

    thresholds: NDArray[np.float64]
    allowed: NDArray[np.bool_]


def read_bond_table() -> bytes:
    """The file ``tables/bonds.json``, such as for a digest of it."""
    return resources.files("polydit.data.chemistry.tables").joinpath("bonds.json").read_bytes()


@cache
def bond_table() -> BondTable:
    """The table of ``tables/bonds.json`` as arrays."""
    atomic_numbers = require("ase.data", "chemistry").atomic_numbers
    table = json.loads(read_bond_table())
    thresholds = np.full((3, NUM_ELEMENTS, NUM_ELEMENTS), -np.inf)
    for order, name in enumerate(("single", "double", "triple")):
        for pair, length in table["lengths"][name].items():
            a, b = (atomic_numbers[symbol] for symbol in pair.split("-"))
            thresholds[order, a, b] = thresholds[order, b, a] = (length + table["margins"][name]) / 100
    allowed = np.zeros((NUM_ELEMENTS, MAX_VALENCE), dtype=bool)
    for symbol, valences in table["valences"].items():
        allowed[atomic_numbers[symbol], valences] = True
    return BondTable(thresholds, allowed)


def infer_bond_orders(numbers: NDArray[np.int64], positions: NDArray[np.float64]) -> NDArray[np.int64]:
    """Bond order of every pair of atoms by distance: 3, 2, 1 or 0.

    A pair is tested for single, then double, then triple; a higher order needs every lower one (EDM).

    Args:
        numbers: [n] atomic numbers; elements outside the table bond to nothing.
        positions: [n, 3] Å.

    Returns:
        [n, n] symmetric orders with a zero diagonal.
    """
    distance = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    within = distance < bond_table().thresholds[:, numbers[:, None], numbers[None]]
    return np.logical_and.accumulate(within, axis=0).sum(axis=0)
