"""Success rates of episodes, with the interval that their number allows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from polydit.envs.episodes import Episode
from polydit.platform.evaluation.evaluator import Evaluator, Histograms, Row
from polydit.platform.evaluation.statistics import Estimate, estimate_grouped_share, estimate_mean, estimate_share
from polydit.platform.requests import Sample


class SuccessEvaluator(Evaluator):
    """Success, return and length of episodes, by task and over all.

    An episode that could not be finished (its simulator failed, or an action was not a number) counts as no success.
    The interval over several tasks takes episodes of one task as alike (`estimate_grouped_share`).
    """

    def __init__(self) -> None:
        self.episodes: list[Episode] = []

    def accepts(self, output: Any) -> bool:
        """Whether an output is a sample whose item is an episode."""
        return isinstance(output, Sample) and isinstance(output.item, Episode)

    def reset(self) -> None:
        """Forget all episodes."""
        self.episodes = []

    def update(self, outputs: Sequence[Any]) -> None:
        """Add episodes, without their frames."""
        self.episodes += [output.item for output in outputs]

    def compute(self) -> dict[str, Estimate]:
        """``success/<task>``, ``success``, ``return/<task>``, ``steps_to_success`` and ``failed_episodes``."""
        tasks = self._by_task()
        solved = {task: sum(episode.success for episode in group) for task, group in tasks.items()}
        estimates = {f"success/{task}": estimate_share(solved[task], len(group)) for task, group in tasks.items()}
        estimates |= {
            f"return/{task}": estimate_mean([episode.episode_return for episode in group if episode.error is None])
            for task, group in tasks.items()
        }
        if len(tasks) > 1:
            counts = [len(group) for group in tasks.values()]
            estimates["success"] = estimate_grouped_share(list(solved.values()), counts)
        else:
            estimates["success"] = estimate_share(sum(solved.values()), len(self.episodes))
        needed = [episode.success_step for episode in self.episodes if episode.success_step is not None]
        estimates["steps_to_success"] = estimate_mean(needed)
        failed = sum(episode.error is not None for episode in self.episodes)
        estimates["failed_episodes"] = estimate_share(failed, len(self.episodes))
        return estimates

    def rows(self) -> list[Row]:
        """One row per episode: task, seed, outcome, where it started, and with which versions."""
        return [
            {
                "task": name_task(episode), "episode_seed": episode.request.seed, "success": episode.success,
                "success_step": episode.success_step, "steps": episode.steps, "return": episode.episode_return,
                "instruction": episode.instruction, "error": episode.error,
                "start_state": " ".join(f"{value:.6g}" for value in episode.start_state),
                "versions": " ".join(f"{name}={version}" for name, version in sorted(episode.versions.items())),
            }
            for episode in self.episodes
        ]

    def histograms(self) -> Histograms:
        """Steps to success."""
        needed = [episode.success_step for episode in self.episodes if episode.success_step is not None]
        return {"steps to success": (np.asarray(needed, float), np.empty(0))} if needed else {}

    def descriptions(self) -> dict[str, str]:
        """What the numbers mean."""
        return {
            "success": "share of all episodes that solved their task at any step",
            **{f"success/{task}": f"share of episodes of {task} that solved it" for task in self._by_task()},
            **{f"return/{task}": f"mean sum of rewards of {task}" for task in self._by_task()},
            "steps_to_success": "mean number of steps until a task was solved, where it was",
            "failed_episodes": "share of episodes that ended in an error of the simulator or the policy",
        }

    def _by_task(self) -> dict[str, list[Episode]]:
        groups: dict[str, list[Episode]] = {}
        for episode in self.episodes:
            groups.setdefault(name_task(episode), []).append(episode)
        return dict(sorted(groups.items()))


def name_task(episode: Episode) -> str:
    """Short name of an episode's task: what follows the family."""
    return episode.request.environment.rpartition("/")[2]


