"""Any simulator as a ``gymnasium.Env`` with named fields, an instruction and a success flag.

Shape legend: h, w height and width of images, A action.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from polydit.platform.errors import ConfigurationError, require

from .rendering import EXTRA, require_backend
from .simulator import Field, SimulationError, Simulator

if TYPE_CHECKING:
    from gymnasium import Env
else:
    try:
        from gymnasium import Env
    except ModuleNotFoundError:  # this module imports without the extra; making an environment says what is missing
        Env = object

Observation = dict[str, NDArray[Any]]
SEEDS = 2**32
"""Seeds of episodes are below this, what NumPy's older generators take."""


@dataclass(frozen=True)
class EnvironmentInfo:
    """What a policy or a record needs to know of an environment; all of it can stand in JSON.

    Args:
        name: specification that `polydit.envs.make` takes.
        instruction: what is to be done.
        fields: vectors of an observation.
        action: the command and its bounds.
        cameras: image fields of an observation, [h, w, 3] uint8 each.
        image_size: (h, w) of them, pixels.
        max_steps: after which an episode is truncated.
        frames_per_second: of simulated time.
        versions: distribution -> version, of all that decides the simulation.
    """

    name: str
    instruction: str
    fields: dict[str, Field]
    action: Field
    cameras: tuple[str, ...]
    image_size: tuple[int, int]
    max_steps: int
    frames_per_second: int
    versions: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries, lists, strings and numbers."""
        return asdict(self)


class Environment(Env):
    """A task to step through: observations are named fields, ``info["success"]`` is told at every step.

    Actions beyond their bounds are clipped to them, as an actuator would. An episode is decided by its seed: `reset`
    with the same one gives the same start state in any process and after anything.

    Args:
        simulator: what is stepped.
        name: specification that it was made from.
        cameras: image fields to observe; rendering costs most of the time, so none by default.
        image_size: (height, width) of the images, pixels.
        max_steps: after which an episode is truncated; None: the simulator's own.

    Raises:
        ConfigurationError: if a camera is unknown or cannot be rendered here, or `max_steps` is below 1.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 50}  # noqa: RUF012  Gymnasium's own attribute

    def __init__(
        self,
        simulator: Simulator,
        name: str,
        cameras: tuple[str, ...] = (),
        image_size: tuple[int, int] = (84, 84),
        max_steps: int | None = None,
    ) -> None:
        spaces = require("gymnasium.spaces", EXTRA)
        for camera in cameras:
            check_camera(camera, simulator, name)
        if max_steps is not None and max_steps < 1:
            raise ConfigurationError(f"max_steps is {max_steps}: an episode has at least 1 step")
        self.simulator = simulator
        self.name = name
        self.cameras = tuple(cameras)
        self.image_size = (int(image_size[0]), int(image_size[1]))
        self.max_steps = simulator.max_steps if max_steps is None else max_steps
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": simulator.frames_per_second}
        self.render_mode = None
        boxes = {key: _box(spaces, field) for key, field in simulator.fields.items()}
        images = {camera: spaces.Box(0, 255, (*self.image_size, 3), np.uint8) for camera in self.cameras}
        self.observation_space = spaces.Dict({**boxes, **images})
        self.action_space = _box(spaces, simulator.action)
        self.steps = 0

    @property
    def instruction(self) -> str:
        """What is to be done, in plain English."""
        return self.simulator.instruction

    @property
    def fields(self) -> dict[str, Field]:
        """Vectors of an observation with shape, unit and meaning."""
        return self.simulator.fields

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode.

        Args:
            seed: that decides it, from 0 to 2**32 - 1; None draws one from the generator that the last seed made.
            options: none are known; an empty dictionary is accepted.

        Returns:
            The observation, and ``{"success": False}``.
        """
        if options:
            raise ConfigurationError(f"reset takes no options, got {', '.join(sorted(options))}; give them to make()")
        if seed is not None and not 0 <= seed < SEEDS:
            raise ConfigurationError(f"seed is {seed}: give one from 0 to {SEEDS - 1}")
        super().reset(seed=seed)
        self.simulator.reset(int(self.np_random.integers(SEEDS)) if seed is None else seed)
        self.steps = 0
        return self._observe(), {"success": False}

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Apply an action.

        Args:
            action: [A], in the environment's own units, clipped to its bounds.

        Returns:
            Observation, reward, terminated, truncated, and what the simulator tells beside ``success``.

        Raises:
            ConfigurationError: if the action has another shape.
            SimulationError: if the action or what follows from it is not finite.
        """
        outcome = self.simulator.step(self.check_action(action))
        self.steps += 1
        info = {**outcome.details, "success": bool(outcome.success)}
        truncated = self.steps >= self.max_steps
        return self._observe(), float(outcome.reward), bool(outcome.terminated), truncated, info

    def check_action(self, action: Any) -> NDArray[np.float32]:
        """An action as float32 [A] within bounds, or an error that says what is wrong with it."""
        array = np.asarray(action, np.float32)
        if array.shape != self.action_space.shape:
            raise ConfigurationError(
                f"{self.name} takes actions of shape {self.action_space.shape}, got {array.shape}: "
                "the policy was made for another environment"
            )
        if not np.isfinite(array).all():
            raise SimulationError(f"{self.name}, step {self.steps}: the action holds {_first_bad(array)}")
        low, high = self.action_space.low, self.action_space.high  # type: ignore[attr-defined]
        return np.clip(array, low, high)

    def render(self) -> NDArray[np.uint8]:
        """An image by the default camera, [h, w, 3]."""
        return self.render_camera()

    def render_camera(self, camera: str | None = None, image_size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
        """An image of the present state, whether the camera is observed or not.

        Args:
            camera: by name; None: the simulator's default.
            image_size: (height, width), pixels; None: that of the observed images.

        Returns:
            RGB [h, w, 3].

        Raises:
            ConfigurationError: if the camera is unknown or nothing renders on this machine.
        """
        height, width = self.image_size if image_size is None else image_size
        return self.simulator.render(check_camera(camera, self.simulator, self.name), height, width)

    def close(self) -> None:
        """Release renderers and simulator; closing twice does nothing."""
        self.simulator.close()

    def start_state(self) -> list[float]:
        """The simulator's state; kept right after `reset`, it tells with the versions whether an episode was remade."""
        return [float(value) for value in self.simulator.state()]

    def environment_metadata(self) -> EnvironmentInfo:
        """What a policy or a record needs to know."""
        return EnvironmentInfo(
            self.name, self.instruction, dict(self.fields), self.simulator.action, self.cameras, self.image_size,
            self.max_steps, self.simulator.frames_per_second, find_versions(self.simulator.packages),
        )  # fmt: skip

    def _observe(self) -> Observation:
        observation: Observation = {}
        for key, value in self.simulator.observe().items():
            observation[key] = np.array(value, np.float32)
            if not np.isfinite(observation[key]).all():
                raise SimulationError(
                    f"{self.name}, step {self.steps}: field {key!r} holds {_first_bad(observation[key])}; "
                    "the simulation diverged"
                )
        for camera in self.cameras:
            observation[camera] = self.simulator.render(camera, *self.image_size)
        return observation


def check_camera(camera: str | None, simulator: Simulator, name: str) -> str:
    """A camera's name, if the simulator has it and this machine can render; None gives the default one.

    Raises:
        ConfigurationError: otherwise.
    """
    known = simulator.cameras
    if not known or (camera is not None and camera not in known):
        raise ConfigurationError(f"{name} has no camera {camera!r}; it has {', '.join(known) or 'none'}")
    if simulator.needs_opengl:
        require_backend(camera or known[0])
    return camera or known[0]


def find_versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Distribution -> installed version, of polydit, gymnasium and `packages`; those not installed are left out."""
    versions = {}
    for package in ("polydit", "gymnasium", "numpy", *packages):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # polydit itself, run from a checkout that was never installed
            continue
    return versions


def _box(spaces: Any, field: Field) -> Any:
    low, high = (np.broadcast_to(np.asarray(bound, np.float32), field.shape) for bound in (field.low, field.high))
    return spaces.Box(low.copy(), high.copy(), dtype=np.float32)


def _first_bad(array: NDArray[Any]) -> str:
    index = int(np.flatnonzero(~np.isfinite(array))[0])
    return f"{array.ravel()[index]} at {index}"
