"""Speed and error of step caches beside fewer steps, on trained models of three domains.

    python benchmarks/step_caches.py [--runs runs] [--only adit rdt mode images] [--repeats 5] [--count 32]

Every setting samples the same seeds in one process, alternating within the run; reported are the median of the
processor's time over repeats, which other work on the machine disturbs least, its ratio to that of all steps computed,
and the error of the final state: the mean squared difference from all steps computed, as a share of its mean square.
Beside each cache stands the error of simply taking fewer steps in the same time, from the same noise. Models whose
recipe samples with fresh noise at every step are sampled here along the flow instead, by Euler's method over the same
grid: with other noise at other steps nothing could be compared.

A model that is not there is left out with a message. The policies answer what their own rollouts asked.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import polydit
from polydit.platform.acceleration import CGTaylor, DeltaDiT, StepCache, TaylorSeer
from polydit.platform.requests import expand_requests
from polydit.platform.samplers import Euler, Sampler
from polydit.platform.state import Layout, State


@dataclass(frozen=True)
class Case:
    """A trained model.

    Args:
        name: of the table.
        run: folder of its run.
        layouts: system and number of samples -> what it is asked.
        wishes: of these.
        steps: grid times; None: the recipe's.
    """

    name: str
    run: str
    layouts: Callable[[Any, Case, int], list[Layout]]
    wishes: dict[str, Any]
    steps: int | None = None


def ask(system: Any, case: Case, count: int) -> list[Layout]:
    """One batch of samples."""
    return [system.codec.layout(expand_requests([{**case.wishes, "count": count}], 7))]


def roll_out(system: Any, case: Case, count: int) -> list[Layout]:
    """What a policy is asked in the first steps of episodes, one batch for every decision."""
    asked: list[Layout] = []
    answer = system.sample_state

    def record(layout: Layout, *args: Any, **options: Any) -> State:
        asked.append(layout)
        return answer(layout, *args, **options)

    system.rollouts = type(system.rollouts)(environments=count, max_steps=16, progress=False)
    system.sample_state = record
    system.generate(expand_requests([{**case.wishes, "count": count}], 7))
    del system.sample_state
    return asked[:2]


DRAWER = {"environment": "metaworld/drawer-open-v3"}

CASES = [
    Case("adit", "qm9_mp", ask, {"domain": "molecule"}, 50),
    Case("rdt", "rdt_metaworld", roll_out, DRAWER),
    Case("mode", "mode_metaworld", roll_out, DRAWER),
    Case("diffusion policy", "diffusion_policy_metaworld", roll_out, DRAWER),
    Case("diffusion policy, 100 steps", "diffusion_policy_metaworld", roll_out, DRAWER, 100),
    Case("images", "mnist", ask, {"class": 3}),
    Case("images, 50 steps", "mnist", ask, {"class": 3}, 50),
]


def caches(depth: int, steps: int) -> dict[str, StepCache]:
    """Settings tried."""
    found: dict[str, StepCache] = {}
    long = steps > 20
    for interval in (3, 4) if long else (2, 3):
        for order in (0, 1, 2):
            name = f"TaylorSeer, interval {interval}, order {order}" if order else f"reuse, interval {interval}"
            found[name] = TaylorSeer(interval, order, 4 if long else min(2, interval - 1))
    if long:
        found["TaylorSeer, interval 4, order 4, as published"] = TaylorSeer(4, 4, 2, finish=False)
        found["TaylorSeer, interval 3, order 2, newton"] = TaylorSeer(3, 2, 6, "newton")
    for threshold in (0.02, 0.1):
        found[f"CG-Taylor, threshold {threshold}"] = CGTaylor(threshold, 1, 1, warm_up=4 if long else 2)
    for interval in (2, 3, 4) if long else (2, 3):
        found[f"Delta-DiT, {depth - 1} of {depth} blocks, interval {interval}"] = DeltaDiT(depth - 1, interval)
    return found


@torch.inference_mode()
def sample(system: Any, layouts: Sequence[Layout], sampler: Sampler, cache: StepCache | None) -> tuple[float, State]:
    """Seconds of the processor, and all final states."""
    system.sampler, system.step_cache = sampler, cache
    start = time.process_time()
    states = [system.sample_state(layout) for layout in layouts]
    return time.process_time() - start, {
        f"{i}.{name}": value for i, state in enumerate(states) for name, value in state.items()
    }


def error(found: State, exact: State) -> float:
    """Mean squared difference as a share of the mean square."""
    difference = sum(float((found[name] - value).square().sum()) for name, value in exact.items())
    return difference / sum(float(value.square().sum()) for value in exact.values())


def with_steps(sampler: Sampler, steps: int) -> Sampler:
    """The same solver over as many steps; Euler's method in place of one that adds noise."""
    if sampler.is_stochastic:
        return Euler(steps, sampler.grid)
    options = {key: value for key, value in vars(sampler).items() if key in ("clock",)}
    made = type(sampler)(steps, sampler.grid, **options)
    for key, value in vars(sampler).items():
        if key != "steps":
            setattr(made, key, value)
    return made


def study(case: Case, folder: Path, count: int, repeats: int) -> None:
    """Print the table of a case."""
    if not (folder / "checkpoints" / "last.ckpt").is_file():
        print(f"\n{case.name}: left out, {folder} holds no checkpoint")
        return
    system: Any = polydit.load(folder).eval().system
    layouts = case.layouts(system, case, count)
    recipe = system.sampler
    steps = case.steps or recipe.steps
    full, half = with_steps(recipe, steps), with_steps(recipe, max(1, steps // 2))
    depth = len(system.denoiser.blocks)
    settings: dict[str, tuple[Sampler, StepCache | None]] = {
        "all steps": (full, None), "half the steps": (half, None),
        **{name: (full, cache) for name, cache in caches(depth, steps).items()},
    }
    size = [tuple(layout.shapes.values()) for layout in layouts]
    guidance = type(system.guidance).__name__
    print(f"\n{case.name}: {type(full).__name__}, {steps} steps, depth {depth}, {size}, {guidance}", flush=True)
    sample(system, layouts, half, None)  # the first pass is slow
    states: dict[str, State] = {}
    fewer: dict[int, State] = {}
    spent: dict[str, list[float]] = {name: [] for name in settings}
    for _ in range(repeats):
        for name, setting in settings.items():
            seconds, states[name] = sample(system, layouts, *setting)
            spent[name].append(seconds)
    exact, whole = states["all steps"], statistics.median(spent["all steps"])
    print(f"{'':48s} {'ms':>9s} {'speed-up':>9s} {'error':>10s}   fewer steps in the same time")
    for name in settings:
        median = statistics.median(spent[name])
        equal = min(steps, max(1, round(steps * median / whole)))
        if equal not in fewer:
            fewer[equal] = sample(system, layouts, with_steps(recipe, equal), None)[1]
        other = "" if name == "all steps" else f"{error(fewer[equal], exact):10.2e} with {equal}"
        print(
            f"{name:48s} {1000 * median:9.1f} {whole / median:8.2f}x {error(states[name], exact):10.2e}   {other}",
            flush=True,
        )


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--only", nargs="+", choices=[case.name for case in CASES])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--count", type=int, default=32)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for case in CASES:
        if options.only is None or case.name in options.only:
            study(case, options.runs / case.run, options.count, options.repeats)


if __name__ == "__main__":
    main()
