"""Meta-World's fifty tasks of a Sawyer arm on a table, with the experts that they come with.

The goal is part of the state, and object and goal places are drawn from the episode's seed, not from Meta-World's own
list of fifty tasks per environment, nor from NumPy's global generator as it does by default.

Source: Yu et al. 2019, arXiv 1910.10897; McLean et al. 2025 for version 3 of the tasks.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from polydit.platform.errors import require

from .families import Expert, Family
from .rendering import EXTRA, import_mujoco
from .simulator import Field, MujocoSimulator, Outcome, refuse_options

if TYPE_CHECKING:
    from .environment import Environment

HAND = Field(
    (4,), "m; opening 0 (closed) to 1", "what the robot feels of itself: a policy that looks at images has no more",
    parts=(("hand_position", 3), ("gripper_opening", 1)),
)
STATE = Field(
    (39,),
    "m; opening 0 (closed) to 1; quaternions x, y, z, w",
    "hand, gripper and objects now and one step before, and the goal; absent objects are zero",
    parts=(
        ("hand_position", 3), ("gripper_opening", 1), ("first_object_pose", 7), ("second_object_pose", 7),
        ("previous_hand_position", 3), ("previous_gripper_opening", 1), ("previous_first_object_pose", 7),
        ("previous_second_object_pose", 7), ("goal_position", 3),
    ),
)  # fmt: skip
ACTION = Field(
    (4,), "1 is 1 cm of the hand; gripper force, fraction of the largest",
    "displacement of the hand's target along x, y, z, and closing of the gripper", -1.0, 1.0,
    (("hand_displacement", 3), ("gripper", 1)),
)  # fmt: skip
MAX_STEPS = 500  # Meta-World's own horizon
DEFAULT_CAMERA = "corner2"
UPSIDE_DOWN = frozenset({"corner", "corner2", "corner3", "corner4"})
"""Cameras that the models hold upside down; their images are turned by half a turn, which keeps left and right."""

INSTRUCTIONS = {
    "assembly-v3": "pick up the nut and place it onto the peg",
    "basketball-v3": "put the basketball into the basket",
    "bin-picking-v3": "move the puck from one bin into the other",
    "box-close-v3": "pick up the lid and close the box with it",
    "button-press-topdown-v3": "press the button from above",
    "button-press-topdown-wall-v3": "reach over the wall and press the button from above",
    "button-press-v3": "press the button",
    "button-press-wall-v3": "reach around the wall and press the button",
    "coffee-button-v3": "press the button of the coffee machine",
    "coffee-pull-v3": "pull the mug away from the coffee machine",
    "coffee-push-v3": "push the mug under the coffee machine",
    "dial-turn-v3": "turn the dial",
    "disassemble-v3": "take the nut off the peg",
    "door-close-v3": "close the door",
    "door-lock-v3": "lock the door",
    "door-open-v3": "open the door",
    "door-unlock-v3": "unlock the door",
    "drawer-close-v3": "close the drawer",
    "drawer-open-v3": "open the drawer",
    "faucet-close-v3": "close the faucet",
    "faucet-open-v3": "open the faucet",
    "hammer-v3": "hammer the nail into the wall",
    "hand-insert-v3": "insert the hand into the hole",
    "handle-press-side-v3": "press the handle down from the side",
    "handle-press-v3": "press the handle down",
    "handle-pull-side-v3": "pull the handle up from the side",
    "handle-pull-v3": "pull the handle up",
    "lever-pull-v3": "pull the lever up",
    "peg-insert-side-v3": "insert the peg into the hole from the side",
    "peg-unplug-side-v3": "unplug the peg from the side",
    "pick-out-of-hole-v3": "pick the puck out of the hole",
    "pick-place-v3": "pick up the puck and place it at the goal",
    "pick-place-wall-v3": "pick up the puck and place it behind the wall",
    "plate-slide-back-side-v3": "slide the plate back out of the goal to the side",
    "plate-slide-back-v3": "slide the plate back out of the goal",
    "plate-slide-side-v3": "slide the plate into the goal from the side",
    "plate-slide-v3": "slide the plate into the goal",
    "push-back-v3": "push the puck back to the goal",
    "push-v3": "push the puck to the goal",
    "push-wall-v3": "push the puck around the wall to the goal",
    "reach-v3": "reach the goal",
    "reach-wall-v3": "reach the goal behind the wall",
    "shelf-place-v3": "place the cube onto the shelf",
    "soccer-v3": "kick the ball into the goal",
    "stick-pull-v3": "pull the thermos with the stick",
    "stick-push-v3": "push the thermos with the stick",
    "sweep-into-v3": "sweep the cube into the hole",
    "sweep-v3": "sweep the cube off the table",
    "window-close-v3": "close the window",
    "window-open-v3": "open the window",
}


class MetaworldSimulator(MujocoSimulator):
    """One task of Meta-World.

    Args:
        task: such as ``"reach-v3"``.
    """

    packages = ("metaworld", "mujoco")
    frames_per_second = 80

    def __init__(self, task: str) -> None:
        super().__init__()
        import_mujoco()
        environments = require("metaworld.env_dict", EXTRA).ALL_V3_ENVIRONMENTS
        self.task = environments[task]()
        self.task._set_task_called = True  # the task is given by the seed below, not chosen from a benchmark's list
        self.task._partially_observable = False
        self.task.__dict__.pop("sawyer_observation_space", None)  # cached with the goal hidden
        self.task.max_path_length = sys.maxsize  # the environment counts steps
        self.fields = {"state": STATE, "hand": HAND}
        self.action = ACTION
        self.instruction = INSTRUCTIONS[task]
        self.max_steps = MAX_STEPS
        self.cameras = self.list_cameras(DEFAULT_CAMERA)
        self._observed = np.zeros(39)

    @property
    def model(self) -> Any:
        """The model of the task."""
        return self.task.model

    @property
    def data(self) -> Any:
        """The state of the simulation."""
        return self.task.data

    def reset(self, seed: int) -> None:
        """Draw object and goal from the seed; the simulation is first put into its initial state.

        Meta-World settles the hand before it resets the simulation, so that what ran before would count.
        """
        mujoco = import_mujoco()
        mujoco.mj_resetData(self.model, self.data)
        mujoco.mj_forward(self.model, self.data)
        self.task.seeded_rand_vec, self.task._freeze_rand_vec = True, False
        self.task.seed(seed)
        observed, _ = self.task.reset()
        space = self.task.sawyer_observation_space
        self._observed = np.clip(observed, space.low, space.high)  # as its step does

    def step(self, action: NDArray[np.float32]) -> Outcome:
        """Move the hand's target and the gripper, five simulation steps."""
        self._observed, reward, _, _, info = self.task.step(action)
        return Outcome(float(reward), bool(info["success"]), details={"obj_to_target": float(info["obj_to_target"])})

    def observe(self) -> dict[str, NDArray[Any]]:
        """The state with the goal, and of it the hand alone."""
        return {"state": self._observed, "hand": self._observed[:4]}

    def render(self, camera: str, height: int, width: int) -> NDArray[np.uint8]:
        """An image by a camera of the model, the right way up."""
        image = super().render(camera, height, width)
        return np.ascontiguousarray(image[::-1, ::-1]) if camera in UPSIDE_DOWN else image

    def state(self) -> NDArray[np.float64]:
        """Joints, hand target and goal; the goal is no joint of the simulation."""
        return np.concatenate([super().state(), np.asarray(self.task._target_pos, np.float64)])


class MetaworldExpert(Expert):
    """The scripted controller that Meta-World brings for a task.

    Args:
        task: such as ``"reach-v3"``.
    """

    def __init__(self, task: str) -> None:
        import_mujoco()
        self._make = require("metaworld.policies", EXTRA).ENV_POLICY_MAP[task]
        self._policy = self._make()

    def reset(self, environment: Environment) -> None:
        """Start with a controller that remembers nothing."""
        self._policy = self._make()

    def act(self, observation: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        """The controller's action for the state."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Constant")  # its gains exceed the bounds on purpose: they clip
            action = self._policy.get_action(observation["state"].astype(np.float64))
        return np.asarray(action, np.float32)


def build(task: str, **options: Any) -> MetaworldSimulator:
    """Make the simulator of a task; there are no options."""
    refuse_options("metaworld", options)
    return MetaworldSimulator(task)


def list_experts() -> Mapping[str, Callable[[], Expert]]:
    """Every task has one; those of box-close and sweep-into fail more often than not at some seeds."""
    return {task: partial(MetaworldExpert, task) for task in INSTRUCTIONS}


FAMILY = Family(build, lambda: sorted(INSTRUCTIONS), list_experts)
