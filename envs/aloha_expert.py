"""A scripted expert for ALOHA's transfer cube: waypoints from the cube's place, joints by inverse kinematics.

The right gripper takes the cube from above and turns level, which turns the cube by a right angle onto a face; the left
one, rolled by a right angle so that the fingers do not meet, takes it from the other side; the right one lets go.

Frames: x from the left arm to the right one, z up; a gripper points along its own x and closes along its own y.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .aloha import ARM_JOINTS
from .families import Expert
from .rendering import import_mujoco

if TYPE_CHECKING:
    from .environment import Environment

FINGERTIP = 0.1537
"""Distance from the gripper link to the fingers' ends, m; measured on the meshes of gym-aloha 0.1.5."""

RIGHT_GRASP = FINGERTIP - 0.018
"""Distance from the right gripper's link to the middle of the cube it holds, m: deep enough not to slip as it turns."""

LEFT_GRASP = FINGERTIP
"""The same for the left gripper, m: its fingers end at the cube's middle, past the right ones only in corners."""

CUBE_HEIGHT = 0.02  # of its middle when it lies on the table, m
MEETING = np.array([0.0, 0.5, 0.28])  # between the arms, m
ABOVE = np.array([0.0, 0.0, 0.10])
ASIDE = np.array([0.12, 0.0, 0.0])
UP = np.array([0.0, 0.0, 1.0])
DOWN, LEVEL = math.pi / 2, 0.0

DAMPING = 1e-3
ITERATIONS = 20
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Waypoint:
    """Where a gripper shall be at a step.

    Args:
        step: of the episode.
        place: of the point that holds the cube, m.
        angle: pitch of the right gripper (0 level, pi/2 down), roll of the left one, rad.
        opening: of the fingers, 0 to 1.
        in_plane: whether it points within the vertical plane through the arm's base, instead of along x as the cube
            lies. There the wrist passes its straight pose without the forearm having to spin.
    """

    step: int
    place: NDArray[np.float64]
    angle: float
    opening: float
    in_plane: bool = True


class TransferCubeExpert(Expert):
    """Hands the cube over within 350 steps, from the cube's first observed place alone."""

    def __init__(self) -> None:
        self._step = 0
        self._arms: tuple[_Arm, _Arm] | None = None

    def reset(self, environment: Environment) -> None:
        """Forget the last episode; take the model of the arms for the kinematics."""
        simulator: Any = environment.simulator
        self._step = 0
        self._arms = (_Arm(simulator, "left", LEFT_GRASP), _Arm(simulator, "right", RIGHT_GRASP))

    def act(self, observation: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Joint positions of both arms one step ahead of the plan."""
        assert self._arms is not None, "reset comes before act"
        left, right = self._arms
        if self._step == 0:
            x, y = (float(value) for value in observation["state"][14:16])
            right.plan = plan_right(right.find_place(), np.array([x, y, CUBE_HEIGHT]))
            left.plan = plan_left(left.find_place())
        self._step += 1
        return np.concatenate([left.follow(self._step), right.follow(self._step)]).astype(np.float32)


def plan_right(start: NDArray[np.float64], cube: NDArray[np.float64]) -> list[Waypoint]:
    """Take the cube from above, carry it to the meeting place, let go when the left gripper has it."""
    return [
        Waypoint(0, start, LEVEL, 0.5),
        Waypoint(60, cube + ABOVE, DOWN, 1.0, in_plane=False),
        Waypoint(90, cube, DOWN, 1.0, in_plane=False),
        Waypoint(100, cube, DOWN, 1.0, in_plane=False),
        Waypoint(120, cube, DOWN, 0.0, in_plane=False),
        Waypoint(150, cube + ABOVE, DOWN, 0.0),
        Waypoint(240, MEETING, LEVEL, 0.0),
        Waypoint(295, MEETING, LEVEL, 0.0),
        Waypoint(310, MEETING, LEVEL, 1.0),
        Waypoint(335, MEETING + ASIDE, LEVEL, 1.0),
    ]


def plan_left(start: NDArray[np.float64]) -> list[Waypoint]:
    """Wait aside, rolled; take the cube at the meeting place."""
    rolled = math.pi / 2
    return [
        Waypoint(0, start, 0.0, 0.5),
        Waypoint(120, MEETING - ASIDE, rolled, 1.0),
        Waypoint(240, MEETING - ASIDE, rolled, 1.0),
        Waypoint(270, MEETING, rolled, 1.0),
        Waypoint(290, MEETING, rolled, 0.0),
        Waypoint(315, MEETING, rolled, 0.0),
        Waypoint(345, MEETING - ASIDE, rolled, 0.0),
    ]


def interpolate(plan: list[Waypoint], step: int) -> tuple[NDArray[np.float64], float, float, float]:
    """Place, angle, opening and share of the arm's plane at a step; smooth between waypoints, still after the last."""
    before, after = plan[-1], plan[-1]
    for first, second in pairwise(plan):
        if first.step <= step <= second.step:
            before, after = first, second
            break
    share = (step - before.step) / (after.step - before.step) if after.step > before.step else 1.0
    share = share * share * (3 - 2 * share)
    return (
        before.place + share * (after.place - before.place),
        before.angle + share * (after.angle - before.angle),
        before.opening + share * (after.opening - before.opening),
        before.in_plane + share * (after.in_plane - before.in_plane),
    )


class _Arm:
    """Inverse kinematics of one arm, by damped least squares from the last solution."""

    def __init__(self, simulator: Any, side: str, grasp: float) -> None:
        self._mujoco = import_mujoco()
        self._model = simulator.model
        self._data = self._mujoco.MjData(self._model)
        self._data.qpos[:] = simulator.data.qpos
        self._link = self._model.body(f"vx300s_{side}/gripper_link").id
        first = self._model.joint(f"vx300s_{side}/waist").qposadr[0]
        self._joints = slice(int(first), int(first) + ARM_JOINTS)
        self._limits = self._model.jnt_range[self._joints]  # the arms' joints come first, one number each
        self._side, self._grasp = side, grasp
        self._base = np.array(simulator.data.body(f"vx300s_{side}").xpos)
        self.plan: list[Waypoint] = []

    def find_place(self) -> NDArray[np.float64]:
        """Where the point that holds a cube is now."""
        self._update()
        place: NDArray[np.float64] = self._data.xpos[self._link] + self._grasp * self._axes()[:, 0]
        return place

    def follow(self, step: int) -> NDArray[np.float64]:
        """Joint positions and opening [7] at a step of the plan."""
        place, angle, opening, in_plane = interpolate(self.plan, step)
        away = place - self._base
        yaw = in_plane * math.atan2(away[1], abs(away[0]))
        return np.append(self._solve(place, self._orient(angle, yaw)), opening)

    def _solve(self, place: NDArray[np.float64], wanted: NDArray[np.float64]) -> NDArray[np.float64]:
        link = place - self._grasp * wanted[:, 0]
        jacobian = np.zeros((6, self._model.nv))
        for _ in range(ITERATIONS):
            self._update()
            axes = self._axes()
            turn = 0.5 * sum(np.cross(axes[:, k], wanted[:, k]) for k in range(3))
            error = np.concatenate([link - self._data.xpos[self._link], turn])
            if np.abs(error).max() < TOLERANCE:
                break
            self._mujoco.mj_jacBody(self._model, self._data, jacobian[:3], jacobian[3:], self._link)
            part = jacobian[:, self._joints]
            change = part.T @ np.linalg.solve(part @ part.T + DAMPING * np.eye(6), error)
            joints = self._data.qpos[self._joints] + change
            self._data.qpos[self._joints] = np.clip(joints, self._limits[:, 0], self._limits[:, 1])
        return np.array(self._data.qpos[self._joints])

    def _orient(self, angle: float, yaw: float) -> NDArray[np.float64]:
        """Axes of the gripper, as columns."""
        cosine, sine = math.cos(angle), math.sin(angle)
        if self._side == "right":
            ahead, beside = np.array([-math.cos(yaw), math.sin(yaw), 0]), np.array([-math.sin(yaw), -math.cos(yaw), 0])
            points, closes = cosine * ahead - sine * UP, beside
        else:
            points, beside = np.array([math.cos(yaw), math.sin(yaw), 0]), np.array([-math.sin(yaw), math.cos(yaw), 0])
            closes = cosine * beside + sine * UP
        return np.stack([points, closes, np.cross(points, closes)], axis=1)

    def _axes(self) -> NDArray[np.float64]:
        axes: NDArray[np.float64] = self._data.xmat[self._link].reshape(3, 3)
        return axes

    def _update(self) -> None:
        self._mujoco.mj_kinematics(self._model, self._data)
        self._mujoco.mj_comPos(self._model, self._data)
