"""Rigid superposition of two sets of atoms.

Shape legend: n atoms of one structure.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def superpose(positions: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """`positions` [n, 3] moved rigidly, without reflection, to the least squared distance from `target` [n, 3].

    Source: Kabsch 1976 (doi 10.1107/S0567739476001873).
    """
    centred, reference = positions - positions.mean(axis=0), target - target.mean(axis=0)
    u, _, vt = np.linalg.svd(centred.T @ reference)
    flip = np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    return centred @ u @ flip @ vt + target.mean(axis=0)
