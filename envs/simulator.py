"""What a simulator family brings: a start state from a seed, steps, named fields with units, and images on request.

A `Simulator` knows nothing of Gymnasium; `polydit.envs.environment.Environment` makes any of them a ``gymnasium.Env``.
Shape legend: S state, A action.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polydit.platform.errors import ConfigurationError, RunError

from .rendering import SceneRenderer


class SimulationError(RunError):
    """A simulation broke: a value that is not finite, or a physics that diverged. It fails its episode, not the run."""


@dataclass(frozen=True)
class Field:
    """One vector that is observed or commanded.

    Args:
        shape: of the array.
        unit: of its entries, such as "m" or "rad"; several parts are told in `parts`.
        meaning: one sentence.
        low: smallest value, a number or one per entry.
        high: largest value, likewise.
        parts: (name, number of entries) in the order in which they are joined; empty if it is one thing.
    """

    shape: tuple[int, ...]
    unit: str
    meaning: str
    low: float | tuple[float, ...] = -np.inf
    high: float | tuple[float, ...] = np.inf
    parts: tuple[tuple[str, int], ...] = ()


@dataclass
class Outcome:
    """What one step brought.

    Args:
        reward: in the simulator's own scale.
        success: whether the task is solved now.
        terminated: whether the simulator ended the episode, as when a walker falls.
        details: further numbers of the simulator.
    """

    reward: float
    success: bool
    terminated: bool = False
    details: dict[str, Any] = field(default_factory=dict)


class Simulator(ABC):
    """One task of one simulator. A family sets the attributes in its constructor.

    Attributes:
        fields: vectors that `observe` gives, float32.
        action: the command, float32 [A], with its bounds.
        instruction: what is to be done, in plain English.
        max_steps: steps of an episode, unless the caller says otherwise.
        cameras: names that `render` takes; the first is the default.
        packages: distributions whose versions belong to a record of an episode.
        frames_per_second: of simulated time, for videos.
        needs_opengl: whether `render` needs an OpenGL back end.
    """

    fields: dict[str, Field]
    action: Field
    instruction: str
    max_steps: int
    cameras: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    frames_per_second: int = 50
    needs_opengl: bool = True

    @abstractmethod
    def reset(self, seed: int) -> None:
        """Begin the episode of this seed, whatever ran before.

        Args:
            seed: from 0 to 2**32 - 1.
        """

    @abstractmethod
    def step(self, action: NDArray[np.float32]) -> Outcome:
        """Apply one action [A], finite and within bounds."""

    @abstractmethod
    def observe(self) -> dict[str, NDArray[Any]]:
        """Every vector of `fields` in the present state."""

    @abstractmethod
    def state(self) -> NDArray[np.float64]:
        """Everything that tells this state from others, for the record of an episode."""

    @abstractmethod
    def render(self, camera: str, height: int, width: int) -> NDArray[np.uint8]:
        """RGB [height, width, 3] of the present state, by one of `cameras`."""

    def close(self) -> None:  # noqa: B027  a family without resources has nothing to release
        """Release what is held; closing twice does nothing."""


class MujocoSimulator(Simulator):
    """What families on MuJoCo share: cameras of the model, rendering, bounds of actuators.

    A family gives `model` and `data`, the MuJoCo structures behind it; both may be replaced by a reset.
    """

    skybox = True
    geom_groups: tuple[int, ...] | None = None

    def __init__(self) -> None:
        self._renderers: dict[tuple[int, int], SceneRenderer] = {}

    @property
    @abstractmethod
    def model(self) -> Any:
        """``mujoco.MjModel``."""

    @property
    @abstractmethod
    def data(self) -> Any:
        """``mujoco.MjData``."""

    def state(self) -> NDArray[np.float64]:
        """Positions and velocities of the joints, and positions of mocap bodies."""
        data = self.data
        return np.concatenate([data.qpos, data.qvel, data.mocap_pos.ravel()]).astype(np.float64)

    def render(self, camera: str, height: int, width: int) -> NDArray[np.uint8]:
        """An image by a camera of the model; the renderer of each size is made on first use and kept."""
        renderer = self._renderers.get((height, width))
        if renderer is not None and renderer.model is not self.model:
            renderer.close()
            renderer = None
        if renderer is None:
            renderer = SceneRenderer(self.model, height, width, self.skybox, self.geom_groups)
            self._renderers[height, width] = renderer
        return renderer.render(self.data, -1 if camera == "free" else camera)

    def close(self) -> None:
        """Close the renderers."""
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers.clear()

    def list_cameras(self, default: str) -> tuple[str, ...]:
        """Named cameras of the model, `default` first; the free camera alone if it has none."""
        names = [self.model.camera(index).name for index in range(self.model.ncam)]
        return tuple(sorted(filter(None, names), key=lambda name: name != default)) or ("free",)


def refuse_options(family: str, options: dict[str, Any]) -> None:
    """Raise for options that a family does not have.

    Raises:
        ConfigurationError: naming them.
    """
    if options:
        raise ConfigurationError(f"{family} environments have no option {', '.join(sorted(options))}")
