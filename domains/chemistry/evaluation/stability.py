"""The stability that bond orders imply, by the EDM bond table.

Shape legend: n atoms of one molecule.

Source: Hoogeboom et al. 2022 (arXiv 2203.17003). The table knows no aromatic bonds, so that benzene's carbons count as
unstable. This belongs to the published metric, and is part of why real QM9 molecules reach 95 % and not 100 %.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from polydit.data.chemistry.bonds import MAX_VALENCE, BondTable, bond_table, infer_bond_orders
from polydit.data.chemistry.structure import AtomicStructure

__all__ = ["BondTable", "bond_table", "check_stability", "find_stable_atoms", "infer_bond_orders"]


def find_stable_atoms(numbers: NDArray[np.int64], orders: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each atom's summed bond order is an allowed valence of its element.

    Args:
        numbers: [n] atomic numbers; elements without a listed valence are never stable.
        orders: [n, n] from `infer_bond_orders`.

    Returns:
        [n] bool.
    """
    valence = orders.sum(axis=1)
    listed = valence < MAX_VALENCE
    return listed & bond_table().allowed[numbers, np.where(listed, valence, 0)]


def check_stability(structure: AtomicStructure) -> NDArray[np.bool_]:
    """[n] bool, whether each atom of a molecule is stable; the molecule is stable if all are."""
    return find_stable_atoms(structure.numbers, infer_bond_orders(structure.numbers, structure.positions))
