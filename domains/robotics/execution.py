"""How a policy acts: when it asks for a new chunk of actions, and what it makes of the old one.

Shape legend: H actions of a chunk, A action size.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polydit.platform.errors import ConfigurationError

from .codec import History

Chunk = NDArray[np.float32]

Propose = Callable[[Sequence[History], Sequence[str], Sequence[int], Sequence[Chunk | None]], list[Chunk]]
"""(histories, instructions, seeds, guesses or None) -> a chunk [H, A] for each."""


@dataclass(frozen=True)
class Execution:
    """Receding-horizon execution.

    Args:
        steps: actions of a chunk that are executed before the policy looks again, at most H.
        ensemble: None: the chunk is executed as it is. A number m: the policy looks at every step, and what its past
            chunks say of a step is averaged with weights exp(-m i), i = 0 for the oldest (temporal ensembling of
            Zhao et al. 2023, arXiv:2304.13705, section III-C; 0.01 there); `steps` must then be 1.
        guess_from: the sampler's step from which a new chunk starts out of the last one, moved on and with its last
            action repeated; 0: every chunk starts from noise.

    Raises:
        ConfigurationError: if a number is out of range, or ensembling is asked for with more than one step.
    """

    steps: int = 8
    ensemble: float | None = None
    guess_from: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.guess_from < 0:
            raise ConfigurationError(f"steps {self.steps} must be at least 1, guess_from {self.guess_from} at least 0")
        if self.ensemble is not None and (self.steps != 1 or self.ensemble < 0):
            raise ConfigurationError(
                f"ensembling looks at every step, with a weight of at least 0: set steps to 1, not {self.steps}, "
                f"and ensemble {self.ensemble} to 0 or more"
            )


@dataclass
class Episode:
    """What a policy remembers of one episode.

    Args:
        seed: of the episode; every decision's noise follows from it.
        instruction: what was told.
        history: T, observations remembered.
    """

    seed: int
    instruction: str
    history: int
    seen: deque[dict[str, NDArray[Any]]] = field(default_factory=deque)
    chunks: list[tuple[int, Chunk]] = field(default_factory=list)
    step: int = 0
    decisions: int = 0

    def observe(self, observation: dict[str, NDArray[Any]]) -> None:
        """Remember what is seen now."""
        self.seen.append(observation)
        while len(self.seen) > self.history:
            self.seen.popleft()

    def stacked(self, fields: Sequence[str]) -> History:
        """Field -> values seen, oldest first, of those fields that were."""
        return {name: np.stack([seen[name] for seen in self.seen]) for name in fields if name in self.seen[-1]}

    def next_seed(self) -> int:
        """Seed of the next decision: of the episode and the decision alone, whatever else is decided beside it."""
        self.decisions += 1
        words = np.random.SeedSequence((self.seed, self.decisions)).generate_state(2, np.uint32)
        return int(words[0]) << 31 ^ int(words[1])


class Controller:
    """Runs episodes in slots: collects those that must decide, asks for their chunks at once, hands out actions.

    Args:
        propose: makes chunks.
        fields: of an observation, that matter.
        history: T.
        execution: how chunks are executed.
    """

    def __init__(self, propose: Propose, fields: Sequence[str], history: int, execution: Execution) -> None:
        self.propose = propose
        self.fields = tuple(fields)
        self.history = history
        self.execution = execution
        self.episodes: dict[int, Episode] = {}

    def start(self, slot: int, seed: int, instruction: str) -> None:
        """Begin an episode in a slot; what the slot held is forgotten."""
        self.episodes[slot] = Episode(seed, instruction, self.history)

    def end(self, slot: int) -> None:
        """Forget a slot's episode."""
        self.episodes.pop(slot, None)

    def decide(self, slots: Sequence[int], observations: Sequence[dict[str, NDArray[Any]]]) -> NDArray[np.float32]:
        """Actions [n, A] for n slots that see these observations.

        Raises:
            ConfigurationError: if more steps are to be executed than a chunk has.
        """
        for slot, observation in zip(slots, observations, strict=True):
            self.episodes[slot].observe(observation)
        asking = [self.episodes[slot] for slot in slots if self._must_decide(self.episodes[slot])]
        if asking:
            chunks = self.propose(
                [episode.stacked(self.fields) for episode in asking], [episode.instruction for episode in asking],
                [episode.next_seed() for episode in asking], [self._guess(episode) for episode in asking],
            )
            for episode, chunk in zip(asking, chunks, strict=True):
                self._take(episode, chunk)
        return np.stack([self._act(self.episodes[slot]) for slot in slots])

    def _must_decide(self, episode: Episode) -> bool:
        return not episode.chunks or episode.step - episode.chunks[-1][0] >= self.execution.steps

    def _take(self, episode: Episode, chunk: Chunk) -> None:
        if self.execution.steps > len(chunk):
            raise ConfigurationError(
                f"{self.execution.steps} steps of a chunk are to be executed, which has {len(chunk)}: lower `steps`"
            )
        if self.execution.ensemble is None:
            episode.chunks.clear()
        episode.chunks = [(start, old) for start, old in episode.chunks if episode.step < start + len(old)]
        episode.chunks.append((episode.step, chunk))

    def _guess(self, episode: Episode) -> Chunk | None:
        """The last chunk from the present step on, its last action repeated; None if there is none to go on from."""
        if not self.execution.guess_from or not episode.chunks:
            return None
        start, chunk = episode.chunks[-1]
        done = episode.step - start
        return np.concatenate([chunk[done:], np.repeat(chunk[-1:], min(done, len(chunk)), axis=0)])[: len(chunk)]

    def _act(self, episode: Episode) -> NDArray[np.float32]:
        now = episode.step
        said = np.stack([chunk[now - start] for start, chunk in episode.chunks if now < start + len(chunk)])
        episode.step += 1
        if self.execution.ensemble is None or len(said) == 1:
            return said[-1]
        weights = np.exp(-self.execution.ensemble * np.arange(len(said)))
        return (said * (weights / weights.sum())[:, None]).sum(axis=0).astype(np.float32)
