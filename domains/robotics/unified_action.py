"""RDT's unified vector: one place for every physical quantity that a robot with up to two arms has.

Shape legend: A dimensions of a robot's action or state, S = 128 slots, B batch, H actions of a chunk.

Robots of different bodies share a network because a quantity stands in the same slot whoever has it (arXiv 2410.07864).
Slots are in SI units: m, rad, m/s, rad/s; a gripper's opening is in [0, 1]. A single arm uses the slots of the right
one. What a rotation's six slots hold: `rotations`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Literal

import torch
from torch import Tensor

from polydit.platform.errors import ConfigurationError, DataError

SLOTS = 128
"""S."""

ARM = {
    "arm_joint_position": (0, 10),
    "gripper_joint_position": (10, 15),
    "arm_joint_velocity": (15, 25),
    "gripper_joint_velocity": (25, 30),
    "end_effector_position": (30, 33),
    "end_effector_rotation": (33, 39),
    "end_effector_velocity": (39, 42),
    "end_effector_angular_velocity": (42, 45),
    "reserved": (45, 50),
}
"""Quantity of an arm -> first slot and the one after the last, counted from the arm's own first."""

RANGES: dict[str, tuple[int, int]] = {
    **{f"right_{name}": span for name, span in ARM.items()},
    **{f"left_{name}": (start + 50, end + 50) for name, (start, end) in ARM.items()},
    "base_velocity": (100, 102),
    "base_angular_velocity": (102, 103),
    "reserved": (103, 128),
}
"""Quantity -> first slot and the one after the last. Reserved slots have no meaning in published weights; a model
trained from scratch may keep there what the vector has no name for, such as where objects are."""

SlotLoss = Literal["valid", "all"]
"""Which slots the loss is a mean over; see `count_slots`."""

class SlotMap:
    """Where each dimension of a robot's action or state stands in the unified vector.

    Args:
        names: of the dimensions in order: a quantity of `RANGES` and a number, ``right_arm_joint_position_0``; or
            several of it at once, ``right_arm_joint_position[0:7]``; or all, ``right_end_effector_position``.

    Raises:
        ConfigurationError: naming the dimension whose name is unknown, beyond the quantity's range, or taken.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names: tuple[str, ...] = tuple(name for given in names for name in _expand(given))
        self.slots: tuple[int, ...] = tuple(_slot(name) for name in self.names)
        if not self.slots:
            raise ConfigurationError("a slot map needs at least one dimension: name its quantity, see RANGES")
        for place, name in enumerate(self.names):
            if name in self.names[:place]:
                first = self.names.index(name)
                raise ConfigurationError(f"dimensions {first} and {place} are both {name}: a slot holds one of them")

    def __len__(self) -> int:
        return len(self.slots)

    def pack(self, values: Tensor) -> Tensor:
        """Unified vectors [..., S] of `values` [..., A], zero in the slots that the robot does not have.

        Raises:
            DataError: if there are more or fewer dimensions than names; on the CPU also if one is not a number.
        """
        self._check(values)
        packed = values.new_zeros(*values.shape[:-1], SLOTS)
        packed[..., list(self.slots)] = values
        return packed

    def unpack(self, vectors: Tensor) -> Tensor:
        """The robot's own dimensions [..., A] of unified `vectors` [..., S]."""
        if vectors.shape[-1] != SLOTS:
            raise DataError(f"a unified vector has {SLOTS} slots, not {vectors.shape[-1]}")
        return vectors[..., list(self.slots)]

    def validity(self, device: torch.device | str | None = None) -> Tensor:
        """[S] bool, True in the slots that the robot has."""
        valid = torch.zeros(SLOTS, dtype=torch.bool)
        valid[list(self.slots)] = True
        return valid.to(device)

    def _check(self, values: Tensor) -> None:
        given = values.shape[-1]
        if given != len(self):
            where = f"the first without a value is {self.names[given]}" if given < len(self) else "name the others"
            raise DataError(f"{given} dimensions were given for the {len(self)} of the slot map: {where}")
        # elsewhere looking at the numbers would stall the device
        if values.device.type == "cpu" and not bool(values.isfinite().all()):
            wrong = int((~values.isfinite()).reshape(-1, given).any(dim=0).nonzero()[0])
            raise DataError(f"dimension {wrong}, {self.names[wrong]}, holds a value that is no finite number")


def count_slots(valid: Tensor, real: Tensor, over: SlotLoss = "valid") -> Tensor:
    """Loss mask [B, H, S] of unified action chunks.

    The published loss is the mean over all slots, where a robot of 14 of them is taught by a ninth of the loss that it
    would have by itself, and the other slots to be zero. Over valid slots alone, losses of different robots compare;
    the values of the others are then given to the sampler (`keep_invalid`), not learnt.

    Args:
        valid: [B, S] bool.
        real: [B, H] bool, actions within the demonstration.
        over: ``valid`` slots, or ``all`` as published.
    """
    slots = valid if over == "valid" else torch.ones_like(valid)
    return real[..., None] & slots[:, None]


def keep_invalid(valid: Tensor, horizon: int) -> tuple[Tensor, Tensor]:
    """What sampling must keep of a unified chunk: values [B, H, S] of zero, and bool [B, H, S], True in invalid slots.

    For `Codec.known`: at every step the invalid slots then hold what they held in training, zero with noise, and zero
    at the end. Multiplying the end alone by zero, as published, would let the slots drift on the way wherever the loss
    has not taught them.

    Args:
        valid: [B, S] bool.
        horizon: H.
    """
    keep = ~valid[:, None].expand(-1, horizon, -1)
    return torch.zeros(keep.shape, device=valid.device), keep


def _expand(name: str) -> Iterator[str]:
    """Names of single slots that a name stands for."""
    match = re.fullmatch(r"(?P<quantity>\w+)\[(?P<start>\d+):(?P<end>\d+)\]", name)
    if match:
        if int(match["start"]) >= int(match["end"]):
            raise ConfigurationError(f"{name!r} is an empty range: its end must be above its start")
        yield from (f"{match['quantity']}_{place}" for place in range(int(match["start"]), int(match["end"])))
    elif name in RANGES:
        start, end = RANGES[name]
        yield from (f"{name}_{place}" for place in range(end - start))
    else:
        yield name


def _slot(name: str) -> int:
    quantity, _, number = name.rpartition("_")
    if quantity not in RANGES or not number.isdigit():
        near = get_close_matches(quantity if number.isdigit() else name, RANGES, n=1, cutoff=0.0)[0]
        raise ConfigurationError(
            f"dimension {name!r} is no quantity of the unified vector: "
            f"the nearest is {near}, written {near}_0 or {near}[0:2]"
        )
    start, end = RANGES[quantity]
    if int(number) >= end - start:
        raise ConfigurationError(f"dimension {name!r} is beyond the {end - start} slots of {quantity}: count from 0")
    return start + int(number)
