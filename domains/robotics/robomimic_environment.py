"""Our environments as robomimic's: its loops, wrappers and policies step them.

Source: robomimic 0.3, ``envs/env_base.py``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polydit import envs
from polydit.envs.environment import Observation
from polydit.platform.errors import ConfigurationError, DataError, MissingExtraError

State = Mapping[str, Any]
Exceptions = tuple[type[Exception], ...]
SAME_STATE = 1e-6
"""How far apart two states of one simulation may lie, relatively: what another processor may round differently."""

NO_GOALS = "there are no goal observations, the instruction says what is to be done: leave use_goals at False"


def make_robomimic_environment(
    spec: str,
    cameras: Sequence[str] = (),
    image_size: tuple[int, int] = (84, 84),
    max_steps: int | None = None,
    seed: int = 0,
    reward_shaping: bool = True,
    postprocess_visual_obs: bool = True,
    **options: Any,
) -> Any:
    """Make an environment that is an `EnvBase` of robomimic.

    Args:
        spec: environment, as for `polydit.envs.make`; also what robomimic calls the environment's name.
        cameras: image fields of an observation.
        image_size: (height, width) of the images, pixels.
        max_steps: after which an episode is done; None: the task's own.
        seed: of the first episode; later ones count up, for robomimic's loops give none.
        reward_shaping: whether rewards are the simulator's; otherwise they are 1 where the task is solved, else 0.
        postprocess_visual_obs: whether images are as robomimic's networks take them, float32 [3, h, w] within [0, 1];
            otherwise uint8 [h, w, 3].
        **options: of the environment's family.

    Returns:
        The environment; its `base_env` is ours, which the caller closes.

    Raises:
        MissingExtraError: if robomimic or a simulator is not installed.
        ConfigurationError: if the environment, a camera or an option is unknown.
    """
    return _environment_class()(
        env_name=spec, postprocess_visual_obs=postprocess_visual_obs, cameras=cameras, image_size=image_size,
        max_steps=max_steps, seed=seed, reward_shaping=reward_shaping, **options,
    )


class EnvironmentInterface:
    """What robomimic's `EnvBase` asks of an environment, over one of ours; `make_robomimic_environment` joins the two.

    Args:
        env_name: environment spec.
        render: whether a window is asked for; there is none.
        render_offscreen: ignored, as images can be rendered always.
        use_image_obs: ignored, as `cameras` says what is seen.
        postprocess_visual_obs: see `make_robomimic_environment`, as for the rest.
    """

    def __init__(
        self,
        env_name: str,
        render: bool = False,
        render_offscreen: bool = False,
        use_image_obs: bool = False,
        postprocess_visual_obs: bool = True,
        *,
        seed: int = 0,
        reward_shaping: bool = True,
        **options: Any,
    ) -> None:
        if render:
            raise ConfigurationError(_no_window(env_name))
        self._environment = envs.make(env_name, **options)
        self._options = {**options, "seed": seed, "reward_shaping": reward_shaping}
        self._process_images = postprocess_visual_obs
        self._shaped = reward_shaping
        self._next_seed = self._seed = seed
        self._actions: list[NDArray[np.float32]] = []
        self._observation: Observation | None = None
        self._reward, self._success, self._done = 0.0, False, False

    def step(self, action: Any) -> tuple[dict[str, Any], float, bool, dict[str, Any]]:
        """Apply an action [A]: observation, reward, whether the episode is over, and what the simulator tells."""
        action = self._environment.check_action(action)
        self._observation, reward, terminated, truncated, info = self._environment.step(action)
        self._actions.append(action)
        self._success, self._done = info["success"], terminated or truncated
        self._reward = reward if self._shaped else float(self._success)
        return self.get_observation(), self._reward, self._done, info

    def reset(self) -> dict[str, Any]:
        """Begin the episode of the next seed."""
        seed, self._next_seed = self._next_seed, self._next_seed + 1
        return self._begin(seed)

    def reset_to(self, state: State) -> dict[str, Any]:
        """Go back to a state that `get_state` told, by playing its episode up to there; the next seed stays.

        Raises:
            DataError: if the state does not say how it was reached, or is not reached again.
        """
        if "seed" not in state or "actions" not in state:
            raise DataError(
                f"a state of {self.name} holds seed and actions, by which it is reached; got {', '.join(state)}: "
                "give what get_state() told"
            )
        observation = self._begin(int(state["seed"]))
        for action in np.asarray(state["actions"], np.float32):
            observation = self.step(action)[0]
        told, reached = np.asarray(state.get("states", ())), self._simulator_state()
        if told.size and not (told.shape == reached.shape and np.allclose(told, reached, SAME_STATE, SAME_STATE)):
            raise DataError(
                f"{self.name}: seed {state['seed']} and {len(state['actions'])} actions lead to another state than the "
                f"one told; it was recorded with other versions than {self.version}: install those"
            )
        return observation

    def render(
        self, mode: str = "human", height: int | None = None, width: int | None = None, camera_name: str | None = None
    ) -> NDArray[np.uint8]:
        """An image [h, w, 3] by a camera, or by the default one; ``mode`` is ``"rgb_array"``."""
        if mode != "rgb_array":
            raise ConfigurationError(_no_window(self.name))
        default = self._environment.image_size
        return self._environment.render_camera(camera_name, (height or default[0], width or default[1]))

    def get_observation(self) -> dict[str, Any]:
        """What is seen now; a new dictionary each time, as robomimic's wrappers write into it."""
        if self._observation is None:
            raise ConfigurationError(f"{self.name} has not begun an episode: call reset() first")
        observation: dict[str, Any] = dict(self._observation)
        if self._process_images:
            utilities = import_robomimic("utils.obs_utils")
            for camera in self._environment.cameras:
                observation[camera] = utilities.process_obs(observation[camera], obs_modality="rgb")
        return observation

    def get_state(self) -> dict[str, Any]:
        """Seed and actions, by which `reset_to` comes back here, and the simulator's own vector beside them."""
        actions = np.reshape(self._actions, (-1, self.action_dimension)).astype(np.float32)
        return {"states": self._simulator_state(), "seed": self._seed, "actions": actions}

    def get_reward(self) -> float:
        """Of the last step; 0 before the first."""
        return self._reward

    def get_goal(self) -> dict[str, Any]:
        """None of our environments has goal observations."""
        raise ConfigurationError(f"{self.name}: {NO_GOALS}")

    def set_goal(self, **goal: Any) -> None:
        """None of our environments has goal observations."""
        raise ConfigurationError(f"{self.name}: {NO_GOALS}")

    def is_done(self) -> bool:
        """Whether the episode is over, solved or not."""
        return self._done

    def is_success(self) -> dict[str, bool]:
        """Whether the task is solved now, as ``"task"``."""
        return {"task": self._success}

    @property
    def action_dimension(self) -> int:
        """A."""
        return int(np.prod(self._environment.action_space.shape or ()))

    @property
    def name(self) -> str:
        """Environment spec."""
        return self._environment.name

    @property
    def type(self) -> int:
        """The number that robomimic has for Gymnasium environments, its nearest kind."""
        return int(import_robomimic("envs.env_base").EnvType.GYM_TYPE)

    @property
    def version(self) -> str:
        """Distributions that decide the simulation, with their versions."""
        versions = self._environment.environment_metadata().versions
        return ", ".join(f"{package} {version}" for package, version in versions.items())

    @property
    def base_env(self) -> envs.Environment:
        """Our environment."""
        return self._environment

    @property
    def rollout_exceptions(self) -> Exceptions:
        """What ends one episode and not the evaluation."""
        return (envs.SimulationError,)

    def serialize(self) -> dict[str, Any]:
        """Its ``env_args``, of which ``make_robomimic_environment(env_name, **env_kwargs)`` makes the same again."""
        return {
            "env_name": self.name, "environment": self.name, "type": self.type, "env_version": self.version,
            "env_kwargs": json.loads(json.dumps(self._options)),
        }  # fmt: skip

    @classmethod
    def create_for_data_processing(
        cls,
        env_name: str,
        camera_names: Sequence[str],
        camera_height: int,
        camera_width: int,
        reward_shaping: bool,
        **options: Any,
    ) -> EnvironmentInterface:
        """An environment whose images are as data sets keep them, uint8 [h, w, 3]."""
        options |= {"cameras": tuple(camera_names), "image_size": (camera_height, camera_width)}
        return cls(env_name, postprocess_visual_obs=False, reward_shaping=reward_shaping, **options)

    def __repr__(self) -> str:
        return f"{self.name}\n{json.dumps(self._options, sort_keys=True, indent=4)}"

    def _begin(self, seed: int) -> dict[str, Any]:
        self._observation, _ = self._environment.reset(seed=seed)
        self._seed, self._actions = seed, []
        self._reward, self._success, self._done = 0.0, False, False
        return self.get_observation()

    def _simulator_state(self) -> NDArray[np.float64]:
        return np.asarray(self._environment.start_state(), np.float64)


def import_robomimic(module: str) -> ModuleType:
    """A module of robomimic, or an error that says where it comes from.

    Args:
        module: such as ``"algo"``.

    Raises:
        MissingExtraError: if robomimic is not installed.
    """
    try:
        return import_module(f"robomimic.{module}")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "robomimic":
            raise
        raise MissingExtraError(
            "robomimic is not installed, and no extra brings it, for it needs other packages than polydit: "
            "'make robomimic-venv' makes an environment with it"
        ) from error


@lru_cache(maxsize=1)
def _environment_class() -> Any:
    base = import_robomimic("envs.env_base").EnvBase
    return type("RobomimicEnvironment", (EnvironmentInterface, base), {"__doc__": EnvironmentInterface.__doc__})


def _no_window(name: str) -> str:
    return f"{name} is rendered to images, not into a window: set render to False, or write a video"
