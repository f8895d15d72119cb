"""Vectorised rollouts: many episodes at a time under one policy, each decided by its own seed alone.

Shape legend: n slots that act now, A action.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from polydit.platform.errors import ConfigurationError

from .environment import EnvironmentInfo, Observation
from .episodes import Episode, EpisodeRequest, Recording, RolloutSettings
from .experts import ExpertPolicy
from .hosting import Backend, Command, LocalBackend, Reply, WorkerBackend

ATTEMPTS = 2
"""An episode whose worker process died is run again once, for another episode may have killed it."""


class Policy(Protocol):
    """What acts in several episodes at a time, told apart by their slots.

    A slot is used again after `end`; a policy that remembers something keeps it per slot, and draws from a generator
    that it seeds from the request in `begin`, so that what it does depends on nothing but the episode.
    """

    def begin(self, slot: int, request: EpisodeRequest, info: EnvironmentInfo) -> None:
        """An episode begins in this slot."""

    def act(self, slots: list[int], observations: list[Observation]) -> NDArray[np.float32] | Sequence[Any]:
        """Actions [n, A], or n arrays [A] where tasks differ in A, one for each slot in order."""

    def end(self, slot: int) -> None:
        """The episode of this slot has ended."""


def run_episodes(
    requests: Sequence[EpisodeRequest],
    policy: Policy | ExpertPolicy,
    environments: int = 8,
    workers: int = 0,
    record: tuple[Any, ...] | None = None,
    max_steps: int | None = None,
    progress: bool = True,
    keep_trajectory: bool = False,
    steps_after_success: int | None = 0,
    finished: Callable[[Episode], None] | None = None,
) -> list[Episode]:
    """Run episodes and report on each.

    Args:
        requests: what to run; an environment is used again by later episodes of its task, so group like ones.
        policy: what acts; an `ExpertPolicy` acts beside the simulators, with no round trip per step.
        environments: slots: episodes under way at the same time, which is also the largest batch that `act` gets.
        workers: processes over which the slots are spread; 0 steps them in this process.
        record: ``(camera, stride)`` or a `Recording`: frames to keep of every episode whose request says nothing else.
        max_steps: after which episodes are truncated; None: each task's own. A request's option goes before it.
        progress: whether a bar is shown, on standard error.
        keep_trajectory: keep observations, actions, rewards and states, as demonstrations need.
        steps_after_success: steps that follow the first success before an episode is ended; None: until its own end.
        finished: called with each episode when it ends, in the order of ending, as to write it to disk at once.

    Returns:
        One record per request, in the order of the requests. Neither the number of slots nor of workers changes them,
        as long as the policy acts on each slot by itself.

    Raises:
        ConfigurationError: if a request names what does not exist or an action has the wrong shape. What goes wrong
            within a simulation is told in its episode's ``error`` instead.
    """
    if environments < 1 or workers < 0:
        raise ConfigurationError(f"environments is {environments} and workers {workers}: give at least 1 and 0")
    if not requests:
        return []
    slots = min(environments, len(requests))
    settings = RolloutSettings(
        None if record is None else Recording(*record), max_steps, keep_trajectory, steps_after_success
    )
    workers = min(workers, slots)
    backend = WorkerBackend(settings, slots, workers) if workers else LocalBackend(settings, slots)
    try:
        with _show_progress(len(requests), progress) as advance:
            run = _Run(requests, policy, backend, workers or 1 if isinstance(policy, ExpertPolicy) else slots)
            for episode in run.complete():
                advance(episode)
                if finished is not None:
                    finished(episode)
        return run.collect()
    finally:
        backend.close()


class _Run:
    """Which request is in which slot, and what has come of it."""

    def __init__(
        self, requests: Sequence[EpisodeRequest], policy: Policy | ExpertPolicy, backend: Backend, slots: int
    ) -> None:
        self._requests = requests
        self._expert = policy if isinstance(policy, ExpertPolicy) else None
        self._policy = None if isinstance(policy, ExpertPolicy) else policy
        self._backend = backend
        self._queue = deque(range(len(requests)))
        self._attempts = [0] * len(requests)
        self._episodes: list[Episode | None] = [None] * len(requests)
        self._places: dict[int, int | None] = dict.fromkeys(range(slots))
        self._observations: dict[int, Observation] = {}
        self._begun: set[int] = set()

    def complete(self) -> Iterator[Episode]:
        """Episodes as they end."""
        while self._queue or self._observations:
            for reply in self._backend.exchange([*self._act(), *self._begin()]):
                episode = self._take(reply)
                if episode is not None:
                    yield episode

    def collect(self) -> list[Episode]:
        """All of them in the order of the requests."""
        return [episode for episode in self._episodes if episode is not None]

    def _act(self) -> list[Command]:
        slots = sorted(self._observations)
        if not slots or self._policy is None:
            return []
        actions = self._policy.act(slots, [self._observations[slot] for slot in slots])
        if len(actions) != len(slots):
            raise ConfigurationError(f"the policy gave {len(actions)} actions for {len(slots)} observations")
        self._observations = {}
        return [
            Command(slot, action=np.asarray(action, np.float32)) for slot, action in zip(slots, actions, strict=True)
        ]

    def _begin(self) -> list[Command]:
        commands = []
        for slot, place in self._places.items():
            if place is None and self._queue:
                index = self._queue.popleft()
                self._places[slot] = index
                self._attempts[index] += 1
                commands.append(Command(slot, self._requests[index], expert=self._expert))
        return commands

    def _take(self, reply: Reply) -> Episode | None:
        index = self._places[reply.slot]
        assert index is not None
        if reply.info is not None and self._policy is not None:
            self._policy.begin(reply.slot, self._requests[index], reply.info)
            self._begun.add(reply.slot)
        if reply.observation is not None:
            self._observations[reply.slot] = reply.observation
            return None
        self._places[reply.slot] = None
        if reply.slot in self._begun and self._policy is not None:
            self._begun.discard(reply.slot)
            self._policy.end(reply.slot)
        if reply.lost is not None and self._attempts[index] < ATTEMPTS:
            self._queue.append(index)
            return None
        episode = reply.episode or Episode(self._requests[index], error=f"{reply.lost}, {ATTEMPTS} times")
        self._episodes[index] = episode
        return episode


@contextmanager
def _show_progress(total: int, shown: bool) -> Iterator[Callable[[Episode], None]]:
    """A bar that counts episodes and successes."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("episodes"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"),
        TimeRemainingColumn(),
    )  # fmt: skip
    counts = {"solved": 0, "failed": 0}
    with Progress(*columns, console=Console(stderr=True), disable=not shown) as bar:
        task = bar.add_task("", total=total)

        def advance(episode: Episode) -> None:
            counts["solved"] += episode.success
            counts["failed"] += episode.error is not None
            failed = f", {counts['failed']} failed" if counts["failed"] else ""
            bar.update(task, advance=1, description=f"{counts['solved']} solved{failed}")

        yield advance
