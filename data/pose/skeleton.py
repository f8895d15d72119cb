"""The joints: Human3.6M's 17 for poses, MPII's 16 for heatmaps, and which joints of other skeletons they are.

Shape legend: T frames, K joints of another skeleton.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from polydit.platform.errors import DataError

JOINTS = (
    "pelvis", "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle", "spine", "thorax",
    "neck", "head", "left_shoulder", "left_elbow", "left_wrist", "right_shoulder", "right_elbow", "right_wrist",
)  # fmt: skip
"""Human3.6M's 17 joints in their usual order; ``neck`` is its "neck/nose", ``head`` the top of the head."""

PARENTS = (-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 9, 8, 11, 12, 8, 14, 15)
"""Parent of each joint; -1: the root, the middle of the hips."""

ROOT = JOINTS.index("pelvis")

HEATMAP_JOINTS = (
    "right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle", "pelvis", "thorax", "neck", "head",
    "right_wrist", "right_elbow", "right_shoulder", "left_shoulder", "left_elbow", "left_wrist",
)  # fmt: skip
"""MPII's 16 joints in the order in which its detectors give heatmaps; Human3.6M's but for the spine."""

HEATMAP_INDEX = tuple(JOINTS.index(name) for name in HEATMAP_JOINTS)
"""Place among `JOINTS` of each heatmap."""

MIRRORED = tuple(
    JOINTS.index(
        name.replace("left", "right") if name.startswith("left") else name.replace("right", "left")
    )
    for name in JOINTS
)
"""Place of each joint's counterpart on the other side; its own on the midline."""

LIMBS = {
    "arms": ("elbow", "wrist"), "legs": ("knee", "ankle"),
    "sides": ("hip", "knee", "ankle", "shoulder", "elbow", "wrist"),
}  # fmt: skip
"""Joints that a detector may take, together, for those of the other side: a limb's, or all of a person's."""

CMU_ASF = {
    "pelvis": "root", "right_hip": "rhipjoint", "right_knee": "rfemur", "right_ankle": "rtibia",
    "left_hip": "lhipjoint", "left_knee": "lfemur", "left_ankle": "ltibia", "spine": "upperback",
    "thorax": "lowerneck", "neck": "upperneck", "head": "head", "left_shoulder": "lclavicle", "left_elbow": "lhumerus",
    "left_wrist": "lwrist", "right_shoulder": "rclavicle", "right_elbow": "rhumerus", "right_wrist": "rwrist",
}  # fmt: skip
"""Joint -> bone of the CMU database's ASF files at whose end it is; the head is the end of the head's bone."""

CMU_BVH = {
    "pelvis": "Hips", "right_hip": "RightUpLeg", "right_knee": "RightLeg", "right_ankle": "RightFoot",
    "left_hip": "LeftUpLeg", "left_knee": "LeftLeg", "left_ankle": "LeftFoot", "spine": "Spine", "thorax": "Neck1",
    "neck": "Head", "head": "HeadEnd", "left_shoulder": "LeftArm", "left_elbow": "LeftForeArm",
    "left_wrist": "LeftHand", "right_shoulder": "RightArm", "right_elbow": "RightForeArm", "right_wrist": "RightHand",
}  # fmt: skip
"""Joint -> name in BVH conversions of the same database."""

HUMAN36M_INDEX = (0, 1, 2, 3, 6, 7, 8, 12, 13, 14, 15, 17, 18, 19, 25, 26, 27)
"""Place of each joint among the 32 of Human3.6M's files."""

MPI_INF_3DHP_INDEX = (14, 8, 9, 10, 11, 12, 13, 15, 1, 16, 0, 5, 6, 7, 2, 3, 4)
"""Place of each joint among the 17 that MPI-INF-3DHP's test set and its customary npz files hold."""


def select_joints(
    positions: NDArray[np.floating], names: Sequence[str], known: Sequence[Mapping[str, str]], where: str
) -> NDArray[np.float32]:
    """Positions [T, 17, 3] of `JOINTS` among those [T, K, 3] of a skeleton with these joint names.

    Args:
        positions: of all its joints.
        names: [K].
        known: mappings joint -> name; the first whose names are all there is taken.
        where: file, for the error.

    Raises:
        DataError: if no mapping fits, naming what the nearest one lacks.
    """
    missing = [sorted(set(mapping.values()) - set(names)) for mapping in known]
    best = min(range(len(known)), key=lambda i: len(missing[i]))
    if missing[best]:
        raise DataError(
            f"{where}: joint_names {', '.join(names)} lack {', '.join(missing[best])}: name the joints as one of the "
            f"known skeletons does, whose pelvis is {' or '.join(mapping[JOINTS[0]] for mapping in known)}"
        )
    places = [list(names).index(known[best][joint]) for joint in JOINTS]
    return np.ascontiguousarray(positions[:, places], dtype=np.float32)


def exchange_limbs(poses: NDArray[np.floating], exchanged: NDArray[np.bool_]) -> NDArray[np.floating]:
    """Poses [B, 17, 3] with the marked joints [B, 17] in the places of their counterparts."""
    return np.where(exchanged[..., None], poses[:, list(MIRRORED)], poses)


def limb_joints(limb: str) -> tuple[int, ...]:
    """Places of a limb's joints, both sides."""
    return tuple(JOINTS.index(f"{side}_{joint}") for side in ("left", "right") for joint in LIMBS[limb])
