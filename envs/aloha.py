"""ALOHA's two tasks in simulation: two six-joint arms hand over a cube, or put a peg into a socket.

gym-aloha renders three pictures of 480 x 640 at every step and takes no state as observation. Here its task is stepped
without its observation: nothing is rendered unless a camera is asked for, which makes steps some three hundred times
faster. The episode is not ended by success, so that a handover can be seen to its end; `run_episodes` decides.

Source: Zhao et al. 2023 (ACT), arXiv 2304.13705; simulated by gym-aloha.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polydit.platform.errors import require

from .families import Expert, Family
from .rendering import EXTRA, import_mujoco
from .simulator import Field, MujocoSimulator, Outcome, refuse_options

ARM_JOINTS = 6
MAX_STEPS = 400  # eight seconds, as in ACT; gym-aloha registers 300
MAX_REWARD = 4

_OBJECTS = {"transfer_cube": ("cube",), "insertion": ("peg", "socket")}
_INSTRUCTIONS = {
    "transfer_cube": "pick up the cube with the right arm and hand it over to the left arm",
    "insertion": "pick up the peg and the socket and insert the peg into the socket",
}
_JOINTS = (("left_arm", ARM_JOINTS), ("left_gripper", 1), ("right_arm", ARM_JOINTS), ("right_gripper", 1))


class AlohaSimulator(MujocoSimulator):
    """One of the two tasks.

    It succeeds at the task's highest reward: the left gripper holds the lifted cube, or the peg touches the pin in the
    socket.

    Args:
        task: ``"transfer_cube"`` or ``"insertion"``.
    """

    packages = ("gym-aloha", "dm-control", "mujoco")
    frames_per_second = 50
    max_steps = MAX_STEPS

    def __init__(self, task: str) -> None:
        super().__init__()
        import_mujoco()
        self._task = task
        self.control = require("gym_aloha.env", EXTRA).AlohaEnv(task=task)._env
        self.control.task.get_observation = lambda physics: OrderedDict()  # in place of three renderings
        self._joints = self.control.task.get_qpos
        self.instruction = _INSTRUCTIONS[task]
        poses = tuple((f"{name}_pose", 7) for name in _OBJECTS[task])
        self.fields = {
            "state": Field(
                (14 + 7 * len(poses),), "rad; opening 0 (closed) to 1; poses in m and quaternions w, x, y, z",
                "joints of the arms and poses of the objects", parts=(*_JOINTS, *poses),
            )
        }  # fmt: skip
        limits = np.asarray(self.model.actuator_ctrlrange)
        left, right = limits[:ARM_JOINTS], limits[ARM_JOINTS + 2 : 2 * ARM_JOINTS + 2]  # two fingers follow each arm
        low, high = np.concatenate([left, [[0, 1]], right, [[0, 1]]]).T
        self.action = Field(
            (14,), "rad; opening 0 (closed) to 1", "joint positions that the arms and grippers are driven to",
            tuple(low.tolist()), tuple(high.tolist()), _JOINTS,
        )  # fmt: skip
        self.cameras = self.list_cameras("top")

    @property
    def model(self) -> Any:
        """The model of both arms and the table."""
        return self.control.physics.model.ptr

    @property
    def data(self) -> Any:
        """The state of the simulation."""
        return self.control.physics.data.ptr

    def reset(self, seed: int) -> None:
        """Draw the places of the objects from the seed, as gym-aloha does."""
        poses = require("gym_aloha.utils", EXTRA)
        pose = (
            poses.sample_box_pose(seed)
            if self._task == "transfer_cube"
            else np.concatenate(poses.sample_insertion_pose(seed))
        )
        require("gym_aloha.tasks.sim", EXTRA).BOX_POSE[0] = pose  # how the task takes it
        self.control.reset()

    def step(self, action: NDArray[np.float32]) -> Outcome:
        """Drive the joints for 20 ms."""
        reward = float(self.control.step(action.astype(np.float64)).reward)
        return Outcome(reward, reward == MAX_REWARD)

    def observe(self) -> dict[str, NDArray[Any]]:
        """Joints and object poses."""
        physics = self.control.physics
        return {"state": np.concatenate([self._joints(physics), self.control.task.get_env_state(physics)])}


def build(task: str, **options: Any) -> AlohaSimulator:
    """Make the simulator of a task; there are no options."""
    refuse_options("aloha", options)
    return AlohaSimulator(task)


def list_experts() -> Mapping[str, Callable[[], Expert]]:
    """Transfer cube has one."""
    from .aloha_expert import TransferCubeExpert

    return {"transfer_cube": TransferCubeExpert}


FAMILY = Family(build, lambda: sorted(_OBJECTS), list_experts)
