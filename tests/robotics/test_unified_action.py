"""RDT's unified vector: where each quantity stands, there and back."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polydit.domains.robotics.unified_action import (
    RANGES,
    SLOTS,
    SlotMap,
    count_slots,
    keep_invalid,
)
from polydit.platform.errors import ConfigurationError, DataError

EVERY_SLOT = [f"{name}_{place}" for name, (start, end) in RANGES.items() for place in range(end - start)]


def test_the_ranges_tile_the_vector_as_published() -> None:
    assert sorted(SlotMap(EVERY_SLOT).slots) == list(range(SLOTS))
    published = {
        "right_arm_joint_position_9": 9, "right_gripper_joint_position_0": 10, "right_arm_joint_velocity_0": 15,
        "right_gripper_joint_velocity_4": 29, "right_end_effector_position_0": 30, "right_end_effector_rotation_5": 38,
        "right_end_effector_velocity_2": 41, "right_end_effector_angular_velocity_0": 42, "right_reserved_4": 49,
        "left_arm_joint_position_0": 50, "left_gripper_joint_position_0": 60, "left_end_effector_position_2": 82,
        "base_velocity_1": 101, "base_angular_velocity_0": 102, "reserved_0": 103,
    }
    assert SlotMap(list(published)).slots == tuple(published.values())


def test_ranges_and_whole_quantities_stand_for_their_slots() -> None:
    names = ["right_arm_joint_position[2:4]", "base_velocity", "left_gripper_joint_position_0"]
    assert SlotMap(names).slots == (2, 3, 100, 101, 60)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(EVERY_SLOT), min_size=1, max_size=30, unique=True), st.integers(0, 3))
def test_unpack_undoes_pack_and_other_slots_are_zero(names: list[str], leading: int) -> None:
    slots = SlotMap(names)
    values = torch.randn(*(2,) * leading, len(names))
    packed = slots.pack(values)
    assert packed.shape == (*values.shape[:-1], SLOTS)
    assert torch.equal(slots.unpack(packed), values)
    assert not packed[..., ~slots.validity()].any() and int(slots.validity().sum()) == len(names)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["right_arm_joint_posiiton_0"], "'right_arm_joint_posiiton_0' is no quantity.*right_arm_joint_position_0"),
        (["gripper"], "'gripper' is no quantity"),
        (["right_end_effector_position_3"], "beyond the 3 slots of right_end_effector_position"),
        (["base_velocity", "base_velocity_1"], "dimensions 1 and 2 are both base_velocity_1"),
        (["base_velocity[1:1]"], "empty range"),
        ([], "at least one dimension"),
    ],
)
def test_a_wrong_map_names_the_dimension(names: list[str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        SlotMap(names)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (torch.zeros(2, 2), "2 dimensions were given for the 3.*first without a value is base_angular_velocity_0"),
        (torch.zeros(4), "4 dimensions were given for the 3"),
        (torch.tensor([[0.0, 1, 2], [0, torch.nan, 2]]), "dimension 1, base_velocity_1, holds"),
        (torch.tensor([0.0, 1, torch.inf]), "dimension 2, base_angular_velocity_0, holds"),
    ],
)
def test_wrong_values_name_the_dimension(values: torch.Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        SlotMap(["base_velocity", "base_angular_velocity"]).pack(values)


def test_a_vector_of_another_length_is_refused() -> None:
    with pytest.raises(DataError, match="128 slots, not 127"):
        SlotMap(["base_velocity"]).unpack(torch.zeros(127))


def test_what_counts_and_what_is_kept() -> None:
    valid = torch.stack([SlotMap(["base_velocity"]).validity(), SlotMap(["reserved_0"]).validity()])
    real = torch.tensor([[True, True, False], [True, False, False]])
    counted = count_slots(valid, real)
    assert counted.shape == (2, 3, SLOTS) and counted.sum(dim=(1, 2)).tolist() == [4, 1]
    assert count_slots(valid, real, "all").sum(dim=(1, 2)).tolist() == [2 * SLOTS, SLOTS]
    values, keep = keep_invalid(valid, 3)
    assert not values.any() and values.shape == keep.shape == (2, 3, SLOTS)
    assert torch.equal(keep, ~valid[:, None].expand(2, 3, SLOTS))
