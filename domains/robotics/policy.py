"""A policy as a system: trained like any diffusion, sampled by acting.

Asked for an observation it answers with a chunk of actions; asked for an environment it plays an episode there. So
`polydit test` and `polydit predict` roll policies out with what they use for molecules, and nothing else.

Shape legend: H actions of a chunk, A action size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning.utilities import rank_zero_warn

from polydit.envs.environment import EnvironmentInfo
from polydit.envs.episodes import EpisodeRequest, Recording
from polydit.envs.rendering import select_backend
from polydit.envs.rollouts import run_episodes
from polydit.platform.errors import ConfigurationError
from polydit.platform.requests import Request, Sample
from polydit.platform.state import State
from polydit.platform.systems.diffusion import DiffusionSystem

from .codec import ActionChunkCodec, History
from .execution import Chunk, Controller, Execution


@dataclass(frozen=True)
class Rollouts:
    """How episodes are played when requests name an environment.

    Args:
        environments: episodes played at once, whose decisions are made as one batch.
        workers: processes that step the simulators; 0: this one.
        camera: filmed for the record, whether the policy sees it or not; None: nothing is filmed.
        film: how many episodes of each task are filmed.
        image_size: (height, width) of what the policy sees, pixels.
        film_size: (height, width) of the film, pixels.
        stride: every how manieth step is a frame of the film.
        max_steps: after which an episode ends; None: the environment's own.
        progress: whether a progress bar is shown.
    """

    environments: int = 10
    workers: int = 0
    camera: str | None = None
    film: int = 1
    image_size: tuple[int, int] = (84, 84)
    film_size: tuple[int, int] = (240, 240)
    stride: int = 2
    max_steps: int | None = None
    progress: bool = True


class PolicySystem(DiffusionSystem):
    """A diffusion over chunks of actions that also acts.

    Args:
        execution: when it asks for new chunks; default: after eight actions of each, or all if there are fewer.
        rollouts: how episodes are played.

    The other arguments are those of `DiffusionSystem`; the codec is an `ActionChunkCodec`.
    """

    codec: ActionChunkCodec

    def __init__(
        self, *args: Any, execution: Execution | None = None, rollouts: Rollouts | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.execution = execution or Execution(min(8, self.codec.horizon))
        self.rollouts = rollouts or Rollouts()
        if self.execution.steps > self.codec.horizon:
            raise ConfigurationError(
                f"execution.steps {self.execution.steps} exceeds the codec's horizon {self.codec.horizon}: lower it"
            )

    @torch.no_grad()
    def generate(self, requests: Sequence[Request]) -> list[Sample]:
        """An episode for each request that names an ``environment``, a chunk of actions for each of the others.

        Raises:
            ConfigurationError: if an environment or one of its options is unknown.
        """
        playing = [i for i, request in enumerate(requests) if "environment" in request.wishes]
        answering = [i for i in range(len(requests)) if i not in set(playing)]
        samples: dict[int, Sample] = {}
        if answering:
            samples |= dict(zip(answering, super().generate([requests[i] for i in answering]), strict=True))
        if playing:
            samples |= dict(zip(playing, self.play([requests[i] for i in playing]), strict=True))
        return [samples[i] for i in range(len(requests))]

    def play(self, requests: Sequence[Request]) -> list[Sample]:
        """Episodes in the order of the requests; each depends on its own seed alone.

        Args:
            requests: with the wish ``environment``, and any further options of that environment.
        """
        settings = self.rollouts
        films = settings.camera is not None and _can_film()
        filmed: dict[str, int] = {}
        episodes = []
        for request in requests:
            wishes = dict(request.wishes)
            name = str(wishes.pop("environment"))
            record = None
            if films and filmed.get(name, 0) < settings.film:
                filmed[name] = filmed.get(name, 0) + 1
                record = Recording(settings.camera, settings.stride, settings.film_size)
            if self.codec.cameras:
                wishes = {"cameras": self.codec.cameras, "image_size": settings.image_size, **wishes}
            episodes.append(EpisodeRequest(name, request.seed, wishes, record))
        outcomes = run_episodes(
            episodes, SlotPolicy(self.controller()), settings.environments, settings.workers,
            max_steps=settings.max_steps, progress=settings.progress,
        )
        return [Sample(request, outcome) for request, outcome in zip(requests, outcomes, strict=True)]

    def controller(self) -> Controller:
        """A controller over fresh slots; several do not disturb each other."""
        return Controller(self.propose, self.codec.fields, self.codec.history, self.execution)

    def policy(self, instruction: str = "", seed: int = 0) -> Policy:
        """The system as a plain function of an observation."""
        return Policy(self.eval(), instruction, seed)

    @torch.no_grad()
    def propose(
        self, histories: Sequence[History], instructions: Sequence[str], seeds: Sequence[int],
        guesses: Sequence[Chunk | None],
    ) -> list[Chunk]:
        """A chunk [H, A] in the environment's units for each of n situations.

        Those with a guess are sampled from it, at the step that `Execution.guess_from` says; the others from noise.
        """
        chunks: dict[int, Chunk] = {}
        for guessing in (False, True):
            chosen = [i for i, guess in enumerate(guesses) if (guess is not None) == guessing]
            if chosen:
                chunks |= dict(zip(chosen, self._propose(histories, instructions, seeds, guesses, chosen), strict=True))
        return [chunks[i] for i in range(len(histories))]

    def _propose(
        self, histories: Sequence[History], instructions: Sequence[str], seeds: Sequence[int],
        guesses: Sequence[Chunk | None], chosen: Sequence[int],
    ) -> list[Chunk]:
        device = next(self.denoiser.parameters()).device
        layout = self.codec.observe(
            [histories[i] for i in chosen], [instructions[i] for i in chosen], [seeds[i] for i in chosen]
        ).to(device)
        last = [guess for guess in (guesses[i] for i in chosen) if guess is not None]
        guess: State | None = self.codec.normalise_actions(last, device) if last else None
        state = self.sample_state(layout, guess, self.execution.guess_from if last else 0)
        with torch.autocast(device.type, enabled=False):
            return self.codec.decode(state, layout)


def _can_film() -> bool:
    """Whether this machine renders; films are a record, so that a machine which does not still plays."""
    backend = select_backend()
    if backend.name is None:
        rank_zero_warn(f"episodes are not filmed: {backend.reason}")
    return backend.name is not None


class SlotPolicy:
    """What `polydit.envs.rollouts.run_episodes` asks for actions.

    Args:
        controller: that decides.
    """

    def __init__(self, controller: Controller) -> None:
        self.controller = controller

    def begin(self, slot: int, request: EpisodeRequest, info: EnvironmentInfo) -> None:
        """An episode begins in a slot."""
        self.controller.start(slot, request.seed, info.instruction)

    def act(self, slots: Sequence[int], observations: Sequence[dict[str, NDArray[Any]]]) -> NDArray[np.float32]:
        """Actions [n, A]."""
        return self.controller.decide(slots, observations)

    def end(self, slot: int) -> None:
        """A slot's episode is over."""
        self.controller.end(slot)


class Policy:
    """A trained policy as a function: ``action = policy(observation)``.

    It also has `start_episode`, by which robomimic's loops, among others, begin an episode.

    Args:
        system: a trained system, in evaluation mode.
        instruction: what it is told.
        seed: of the first episode; later ones count up.
    """

    def __init__(self, system: PolicySystem, instruction: str = "", seed: int = 0) -> None:
        self.system = system
        self.instruction = instruction
        self.seed = seed
        self._controller = system.controller()
        self._episodes = -1
        self.start_episode()

    def start_episode(self) -> None:
        """Forget what was seen, and go on to the next seed."""
        self._episodes += 1
        self._controller.start(0, self.seed + self._episodes, self.instruction)

    def __call__(self, observation: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Action [A] in the environment's units for an observation, field -> value now."""
        return self._controller.decide([0], [observation])[0]
