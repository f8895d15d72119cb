"""Gymnasium's own MuJoCo tasks, any other registered environment, and environments named by their class path.

Success is what the environment itself tells in ``info["success"]`` or ``info["is_success"]``. Where it tells nothing,
as in the MuJoCo tasks, an episode succeeds at its last step if its return reaches the threshold that Gymnasium
registers for the task; without a threshold no episode is a success, and the return is what to report.
"""

from __future__ import annotations

import math
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polydit.platform.errors import ConfigurationError, require

from .families import Family
from .rendering import EXTRA, import_mujoco
from .simulator import Field, MujocoSimulator, Outcome

MAX_STEPS = 1000
"""Of environments that register no limit."""

INSTRUCTIONS = {
    "Ant-v5": "walk forward on four legs",
    "HalfCheetah-v5": "run forward",
    "Hopper-v5": "hop forward on one leg",
    "Humanoid-v5": "walk forward on two legs",
    "HumanoidStandup-v5": "stand up",
    "InvertedDoublePendulum-v5": "balance the two poles on the cart",
    "InvertedPendulum-v5": "balance the pole on the cart",
    "Pusher-v5": "push the cylinder to the goal",
    "Reacher-v5": "reach the target with the fingertip",
    "Swimmer-v5": "swim forward",
    "Walker2d-v5": "walk forward on two legs",
}


class GymnasiumSimulator(MujocoSimulator):
    """Any ``gymnasium.Env`` whose actions are a vector of numbers.

    Vectors of its observation become fields: one alone is ``"state"``, those of a dictionary keep their names, joined
    by ``"/"`` where nested. Images of its observation become cameras of their own size.

    Args:
        task: registered id, or class path.
        **options: of the environment's constructor.
    """

    def __init__(self, task: str, **options: Any) -> None:
        super().__init__()
        self.environment = _make(task, options)
        self._inner = self.environment.unwrapped
        self._mujoco = hasattr(self._inner, "model") and hasattr(self._inner, "data")
        self._images: dict[str, tuple[int, ...]] = {}
        self.fields = {}
        for name, space in _flatten_spaces(self.environment.observation_space, task):
            if space.dtype == np.uint8 and len(space.shape) == 3:
                self._images[name] = space.shape
            else:
                self.fields[name] = Field(space.shape, "the environment's own", f"{name} of {task}")
        self.action = _describe_action(self.environment.action_space, task)
        spec = self.environment.spec
        self._threshold = None if spec is None else spec.reward_threshold
        self.max_steps = (spec.max_episode_steps if spec is not None else None) or MAX_STEPS
        self.instruction = INSTRUCTIONS.get(task, f"solve {task.rpartition('.')[2]}")
        self.cameras = (*self._images, *(self.list_cameras("track") if self._mujoco else ()))
        self.needs_opengl = not self._images
        self.packages = ("mujoco",) if self._mujoco else ()
        self.frames_per_second = int(self._inner.metadata.get("render_fps", 30) or 30)
        self._observed: dict[str, NDArray[Any]] = {}
        self._return, self._steps = 0.0, 0

    @property
    def model(self) -> Any:
        """The model of a MuJoCo task."""
        return self._inner.model

    @property
    def data(self) -> Any:
        """The state of a MuJoCo task."""
        return self._inner.data

    def reset(self, seed: int) -> None:
        """Reset the environment to the seed."""
        observed, _ = self.environment.reset(seed=seed)
        self._observed = dict(_flatten(observed))
        self._return, self._steps = 0.0, 0

    def step(self, action: NDArray[np.float32]) -> Outcome:
        """Make a step; the environment's own limit of steps ends the episode as well."""
        observed, reward, terminated, truncated, info = self.environment.step(action.astype(self._action_type))
        self._observed = dict(_flatten(observed))
        self._return += float(reward)
        self._steps += 1
        ended = bool(terminated or truncated or self._steps >= self.max_steps)
        told = info.get("success", info.get("is_success"))
        success = ended and self._reaches_threshold() if told is None else bool(told)
        numbers = {key: float(value) for key, value in info.items() if np.ndim(value) == 0 and _is_number(value)}
        return Outcome(float(reward), success, bool(terminated or truncated), numbers)

    def observe(self) -> dict[str, NDArray[Any]]:
        """The vectors of the observation."""
        return {name: self._observed[name] for name in self.fields}

    def state(self) -> NDArray[np.float64]:
        """Joints of a MuJoCo task; of another the observed vectors, which is all that can be known."""
        if self._mujoco:
            return super().state()
        return np.concatenate([np.ravel(value) for value in self.observe().values()] or [np.empty(0)]).astype(float)

    def render(self, camera: str, height: int, width: int) -> NDArray[np.uint8]:
        """An image of the observation, or one by a camera of the MuJoCo model.

        Raises:
            ConfigurationError: if an observed image is asked for in another size than its own.
        """
        if camera not in self._images:
            return super().render(camera, height, width)
        shape = self._images[camera]
        if shape != (height, width, 3):
            raise ConfigurationError(f"images of {camera!r} are {shape[:2]}, not {(height, width)}: set image_size")
        return np.array(self._observed[camera])

    def close(self) -> None:
        """Close the renderers and the environment."""
        super().close()
        self.environment.close()

    @property
    def _action_type(self) -> Any:
        return self.environment.action_space.dtype

    def _reaches_threshold(self) -> bool:
        return self._threshold is not None and self._return >= self._threshold


def _make(task: str, options: dict[str, Any]) -> Any:
    """The environment of an id or a class path."""
    gymnasium = require("gymnasium", EXTRA)
    if task in gymnasium.registry or ":" in task:
        import_mujoco()  # its back end must be selected before the task imports it
        return gymnasium.make(task, disable_env_checker=True, **options)
    module, _, name = task.rpartition(".")
    if not module or task.rpartition("-v")[2].isdigit():
        raise ConfigurationError(f"Gymnasium knows no environment {task!r}; ids look like HalfCheetah-v5")
    try:
        environment_class = getattr(import_module(module), name)
    except (ModuleNotFoundError, AttributeError) as error:
        raise ConfigurationError(f"there is no environment {task!r}: {error}") from error
    if not (isinstance(environment_class, type) and issubclass(environment_class, gymnasium.Env)):
        raise ConfigurationError(f"{task} is no gymnasium.Env")
    return environment_class(**options)


def _flatten_spaces(space: Any, task: str, prefix: str = "") -> list[tuple[str, Any]]:
    """(name, box) of every part of an observation space."""
    spaces = require("gymnasium.spaces", EXTRA)
    if isinstance(space, spaces.Dict):
        return [
            part for key, inner in space.items() for part in _flatten_spaces(inner, task, f"{prefix}/{key}".strip("/"))
        ]
    if not isinstance(space, spaces.Box):
        raise ConfigurationError(f"{task} observes {type(space).__name__} ({prefix or 'all of it'}); only Box is known")
    is_image = space.dtype == np.uint8 and len(space.shape) == 3
    return [(prefix or ("image" if is_image else "state"), space)]


def _flatten(observed: Any, prefix: str = "") -> list[tuple[str, NDArray[Any]]]:
    if isinstance(observed, dict):
        return [part for key, inner in observed.items() for part in _flatten(inner, f"{prefix}/{key}".strip("/"))]
    array = np.asarray(observed)
    return [(prefix or ("image" if array.dtype == np.uint8 and array.ndim == 3 else "state"), array)]


def _describe_action(space: Any, task: str) -> Field:
    box = require("gymnasium.spaces", EXTRA).Box
    if not isinstance(space, box) or len(space.shape) != 1:
        raise ConfigurationError(f"{task} takes actions of {space}; policies here give a vector of numbers (Box [A])")
    low, high = (tuple(float(value) for value in bound) for bound in (space.low, space.high))
    return Field(space.shape, "the environment's own", f"action of {task}", low, high)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) and math.isfinite(float(value))


FAMILY = Family(GymnasiumSimulator, lambda: sorted(INSTRUCTIONS))
