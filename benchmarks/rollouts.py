"""Rollouts per second: one episode at a time against several whose decisions are one batch, with and without workers.

    python benchmarks/rollouts.py --checkpoint runs/demo_robot --environment metaworld/reach-v3 \
        [--episodes 16] [--environments 8] [--workers 2] [--steps 100] [--repeats 3]

The same episodes in every way, alternating, each cut after `--steps` steps and ended by nothing else; what is timed
is simulation and policy together. Simulators are made anew in every run, which is part of what a run costs.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch

import polydit
from polydit.domains.robotics.policy import PolicySystem, SlotPolicy
from polydit.envs import EpisodeRequest, run_episodes


def measure(run: Callable[[], None]) -> float:
    """Seconds of one run."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--environment", default="metaworld/reach-v3")
    parser.add_argument("--episodes", type=int, default=16)
    parser.add_argument("--environments", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    system = polydit.load(options.checkpoint).system.eval()
    if not isinstance(system, PolicySystem):
        raise SystemExit(f"{options.checkpoint} holds no policy")
    system.rollouts = replace(system.rollouts, camera=None, progress=False)
    requests = [EpisodeRequest(options.environment, 10_000 + seed) for seed in range(options.episodes)]

    def play(environments: int, workers: int) -> Callable[[], None]:
        def run() -> None:
            with torch.no_grad():
                episodes = run_episodes(
                    requests, SlotPolicy(system.controller()), environments, workers, max_steps=options.steps,
                    progress=False, steps_after_success=None,
                )
            if any(episode.error for episode in episodes):
                raise SystemExit(f"an episode failed: {next(episode.error for episode in episodes if episode.error)}")

        return run

    ways = {
        "one at a time": play(1, 0),
        f"{options.environments} at once": play(options.environments, 0),
        f"{options.environments} at once, {options.workers} workers": play(options.environments, options.workers),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.repeats):
        for name, run in ways.items():
            times[name].append(measure(run))
    base = times["one at a time"]
    for name, seconds in times.items():
        rate = options.episodes / statistics.median(seconds)
        ratio = statistics.median([a / b for a, b in zip(base, seconds, strict=True)])
        print(f"{name:28s} {rate:6.2f} episodes/s ({rate * options.steps:7.0f} steps/s), {ratio:.2f} times the first")


if __name__ == "__main__":
    main()
