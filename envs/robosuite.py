"""robosuite's manipulation tasks, also from the environment metadata that robomimic keeps in its files.

The state joins robomimic's low-dimensional observations in its own order: for each robot the hand's position, its
quaternion and the fingers' joints, then the objects. Images are the right way up, as robomimic's are.

Resets keep the model: objects whose size robosuite would draw anew have one size, drawn from a fixed seed, and a reset
costs milliseconds instead of seconds.

Source: Zhu et al. 2020, arXiv 2009.12293; Mandlekar et al. 2021 (robomimic), arXiv 2108.03298.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polydit.platform.errors import ConfigurationError, require

from .families import Family
from .rendering import VARIABLE, import_mujoco
from .simulator import Field, MujocoSimulator, Outcome

ROBOT_KEYS = ("eef_pos", "eef_quat", "gripper_qpos")
OBJECT_KEY = "object-state"  # robomimic calls it "object"
MODEL_SEED = 0
MAX_STEPS = 400  # robomimic's horizon for Lift, Can and Square
ROBOMIMIC_ROBOSUITE, ROBOMIMIC_GYM = 1, 2  # env_args["type"] of robomimic

TASKS = {
    "Lift": ("Lift", 1, "lift the cube"),
    "Can": ("PickPlaceCan", 1, "pick up the can and place it in its bin"),
    "Square": ("NutAssemblySquare", 1, "pick up the square nut and put it onto the square peg"),
    "TwoArmLift": ("TwoArmLift", 2, "lift the pot with both arms"),
}
"""Name -> (robosuite's own name, robots, instruction)."""


class RobosuiteSimulator(MujocoSimulator):
    """One task of robosuite.

    Args:
        task: ``"Lift"``, ``"Can"``, ``"Square"`` or ``"TwoArmLift"``.
        **options: of ``robosuite.make``, such as ``robots`` or ``controller_configs``, of any version that robomimic's
            files hold; by default Panda arms under operational space control of the hand's pose at 20 Hz.
    """

    packages = ("robosuite", "mujoco")
    max_steps = MAX_STEPS
    geom_groups = (1, 2)  # group 0 holds what collides, drawn over what is seen

    def __init__(self, task: str, **options: Any) -> None:
        super().__init__()
        robosuite = _import_quietly()
        name, robots, self.instruction = TASKS[task]
        with _seeded(MODEL_SEED):
            self.task = robosuite.make(name, **_complete_options(options, robots))
            observed = self.task.reset()
        count = len(self.task.robots)
        self._keys = [f"robot{index}_{key}" for index in range(count) for key in ROBOT_KEYS] + [OBJECT_KEY]
        sizes = tuple((key, int(np.size(observed[key]))) for key in self._keys)
        self.fields = {
            "state": Field(
                (sum(size for _, size in sizes),), "m; quaternions x, y, z, w; fingers in m",
                "hands, fingers and objects, the objects' part as robosuite lays it out", parts=sizes,
            )
        }  # fmt: skip
        low, high = self.task.action_spec
        self.action = Field(
            low.shape, "1 is the controller's largest command", "command of each arm's controller and of its gripper",
            tuple(low.tolist()), tuple(high.tolist()),
        )  # fmt: skip
        self.frames_per_second = int(self.task.control_freq)
        self.cameras = self.list_cameras("agentview")
        self._observed = observed

    @property
    def model(self) -> Any:
        """The model of arena, robots and objects."""
        return self.task.sim.model._model

    @property
    def data(self) -> Any:
        """The state of the simulation."""
        return self.task.sim.data._data

    def reset(self, seed: int) -> None:
        """Draw places and the arms' noise from the seed."""
        with _seeded(seed):
            self._observed = self.task.reset()

    def step(self, action: NDArray[np.float32]) -> Outcome:
        """Command the controllers for one control period."""
        self._observed, reward, _, _ = self.task.step(action.astype(np.float64))
        return Outcome(float(reward), bool(self.task._check_success()))

    def observe(self) -> dict[str, NDArray[Any]]:
        """The low-dimensional observations of robomimic, joined."""
        return {"state": np.concatenate([np.ravel(self._observed[key]) for key in self._keys])}

    def close(self) -> None:
        """Close renderers and simulation."""
        super().close()
        self.task.close()


def read_env_args(env_args: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The specification and options of the environment that a robomimic file was recorded in.

    Args:
        env_args: the file's ``data.attrs["env_args"]``, parsed from JSON: ``env_name``, ``type`` and ``env_kwargs``.

    Returns:
        What `polydit.envs.make` takes: specification and keyword arguments. What robomimic sets for its own rendering
        is left out.

    Raises:
        ConfigurationError: if the environment is of a kind that polydit does not make.
    """
    name, kind = env_args.get("env_name"), env_args.get("type")
    if kind == ROBOMIMIC_GYM:
        return f"gymnasium/{name}", dict(env_args.get("env_kwargs", {}))
    tasks = {own: task for task, (own, _, _) in TASKS.items()}
    if kind != ROBOMIMIC_ROBOSUITE or name not in tasks:
        raise ConfigurationError(
            f"env_args name {name!r} of type {kind}: known are {', '.join(sorted(tasks))} of type "
            f"{ROBOMIMIC_ROBOSUITE} and Gymnasium ids of type {ROBOMIMIC_GYM}"
        )
    dropped = {name for name in env_args.get("env_kwargs", {}) if "render" in name or name.startswith("camera")}
    dropped |= {"use_camera_obs", "use_object_obs", "reward_shaping", "ignore_done", "hard_reset", "env_name"}
    options = {key: value for key, value in env_args.get("env_kwargs", {}).items() if key not in dropped}
    return f"robosuite/{tasks[name]}", options


def _complete_options(options: dict[str, Any], robots: int) -> dict[str, Any]:
    """Options of ``robosuite.make``: the caller's over our own, without rendering, old controllers translated."""
    complete: dict[str, Any] = {
        "robots": ["Panda"] * robots, "control_freq": 20, **options,
        "has_renderer": False, "has_offscreen_renderer": False, "use_camera_obs": False, "use_object_obs": True,
        "ignore_done": True, "hard_reset": False,
    }  # fmt: skip
    controllers = complete.get("controller_configs")
    if isinstance(controllers, dict) and "body_parts" not in controllers:  # of one arm, as before robosuite 1.5
        factory = require("robosuite.controllers.composite.composite_controller_factory", "simulators")
        first = complete["robots"] if isinstance(complete["robots"], str) else complete["robots"][0]
        complete["controller_configs"] = factory.refactor_composite_controller_config(
            deepcopy(controllers), first, ["right"]
        )
    return complete


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seeds NumPy's global generator, for robosuite 1.5.1 draws from nothing else, and restores it afterwards."""
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(before)


def _import_quietly() -> Any:
    """The package without what it logs on import, and without the back end that it would set where none works."""
    import_mujoco()
    logging.getLogger("robosuite_logs").addFilter(_is_error)  # its own import resets the level, not filters
    before = os.environ.get(VARIABLE)
    robosuite = require("robosuite", "simulators")
    if before is None:
        os.environ.pop(VARIABLE, None)
    else:
        os.environ[VARIABLE] = before
    return robosuite


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


FAMILY = Family(RobosuiteSimulator, lambda: sorted(TASKS))
