"""Rotations as six numbers, without the jumps that angles and quaternions have.

Shape legend: ... any leading dimensions.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from polydit.platform.errors import DataError, require

RotationForm = Literal["matrix", "quaternion_xyzw", "quaternion_wxyz", "euler_xyz", "rotation_vector"]
"""How a rotation is written: [..., 3, 3]; [..., 4] with the real part last or first; angles about the fixed axes x, y,
z in this order, rad, [..., 3]; axis times angle, rad, [..., 3]."""


_SHAPES: dict[RotationForm, tuple[int, ...]] = {
    "matrix": (3, 3), "quaternion_xyzw": (4,), "quaternion_wxyz": (4,), "euler_xyz": (3,), "rotation_vector": (3,),
}


def write_rotation_6d(rotation: NDArray[np.floating], form: RotationForm) -> NDArray[np.float64]:
    """The first two columns [..., 6] of the rotation matrix, one after the other: what a rotation's six slots hold.

    Unlike angles they have no jumps, so a network can learn them (arXiv 1812.07035).

    Raises:
        DataError: if the shape is not that of the form.
    """
    values, shape = np.asarray(rotation, dtype=np.float64), _SHAPES[form]
    if values.shape[-len(shape) :] != shape:
        raise DataError(f"a rotation as {form} has the shape (..., {', '.join(map(str, shape))}), not {values.shape}")
    leading = values.shape[: values.ndim - len(shape)]
    matrices = _read(values.reshape(-1, *shape), form).as_matrix()
    return np.concatenate([matrices[..., 0], matrices[..., 1]], axis=-1).reshape(*leading, 6)


def read_rotation_6d(columns: NDArray[np.floating], form: RotationForm) -> NDArray[np.float64]:
    """The rotation, as `form`, nearest to two columns [..., 6] that need be neither of unit length nor at right angles.

    The first column keeps its direction and the second its plane (Gram-Schmidt; arXiv 1812.07035, section B).

    Raises:
        DataError: if there are not six numbers, or the columns are parallel or zero, and span no plane.
    """
    values = np.asarray(columns, dtype=np.float64)
    if values.shape[-1] != 6:
        raise DataError(f"a rotation has 6 slots, not {values.shape[-1]}: give the two columns one after the other")
    flat = values.reshape(-1, 6)
    with np.errstate(invalid="ignore", divide="ignore"):
        first = flat[:, :3] / np.linalg.norm(flat[:, :3], axis=1, keepdims=True)
        second = flat[:, 3:] - first * np.sum(first * flat[:, 3:], axis=1, keepdims=True)
        length = np.linalg.norm(second, axis=1, keepdims=True)
        second = second / length
    flat_ones = ~(length[:, 0] > 1e-9 * np.linalg.norm(flat[:, 3:], axis=1))
    if flat_ones.any():
        raise DataError(f"the columns {flat[flat_ones][0].round(6).tolist()} are parallel or zero and say no rotation")
    matrices = np.stack([first, second, np.cross(first, second)], axis=-1)
    return _write(matrices, form).reshape(*values.shape[:-1], *_SHAPES[form])


def _read(values: NDArray[np.float64], form: RotationForm):  # type: ignore[no-untyped-def]  # scipy's, loaded on demand
    rotation = require("scipy.spatial.transform", "robotics").Rotation
    try:
        if form == "matrix":
            return rotation.from_matrix(values)
        if form == "euler_xyz":
            return rotation.from_euler("xyz", values)
        if form == "rotation_vector":
            return rotation.from_rotvec(values)
        return rotation.from_quat(values if form == "quaternion_xyzw" else np.roll(values, -1, axis=-1))
    except ValueError as error:
        raise DataError(f"{values.reshape(len(values), -1)[0].tolist()} is no rotation as {form}: {error}") from error


def _write(matrices: NDArray[np.float64], form: RotationForm) -> NDArray[np.float64]:
    if form == "matrix":
        return matrices
    rotation = _read(matrices, "matrix")
    if form == "euler_xyz":
        return rotation.as_euler("xyz")
    if form == "rotation_vector":
        return rotation.as_rotvec()
    quaternion = rotation.as_quat()
    return quaternion if form == "quaternion_xyzw" else np.roll(quaternion, 1, axis=-1)
