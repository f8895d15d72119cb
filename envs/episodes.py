"""One episode: what is asked, how it is stepped, and the record that it leaves.

Shape legend: T steps, S simulator state, A action.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .environment import Environment, EnvironmentInfo, Observation


class Recording(NamedTuple):
    """Frames to keep of an episode.

    Args:
        camera: by name; None: the simulator's default.
        stride: steps between two frames.
        image_size: (height, width), pixels.
    """

    camera: str | None = None
    stride: int = 2
    image_size: tuple[int, int] = (240, 240)


@dataclass(frozen=True)
class EpisodeRequest:
    """An episode to run; with the versions of its record it decides the episode.

    Args:
        environment: specification, as for `polydit.envs.make`.
        seed: of the episode, from 0 to 2**32 - 1.
        options: further arguments of `make`, such as ``{"cameras": ("corner2",)}``.
        record: frames to keep of this episode; None: what `run_episodes` is told for all.
        instruction: what the policy is told in place of the environment's own words; None: those.
    """

    environment: str
    seed: int
    options: dict[str, Any] = field(default_factory=dict)
    record: Recording | None = None
    instruction: str | None = None


@dataclass(frozen=True)
class RolloutSettings:
    """What holds for every episode of a run; the arguments of `run_episodes` say more."""

    record: Recording | None = None
    max_steps: int | None = None
    keep_trajectory: bool = False
    steps_after_success: int | None = 0


@dataclass
class Episode:
    """The record of an episode.

    Args:
        request: what was asked.
        success: whether the task was solved at any step; never so if the episode failed.
        steps: how many were made.
        episode_return: sum of the rewards.
        success_step: number of the step that first solved the task; None if none did.
        start_state: the simulator's state right after the reset.
        instruction: what was to be done.
        versions: distribution -> version, of all that decides the simulation.
        error: why the episode could not be finished; None if it was.
        frames: RGB images [h, w, 3] at the recording's stride, the start and the end included; None if not recorded.
        frame_rate: frames per second of simulated time.
        observations: field -> [T, ...], each before its action; None unless trajectories are kept, as the rest below.
        actions: [T, A] float32, what the policy or the expert chose, within bounds.
        executed_actions: [T, A], with an expert's noise added; None without noise.
        rewards: [T] float32.
        states: [T, S] float64, of the simulator, each before its action.
    """

    request: EpisodeRequest
    success: bool = False
    steps: int = 0
    episode_return: float = 0.0
    success_step: int | None = None
    start_state: list[float] = field(default_factory=list)
    instruction: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    error: str | None = None
    frames: list[NDArray[np.uint8]] | None = None
    frame_rate: float = 0.0
    observations: dict[str, NDArray[Any]] | None = None
    actions: NDArray[np.float32] | None = None
    executed_actions: NDArray[np.float32] | None = None
    rewards: NDArray[np.float32] | None = None
    states: NDArray[np.float64] | None = None


class EpisodeRun:
    """An episode under way in an environment that it has to itself.

    Args:
        environment: to run in.
        request: what is asked.
        settings: of the whole run.
    """

    def __init__(self, environment: Environment, request: EpisodeRequest, settings: RolloutSettings) -> None:
        self.environment = environment
        self.settings = settings
        self.record = request.record or settings.record
        self.episode = Episode(request, instruction=environment.instruction)
        self.finished = False
        self._last: Observation = {}
        self._kept: list[tuple[Observation, NDArray[np.float32], NDArray[np.float32], float, NDArray[np.float64]]] = []

    def start(self) -> tuple[Observation, EnvironmentInfo]:
        """Reset the environment to the seed of the request."""
        self._last, _ = self.environment.reset(seed=self.episode.request.seed)
        info = self.environment.environment_metadata()
        if self.episode.request.instruction is not None:
            info = replace(info, instruction=self.episode.request.instruction)
        self.episode.versions = info.versions
        self.episode.instruction = info.instruction
        self.episode.start_state = self.environment.start_state()
        if self.record is not None:
            self.episode.frames = []
            self.episode.frame_rate = info.frames_per_second / self.record.stride
            self._keep_frame()
        return self._last, info

    def step(self, action: Any, noise: NDArray[np.float32] | None = None) -> Observation:
        """Make a step; `finished` tells whether it was the last one.

        Args:
            action: [A], what was chosen.
            noise: [A], added to what is executed; None for none.
        """
        chosen = self.environment.check_action(action)
        executed = chosen if noise is None else self.environment.check_action(chosen + noise)
        state = self.environment.simulator.state() if self.settings.keep_trajectory else np.empty(0)
        observation, reward, terminated, truncated, info = self.environment.step(executed)
        if self.settings.keep_trajectory:
            self._kept.append((self._last, chosen, executed, reward, state))
        self._last = observation
        self._count(reward, info["success"], terminated or truncated)
        return observation

    def complete(self, error: str | None = None) -> Episode:
        """The record, with what was kept joined into arrays.

        Args:
            error: why the episode ends before its end; a failed episode is no success.
        """
        episode = self.episode
        if error is not None:
            episode.error, episode.success = error, False
        if self._kept:
            observations, chosen, executed, rewards, states = zip(*self._kept, strict=True)
            episode.observations = {key: np.stack([each[key] for each in observations]) for key in observations[0]}
            episode.actions, episode.states = np.stack(chosen), np.stack(states)
            episode.rewards = np.asarray(rewards, np.float32)
            if any(one is not other for one, other in zip(chosen, executed, strict=True)):
                episode.executed_actions = np.stack(executed)
        return episode

    def _count(self, reward: float, success: bool, ended: bool) -> None:
        episode, patience = self.episode, self.settings.steps_after_success
        episode.steps += 1
        episode.episode_return += reward
        if success and not episode.success:
            episode.success, episode.success_step = True, episode.steps
        waited = episode.success_step is not None and patience is not None
        self.finished = ended or (waited and episode.steps - (episode.success_step or 0) >= (patience or 0))
        if self.record is not None and (self.finished or episode.steps % self.record.stride == 0):
            self._keep_frame()

    def _keep_frame(self) -> None:
        assert self.record is not None and self.episode.frames is not None
        self.episode.frames.append(self.environment.render_camera(self.record.camera, self.record.image_size))


class EnvironmentPool:
    """Environments that wait for their next episode: making one costs more than many episodes' resets.

    Args:
        make: request, settings -> environment.
        limit: most environments that wait; the one that has waited longest is closed first.
    """

    def __init__(self, make: Callable[[EpisodeRequest, RolloutSettings], Environment], limit: int) -> None:
        self._make = make
        self._limit = limit
        self._waiting: list[tuple[str, Environment]] = []

    def take(self, request: EpisodeRequest, settings: RolloutSettings) -> Environment:
        """A waiting environment of this task and these options, or a new one."""
        key = self._key(request)
        for index, (other, environment) in enumerate(self._waiting):
            if other == key:
                del self._waiting[index]
                return environment
        return self._make(request, settings)

    def give_back(self, request: EpisodeRequest, environment: Environment) -> None:
        """Keep an environment for later."""
        self._waiting.append((self._key(request), environment))
        if len(self._waiting) > self._limit:
            self._waiting.pop(0)[1].close()

    def close(self) -> None:
        """Close what waits."""
        for _, environment in self._waiting:
            environment.close()
        self._waiting.clear()

    @staticmethod
    def _key(request: EpisodeRequest) -> str:
        return f"{request.environment} {sorted(request.options.items(), key=lambda item: item[0])!r}"
