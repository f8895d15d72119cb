"""Demonstrations by experts, collected when they are first needed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from polydit.data.robotics.demonstrations import Demonstration, DemonstrationSet, DemonstrationSource
from polydit.data.robotics.robomimic import RobomimicSource
from polydit.data.robotics.robomimic_layout import partial_path
from polydit.data.robotics.robomimic_writer import RobomimicWriter
from polydit.envs.episodes import Episode, EpisodeRequest
from polydit.envs.experts import ExpertPolicy, make_expert
from polydit.envs.rollouts import run_episodes
from polydit.platform.errors import DataError

EPISODES_AT_ONCE = 25
"""Episodes recorded between two writings."""


class ExpertSource(DemonstrationSource):
    """Demonstrations of tasks by their experts, in one HDF5 file in robomimic's layout.

    The file is made when it is first opened and kept; its name holds a digest of everything that decides its content.
    Only episodes that solve the task are demonstrations; seeds that fail are skipped and others tried.

    Args:
        tasks: environment specs, all with the same observation and action sizes.
        count: demonstrations of each.
        seed: of the first episode of each task; later ones count up. Evaluate on seeds that are not used here.
        noise: standard deviation of the noise added to what the expert does, in action units; what is recorded is what
            the expert chose. States off its path teach a policy to come back to it.
        cameras: recorded, beside the state.
        image_size: (height, width) of the images, pixels.
        max_steps: after which an episode counts as failed; None: the environment's own.
        steps_after_success: recorded after the task is solved, so that the policy learns to stay.
        folder: where the file goes.
        workers: processes that simulate.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        count: int = 50,
        seed: int = 0,
        noise: float = 0.0,
        cameras: Sequence[str] = (),
        image_size: tuple[int, int] = (84, 84),
        max_steps: int | None = None,
        steps_after_success: int = 10,
        folder: str = "cache",
        workers: int = 0,
    ) -> None:
        if not tasks or count < 1:
            raise DataError(f"nothing to collect: {len(tasks)} tasks, {count} demonstrations of each")
        self.tasks = list(tasks)
        self.count, self.seed, self.noise = count, seed, noise
        self.cameras, self.image_size = tuple(cameras), tuple(image_size)
        self.max_steps, self.steps_after_success = max_steps, steps_after_success
        self.folder, self.workers = Path(folder), workers

    @property
    def path(self) -> Path:
        """The file that holds or will hold the demonstrations."""
        decisive = [self.tasks, self.count, self.seed, self.noise, self.cameras, self.image_size, self.max_steps,
                    self.steps_after_success]
        digest = hashlib.sha256(json.dumps(decisive).encode()).hexdigest()[:12]
        return self.folder / f"demonstrations-{digest}.hdf5"

    def prepare(self) -> None:
        """Collect the demonstrations if there are none yet."""
        if not self.path.exists():
            self.collect()

    def open(self) -> DemonstrationSet:
        """The demonstrations, collected first if there are none yet.

        Raises:
            DataError: if a task's expert fails too often.
        """
        self.prepare()
        return RobomimicSource(str(self.path)).open()

    def collect(self) -> None:
        """Record; what an interrupted recording left is gone on with.

        Raises:
            DataError: if a task has no expert, or its expert fails too often.
        """
        for task in self.tasks:
            make_expert(task)  # fails before anything is simulated
        self.folder.mkdir(parents=True, exist_ok=True)
        known = self._known()
        with RobomimicWriter(self.path, resume=True) as writer:
            for task in self.tasks:
                self._demonstrate(task, known.get(task, []), writer)

    def _known(self) -> dict[str, list[int]]:
        """Task -> seeds of the demonstrations that an interrupted recording holds."""
        seeds: dict[str, list[int]] = {}
        for part in partial_path(self.path).glob("demo_*.hdf5"):  # one for every demonstration
            held = RobomimicSource(str(part)).open()
            seeds.setdefault(held.task(0), []).append(held.seed(0) or 0)
        return seeds

    def _demonstrate(self, task: str, seeds: list[int], writer: RobomimicWriter) -> None:
        solved, tried = len(seeds), max((seed - self.seed + 1 for seed in seeds), default=0)
        options: dict[str, Any] = {"cameras": self.cameras, "image_size": self.image_size} if self.cameras else {}
        while solved < self.count:
            if tried >= 2 * self.count + 10:
                raise DataError(
                    f"the expert of {task} solved only {solved} of {tried} episodes, {self.count} are wanted: "
                    f"lower noise {self.noise}, raise max_steps, or leave the task out"
                )
            # A few at a time, written as they come: frames of many episodes would not fit into memory.
            number = min(self.count - solved, EPISODES_AT_ONCE)
            requests = [EpisodeRequest(task, self.seed + tried + i, options) for i in range(number)]
            tried += number
            for episode in run_episodes(
                requests, ExpertPolicy(noise=self.noise), workers=self.workers, max_steps=self.max_steps,
                keep_trajectory=True, steps_after_success=self.steps_after_success,
            ):
                if episode.success:
                    writer.add(as_demonstration(episode))
                    solved += 1


def as_demonstration(episode: Episode) -> Demonstration:
    """The demonstration that an episode with its trajectory is."""
    assert episode.observations is not None and episode.actions is not None
    return Demonstration(
        episode.observations, episode.actions, episode.instruction, episode.request.environment, episode.rewards,
        episode.states, episode.success, episode.request.seed, {"versions": episode.versions},
    )
