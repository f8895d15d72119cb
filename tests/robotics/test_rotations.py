"""Rotations as six numbers, there and back."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from polydit.domains.robotics.rotations import RotationForm, read_rotation_6d, write_rotation_6d
from polydit.platform.errors import DataError

FORMS = get_args(RotationForm)


def rotations(count: int) -> Any:
    return Rotation.random(count, rng=np.random.default_rng(0))


@pytest.mark.parametrize("form", FORMS)
def test_a_rotation_comes_back_in_every_form(form: RotationForm) -> None:
    truth = rotations(6)
    six = np.concatenate([truth.as_matrix()[..., 0], truth.as_matrix()[..., 1]], axis=-1)
    written = read_rotation_6d(six.reshape(2, 3, 6), form)
    np.testing.assert_allclose(write_rotation_6d(written, form), six.reshape(2, 3, 6), atol=1e-9)
    np.testing.assert_allclose(write_rotation_6d(written[0, 0], form), six[0], atol=1e-9)


def test_the_forms_are_the_field_s() -> None:
    quarter = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])  # about z
    six = write_rotation_6d(quarter, "matrix")
    np.testing.assert_allclose(six, [0, 1, 0, -1, 0, 0], atol=1e-12)
    half = np.sqrt(0.5)
    np.testing.assert_allclose(write_rotation_6d(np.array([0, 0, half, half]), "quaternion_xyzw"), six, atol=1e-12)
    np.testing.assert_allclose(write_rotation_6d(np.array([half, 0, 0, half]), "quaternion_wxyz"), six, atol=1e-12)
    np.testing.assert_allclose(write_rotation_6d(np.array([0, 0, np.pi / 2]), "euler_xyz"), six, atol=1e-12)
    np.testing.assert_allclose(write_rotation_6d(np.array([0, 0, np.pi / 2]), "rotation_vector"), six, atol=1e-12)
    x, y = Rotation.from_euler("x", 0.3), Rotation.from_euler("y", -0.7)
    turned = read_rotation_6d(write_rotation_6d(np.array([0.3, -0.7, 0]), "euler_xyz"), "matrix")
    np.testing.assert_allclose(turned, (y * x).as_matrix(), atol=1e-12)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-10, 10), min_size=6, max_size=6))
def test_any_two_columns_give_a_rotation_or_an_error(columns: list[float]) -> None:
    given_columns = np.array(columns)
    try:
        matrix = read_rotation_6d(given_columns, "matrix")
    except DataError:
        assert np.linalg.norm(np.cross(given_columns[:3], given_columns[3:])) < 1e-6
        return
    np.testing.assert_allclose(matrix.T @ matrix, np.eye(3), atol=1e-6)
    assert np.linalg.det(matrix) > 0
    first = given_columns[:3] / np.linalg.norm(given_columns[:3])
    np.testing.assert_allclose(matrix[:, 0], first, atol=1e-9)


@pytest.mark.parametrize("columns", [np.zeros(6), np.array([1.0, 0, 0, 2, 0, 0]), np.full(6, np.nan)])
def test_columns_without_a_plane_are_refused(columns: np.ndarray) -> None:
    with pytest.raises(DataError, match="parallel or zero"):
        read_rotation_6d(columns, "matrix")


def test_rotations_of_a_wrong_shape_are_refused() -> None:
    with pytest.raises(DataError, match=r"quaternion_xyzw has the shape \(..., 4\), not \(3,\)"):
        write_rotation_6d(np.zeros(3), "quaternion_xyzw")
    with pytest.raises(DataError, match="6 slots, not 9"):
        read_rotation_6d(np.zeros(9), "matrix")
    with pytest.raises(DataError, match="is no rotation as quaternion_xyzw"):
        write_rotation_6d(np.zeros(4), "quaternion_xyzw")
