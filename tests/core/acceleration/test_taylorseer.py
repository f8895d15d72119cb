"""TaylorSeer within sampling: neutral, counted, and its features kept apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from polydit.platform.acceleration import Policies, StepCache, TaylorSeer
from polydit.platform.context import Context
from polydit.platform.requests import expand_requests
from polydit.platform.samplers import Ancestral, Euler, Heun
from polydit.platform.samplers.guidance import ClassifierFreeGuidance, Guidance, Guided
from polydit.platform.samplers.skip_guidance import SkipGuidance
from polydit.platform.state import State
from polydit.platform.systems.diffusion import DiffusionSystem
from tests.core.systems.test_diffusion import make_batch, make_system

from .walks import assert_same, counted, distance, parts_of, sample, walking_system

SETTINGS: dict[str, dict[str, Any]] = {
    "euler": {"sampler": Euler(9)},
    "heun": {"sampler": Heun(9)},
    "ancestral": {"sampler": Ancestral(9)},
    "guided": {"sampler": Euler(9), "guidance": ClassifierFreeGuidance({"label": 2.0}, (0.3, 0.8))},
    "skips": {"sampler": Euler(9), "guidance": SkipGuidance([1], 1.5, (0.0, 0.7))},
    "self-conditioned": {"sampler": Heun(9), "self_conditioning": 0.5},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=list(SETTINGS))
def test_an_interval_of_one_changes_no_bit(settings: dict[str, Any]) -> None:
    system = walking_system(**settings)
    assert_same(sample(system, TaylorSeer(interval=1)), sample(system))


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=list(SETTINGS))
def test_no_walk_remembers_another_and_batches_do_not_mix(settings: dict[str, Any]) -> None:
    """Of other samples, sizes and batches in between: the same, as without a cache."""
    system, cache = walking_system(**settings), TaylorSeer(3, 2)
    alone = [sample(system, cache, [{"count": 1, "points": p, "label": 1}], seed)[0] for p, seed in ((4, 3), (2, 8))]
    wishes = [{"count": 1, "points": 4, "label": 1, "seed": 3}, {"count": 1, "points": 2, "label": 1, "seed": 8}]
    requests = [request for wish in wishes for request in expand_requests([wish], 0)]
    system.step_cache = cache
    together = [entry.item for entry in system.generate(requests)]
    if requests[0].seed == 3:
        for one, other in zip(alone, together, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert_same([entry.item for entry in system.generate(requests)], together)
    system.step_cache = None


class ReuseParts:
    """Plain reuse, written anew: what a part last gave stands for two more steps."""

    def __init__(self) -> None:
        self.kept: dict[str, Tensor] = {}

    def call(self, name: str, function: Callable[[Tensor], Tensor], h: Tensor, ctx: Context) -> Tensor:
        assert ctx.step is not None
        if ctx.step % 3 == 0:
            self.kept[name] = function(h)
        return self.kept[name]


class Reuse(StepCache):
    def begin(self) -> Policies:
        return Policies(module=(ReuseParts(),))


@pytest.mark.parametrize("guidance", [None, ClassifierFreeGuidance({"label": 2.0})], ids=["plain", "guided"])
def test_order_zero_is_plain_reuse(guidance: Guidance | None) -> None:
    system = walking_system(sampler=Euler(9), guidance=guidance)
    reused = sample(system, Reuse())
    assert_same(sample(system, TaylorSeer(3, 0, first_enhance=1, finish=False)), reused)
    assert distance(reused, sample(system)) > 1e-3


@pytest.mark.parametrize(
    ("settings", "cache", "full"),
    [
        ({}, TaylorSeer(4, 2, 2, finish=False), 4),  # 0 1 5 9
        ({}, TaylorSeer(4, 2, 2), 5),  # 0 1 5 9 11
        ({}, TaylorSeer(3, 0, 1, finish=False), 4),  # 0 3 6 9
        ({"sampler": Heun(12)}, TaylorSeer(4, 2, 2), 5 + 4),  # 0 1 5 9 at each look; the last step looks once
        # step 0 knows no estimate and is a branch of its own; then 1 2 6 10 11
        ({"self_conditioning": 0.5}, TaylorSeer(4, 2, 2), 1 + 5),
        # strong at every step; weakened at the 6 levels of at most 0.5, 6 7 11, in two blocks of three
        ({"guidance": SkipGuidance([1], 1.5, (0.0, 0.51))}, TaylorSeer(4, 2, 2), 5 + 3 * 2 / 3),
        # alone at 0 to 3, 0 1; guided, a batch twice as wide, at 4 to 8, 4 5; alone again after a long gap, 9 11
        ({"guidance": ClassifierFreeGuidance({"label": 2.0}, (0.3, 0.7))}, TaylorSeer(4, 2, 2), 2 + 2 + 2),
    ],
    ids=["published", "euler", "reuse", "heun", "self-conditioned", "skips", "guided in an interval"],
)
def test_parts_run_at_full_steps_only(settings: dict[str, Any], cache: TaylorSeer, full: float) -> None:
    system = walking_system(**{"sampler": Euler(12), **settings})
    with counted(*parts_of(system)) as calls:
        sample(system, cache, [{"count": 2, "points": 3, "label": 1}])
    assert len(calls) == full * len(parts_of(system))


class OneByOne(Guidance):
    """Guides as `ClassifierFreeGuidance` does, in one pass for each condition."""

    def estimate(self, x: State, t: Tensor, guided: Guided) -> State:
        assert guided.conditioner is not None
        null = guided.denoise(x, t, [guided.conditioner.null(guided.condition, ["label"])])[0]
        full = guided.denoise(x, t, [guided.condition])[0]
        return {name: null[name] + 2.0 * (full[name] - null[name]) for name in x}


def test_branches_of_guidance_keep_apart() -> None:
    """In one batch or one after the other."""
    wishes = [{"count": 2, "points": 3, "label": 1}]
    joint = walking_system(sampler=Euler(9), guidance=ClassifierFreeGuidance({"label": 2.0}))
    apart = walking_system(sampler=Euler(9), guidance=OneByOne())
    for cache in (None, TaylorSeer(3, 2)):
        for one, other in zip(sample(joint, cache, wishes), sample(apart, cache, wishes), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_a_walk_from_a_guess_begins_in_full() -> None:
    system = walking_system(sampler=Euler(12))
    layout = system.codec.layout(expand_requests([{"points": 3, "count": 2, "label": 1}]))
    guess = system.sample_state(layout)
    exact = system.sample_state(layout, guess, start=7)
    system.step_cache = TaylorSeer(4, 1, 2)
    with counted(*parts_of(system)) as calls:
        state = system.sample_state(layout, guess, start=7)
    assert len(calls) == 3 * len(parts_of(system))  # 7 8 11
    assert not torch.equal(state["a"], exact["a"])


def test_training_and_passes_outside_a_walk_never_meet_it() -> None:
    losses = []
    for cache in (None, TaylorSeer(4)):
        system = make_system(step_cache=cache, self_conditioning=0.5)
        losses.append(system.losses(make_batch(4), torch.Generator().manual_seed(1))["loss"])
    assert torch.equal(*losses)
    policy = TaylorSeer(4).begin().module[0]
    for value in (1.0, 2.0, 3.0):
        h = torch.tensor([value])
        assert torch.equal(policy.call("part", lambda x: 2 * x, h, Context()), 2 * h)


def test_other_shapes_start_anew() -> None:
    policy = TaylorSeer(3, 1, 1).begin().module[0]
    ctx = Context()

    def at(step: int, rows: int) -> Tensor:
        return policy.call("part", lambda x: x + step, torch.zeros(rows), ctx.at_step(step, 9))

    assert at(0, 2).tolist() == [0, 0] and at(1, 2).tolist() == [0, 0] and at(2, 3).tolist() == [2, 2, 2]


@pytest.fixture(scope="module")
def trained() -> DiffusionSystem:
    """On the two classes, so that what is sampled has a right answer."""
    system = make_system(sampler=Euler(50))
    optimizer = torch.optim.Adam([p for p in system.parameters() if p.requires_grad], 3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        optimizer.zero_grad()
        system.losses(make_batch(), generator)["loss"].backward()
        optimizer.step()
    return system.eval()


def test_a_trained_model_is_foretold_better_than_reused_and_than_by_fewer_steps(trained: DiffusionSystem) -> None:
    wishes = [{"count": 16, "points": 4, "label": label} for label in (1, 2)]
    exact = sample(trained, None, wishes)
    caches = {
        "reused": TaylorSeer(4, 0, 2), "foretold": TaylorSeer(4, 2, 2), "newton": TaylorSeer(4, 2, 2, "newton"),
        "not finished": TaylorSeer(5, 2, 2, finish=False),  # 0 1 6 ... 46
        "finished": TaylorSeer(5, 2, 2),
    }
    error = {name: distance(sample(trained, cache, wishes), exact) for name, cache in caches.items()}
    trained.sampler = Euler(14)  # as many steps as the cache computes
    fewer = distance(sample(trained, None, wishes), exact)
    trained.sampler = Euler(50)
    assert error["foretold"] < 0.6 * error["reused"] < 0.2 * fewer
    assert error["newton"] < 0.8 * error["foretold"]
    assert error["finished"] < 0.5 * error["not finished"]
