"""Errors of pose hypotheses, each frame by itself, as the field computes them.

Everything is in millimetres and relative to the pelvis.

Shape legend: H hypotheses, N frames.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from polydit.data.pose.skeleton import JOINTS, MIRRORED, PARENTS

Array = NDArray[np.float64]

PCK_JOINTS = (1, 2, 3, 4, 5, 6, 8, 10, 11, 12, 13, 14, 15, 16)
"""The 14 joints that PCK counts (MPI-INF-3DHP, arXiv:1611.09813): neither pelvis nor spine nor neck."""

CPS_JOINTS = (0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14, 15, 16)
"""The 16 joints that CPS counts: all but the spine."""

PCK_THRESHOLD = 150.0
CPS_LIMIT = 300

SYMMETRIC_BONES = tuple(
    (PARENTS[JOINTS.index(f"left_{end}")], JOINTS.index(f"left_{end}"), PARENTS[JOINTS.index(f"right_{end}")],
     JOINTS.index(f"right_{end}"))
    for end in ("knee", "ankle", "shoulder", "elbow", "wrist")
)
"""The five bones that a person has twice: start and end of the left one, of the right one."""

LEVELS = np.linspace(0.05, 1.0, 20)
"""Quantiles at which calibration is looked at."""


def joint_errors(poses: Array, truth: Array) -> Array:
    """Distances [H, 17] of the joints of poses [H, 17, 3] from those of `truth` [17, 3]."""
    return np.linalg.norm(poses - truth, axis=-1)


def align(poses: Array, truth: Array) -> Array:
    """Poses [H, 17, 3] moved, turned and scaled onto `truth` [17, 3] as well as can be, without reflection.

    Least squares (Umeyama 1991, doi 10.1109/34.88573); a pose without any extent is only moved.
    """
    middle, target = poses.mean(axis=1, keepdims=True), truth.mean(axis=0)
    centred, goal = poses - middle, truth - target
    u, stretch, v = np.linalg.svd(np.einsum("hji,jk->hik", centred, goal))
    sign = np.sign(np.linalg.det(u @ v))
    stretch[:, -1] *= sign
    u[:, :, -1] *= sign[:, None]
    size = (centred**2).sum(axis=(1, 2))
    scale = np.divide(stretch.sum(axis=1), size, out=np.ones_like(size), where=size > 0)
    return scale[:, None, None] * centred @ (u @ v) + target


def mpjpe(poses: Array, truth: Array) -> Array:
    """Mean error over the 17 joints, [H]."""
    return joint_errors(poses, truth).mean(axis=1)


def pck(poses: Array, truth: Array) -> Array:
    """Share of 14 joints within 150 mm, [H]."""
    return (joint_errors(poses, truth)[:, list(PCK_JOINTS)] < PCK_THRESHOLD).mean(axis=1)


def cps(aligned: Array, truth: Array) -> float:
    """Area under the curve of "some aligned pose has all joints within d", d = 1 to 300 mm (arXiv:2011.14679)."""
    worst = joint_errors(aligned, truth)[:, list(CPS_JOINTS)].max(axis=1).min()
    return float((worst < np.arange(1, CPS_LIMIT + 1)).sum())


def symmetry_error(poses: Array) -> Array:
    """Mean difference of the lengths of left and right bones, [H]."""

    def length(start: int, end: int) -> Array:
        return np.linalg.norm(poses[:, end] - poses[:, start], axis=-1)

    return np.mean([np.abs(length(a, b) - length(c, d)) for a, b, c, d in SYMMETRIC_BONES], axis=0)


def calibration_quantiles(poses: Array, truth: Array) -> Array:
    """For each of 16 joints the share of hypotheses that lie farther from their median than the truth does, [16].

    Uniform over frames if the hypotheses are spread as the truth is (Pierzchlewicz et al. 2022, arXiv:2210.11179).
    """
    median = np.median(poses, axis=0)
    spread = np.linalg.norm(poses - median, axis=-1)
    return (np.linalg.norm(truth - median, axis=-1) < spread).mean(axis=0)[1:]


def calibration_error(quantiles: Array) -> float:
    """Expected calibration error of quantiles [N, 16]: mean difference from uniform over `LEVELS`, median over joints.

    0 for hypotheses that are spread as the truth is; near 0.5 where all are one, or the truth lies outside of all.
    """
    below = (quantiles[:, :, None] <= LEVELS).mean(axis=0)
    return float(np.abs(np.median(below, axis=0) - LEVELS).mean())


def mode_shares(poses: Array, truth: Array, exchanged: NDArray[np.bool_], limit: float = 100.0) -> tuple[float, float]:
    """Shares of hypotheses near the true limbs and near the exchanged ones, as a picture shows them.

    A hypothesis is near if its joints in doubt lie within `limit` on average, across the line of sight: what a picture
    shows of exchanged limbs. NaN where nothing is in doubt, or the two lie too close together to tell.
    """
    if not exchanged.any():
        return float("nan"), float("nan")
    one = truth[exchanged][:, :2]
    other = truth[list(MIRRORED)][exchanged][:, :2]
    if np.linalg.norm(one - other, axis=-1).mean() < 2 * limit:
        return float("nan"), float("nan")
    seen = poses[:, exchanged][..., :2]
    near = [np.linalg.norm(seen - mode, axis=-1).mean(axis=1) < limit for mode in (one, other)]
    return float(near[0].mean()), float(near[1].mean())
