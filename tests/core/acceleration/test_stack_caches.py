"""CG-Taylor and Delta-DiT: neutral, counted, on known features, and within sampling."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from polydit.platform.acceleration import CGTaylor, DeltaDiT, Policies, StepCache, TaylorSeer
from polydit.platform.context import BoundBlock, Context, RunBlocks
from polydit.platform.errors import ConfigurationError
from polydit.platform.samplers import Euler, Heun
from polydit.platform.samplers.guidance import ClassifierFreeGuidance
from polydit.platform.samplers.skip_guidance import SkipGuidance
from polydit.platform.state import MaskSpec, Streams

from .walks import assert_same, counted, distance, sample, walking_system

STEPS, DEPTH = 12, 4
SETTINGS: dict[str, dict[str, Any]] = {
    "euler": {"sampler": Euler(STEPS)},
    "heun": {"sampler": Heun(STEPS)},
    "guided": {"sampler": Euler(STEPS), "guidance": ClassifierFreeGuidance({"label": 2.0}, (0.3, 0.8))},
    "skips": {"sampler": Euler(STEPS), "guidance": SkipGuidance([1], 1.5)},
    "self-conditioned": {"sampler": Euler(STEPS), "self_conditioning": 0.5},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=list(SETTINGS))
@pytest.mark.parametrize(
    "cache", [CGTaylor(threshold=0.0), DeltaDiT(2, 1), DeltaDiT(0, 5)], ids=["threshold 0", "interval 1", "no blocks"]
)
def test_neutral_settings_change_no_bit(settings: dict[str, Any], cache: StepCache) -> None:
    system = walking_system(DEPTH, **settings)
    assert_same(sample(system, cache), sample(system))


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=list(SETTINGS))
@pytest.mark.parametrize("cache", [CGTaylor(math.inf), DeltaDiT(2, 3)], ids=["cg-taylor", "delta-dit"])
def test_no_walk_remembers_another(settings: dict[str, Any], cache: StepCache) -> None:
    system = walking_system(DEPTH, **settings)
    one, other = [{"count": 1, "points": 4, "label": 1}], [{"count": 2, "points": 2, "label": 2}]
    alone = sample(system, cache, one)
    sample(system, cache, other)
    assert_same(sample(system, cache, one), alone)
    assert distance(alone, sample(system, None, one)) > 1e-6


class Recorded(StepCache):
    """A cache whose policies can be looked at afterwards."""

    def __init__(self, cache: StepCache) -> None:
        self.cache = cache
        self.made: list[Any] = []

    def begin(self) -> Policies:
        policies = self.cache.begin()
        self.made += policies.stack
        return policies


def full_steps(cache: StepCache, **options: Any) -> list[int]:
    recorded = Recorded(cache)
    sample(walking_system(DEPTH, sampler=Euler(STEPS), **options), recorded, [{"count": 1, "points": 3, "label": 1}])
    return recorded.made[0].policies[0].full


def test_no_threshold_leaves_warm_up_first_and_last_steps_and_a_higher_one_never_more() -> None:
    assert full_steps(CGTaylor(math.inf, warm_up=3)) == [0, 1, 2, STEPS - 1]
    assert full_steps(CGTaylor(math.inf, warm_up=1)) == [0, STEPS - 1]
    counts = [len(full_steps(CGTaylor(threshold, 1, 1))) for threshold in (0.0, 0.3, 0.6, 1.0, 1.5, 3.0)]
    assert counts == sorted(counts, reverse=True) and counts[0] == STEPS and len(set(counts)) > 2


@pytest.mark.parametrize("depth", [4, 24])
def test_memory_does_not_grow_with_depth(depth: int) -> None:
    def stored(cache: StepCache) -> int:
        recorded = Recorded(cache)
        sample(walking_system(depth, sampler=Euler(6)), recorded, [{"count": 1, "points": 3, "label": 1}])
        policy = recorded.made[0].policies[0]
        if hasattr(policy, "delta"):
            return len(policy.delta)
        ladders = [*policy.first.values(), *policy.last.values()]
        return sum(len(ladder.rungs) for ladder in ladders)

    assert stored(CGTaylor(0.0, 3, 1)) == 4 + 2
    assert stored(DeltaDiT(2)) == 1


def walk(cache: StepCache, blocks: Callable[[int], list[BoundBlock]], start: Callable[[int], Tensor]) -> list[Tensor]:
    """What a stack gives at every step, of blocks and an input that depend on the step."""
    stack, outputs = cache.begin().stack, []
    for step in range(STEPS):
        ctx = Context(stack_policies=stack).at_step(step, STEPS)
        outputs.append(ctx.run({"x": start(step)}, blocks(step))["x"])
    return outputs


def steady(step: int) -> Tensor:
    return torch.linspace(1, 2, 6).reshape(1, 3, 2) * (1 + 0.01 * step)


def test_the_gate_fails_where_features_jump_and_a_fixed_interval_does_not_notice() -> None:
    """At an equal number of computed steps the error is lower."""
    jump = 7

    def blocks(step: int) -> list[BoundBlock]:
        extra = 3.0 * (step >= jump)
        return [lambda h: {"x": h["x"] + extra}, lambda h: {"x": 2 * h["x"]}]

    exact = [2 * (steady(step) + 3.0 * (step >= jump)) for step in range(STEPS)]
    adaptive = CGTaylor(0.05, 1, 1, warm_up=2)
    policy = ForecastProbe(adaptive)
    found = walk(policy, blocks, steady)
    assert policy.full[:3] == [0, 1, jump] and policy.full[-1] == STEPS - 1

    def error(outputs: Sequence[Tensor]) -> float:
        return sum(float((a - b).abs().mean()) for a, b in zip(outputs, exact, strict=True))

    every = [0, 1, 5, 9, 11]  # as many as the gate took or more
    assert len(policy.full) <= len(every)
    ladder = TaylorSeer(4, 1, 2).begin().module[0]
    fixed = [
        ladder.call("stack", lambda _, s=step: exact[s], steady(step), Context().at_step(step, STEPS))  # type: ignore[misc]
        for step in range(STEPS)
    ]
    assert error(found) < 0.7 * error(fixed)


class ForecastProbe(StepCache):
    """One policy, and its computed steps."""

    def __init__(self, cache: CGTaylor) -> None:
        self.policies = cache.begin()

    @property
    def full(self) -> list[int]:
        each: Any = self.policies.stack[0]
        return each.policies[0].full

    def begin(self) -> Policies:
        return self.policies


def test_padding_has_no_say_in_the_gate() -> None:
    mask = MaskSpec(keys=torch.tensor([[True, True, False]]))
    errors = []
    for garbage in (0.0, 1e6):
        probe = ForecastProbe(CGTaylor(0.05, warm_up=2))
        for step in range(5):
            x = steady(step)
            x[:, 2] = garbage * (-1) ** step
            ctx = Context(masks={"x": mask}, stack_policies=probe.policies.stack).at_step(step, STEPS)
            ctx.run({"x": x}, [lambda h: {"x": h["x"].exp().clamp(max=1e6)}, lambda h: h])
        each: Any = probe.policies.stack[0]
        errors.append(each.policies[0].errors)
    assert errors[0] == pytest.approx(errors[1]) and len(errors[0]) == 3


class TwoBranches:
    """What a denoiser of two stacks does in a pass; parts of the second run for one window after another."""

    def __init__(self, cache: StepCache) -> None:
        self.policies = cache.begin()

    def __call__(self, step: int) -> list[Tensor]:
        ctx = Context(module_policies=self.policies.module, stack_policies=self.policies.stack).at_step(step, STEPS)
        names = ("first.0", "second.0", "second.0")
        blocks = [
            [lambda h, n=name, b=base: {"x": ctx.call(n, lambda x: x + b, h["x"])}] * 2
            for name, base in zip(names, (1.0, 5.0, 9.0), strict=True)
        ]
        return [ctx.run({"x": steady(step)}, stack)["x"] for stack in blocks]


@pytest.mark.parametrize("cache", [TaylorSeer(3, 1), CGTaylor(math.inf, 1), DeltaDiT(2, 3)])
def test_stacks_and_repeated_parts_of_one_pass_keep_apart(cache: StepCache) -> None:
    run = TwoBranches(cache)
    for step in range(STEPS):
        for found, base in zip(run(step), (1.0, 5.0, 9.0), strict=True):
            torch.testing.assert_close(found, steady(step) + 2 * base)


# Delta-DiT


@pytest.mark.parametrize(
    ("cache", "full"),
    [
        (DeltaDiT(3, 2, 0.5, finish=False), 6),  # 0 2 4, 6 8 10
        (DeltaDiT(3, 4, 0.5, finish=False), 4),  # 0 4, 6 10
        (DeltaDiT(1, 4, 0.75, finish=False), 4),  # 0 4 8, 9
        (DeltaDiT(4, 4, 0.0), 4),  # 0 4 8 11
    ],
)
def test_blocks_run_as_counted(cache: DeltaDiT, full: int) -> None:
    system = walking_system(DEPTH, sampler=Euler(STEPS))
    blocks: Any = system.denoiser.blocks
    with counted(*blocks) as calls:
        sample(system, cache, [{"count": 1, "points": 3, "label": 1}])
    assert len(calls) == DEPTH * full + (DEPTH - cache.blocks) * (STEPS - full)
    skipped = [block for block in blocks if sum(call is block for call in calls) < STEPS]
    early, late = set(blocks[DEPTH - cache.blocks :]), set(blocks[: cache.blocks])
    assert set(skipped) <= early | late


def add(h: Streams, value: float) -> Streams:
    return {"x": h["x"] + value}


@pytest.mark.parametrize("boundary", [0.0, 0.5, 1.0])
def test_blocks_that_add_what_no_state_changes_are_skipped_exactly(boundary: float) -> None:
    blocks = [partial(add, value=value) for value in (1.0, 2.0, 4.0, 8.0)]
    for interval in (2, 7):
        outputs = walk(DeltaDiT(3, interval, boundary), lambda step: list(blocks), steady)
        for step, output in enumerate(outputs):
            torch.testing.assert_close(output, steady(step) + 15)


class KeepFeature:
    """Feature reuse, which Delta-DiT is not: what the skipped blocks gave stands, whatever comes in."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.kept: Streams = {}

    def run(self, h: Streams, blocks: Sequence[BoundBlock], proceed: RunBlocks, ctx: Context) -> Streams:
        if not ctx.step:
            self.kept = proceed(h, blocks[: self.count])
        return proceed(self.kept, blocks[self.count :])


def test_a_new_input_passes_through_skipped_front_blocks() -> None:
    """Reused features would have hidden it."""
    blocks = [lambda h, f=factor: {"x": h["x"] * f} for factor in (1.1, 0.9, 1.2)]
    moved = []
    policy: Any
    for policy in (DeltaDiT(2, 4, 0.0).begin().stack[0], KeepFeature(2)):
        outputs = []
        for bump in (0.0, 1.0):
            for step, x in ((0, steady(0)), (1, steady(1) + bump)):
                output = Context(stack_policies=(policy,)).at_step(step, STEPS).run({"x": x}, list(blocks))["x"]
            outputs.append(output)
            if not isinstance(policy, KeepFeature):
                policy = DeltaDiT(2, 4, 0.0).begin().stack[0]
        moved.append(float((outputs[1] - outputs[0]).abs().max()))
    assert moved[0] == pytest.approx(1.2, abs=1e-5) and moved[1] == 0


def test_bad_options_are_refused() -> None:
    for options, message in (({"threshold": -1.0}, "threshold -1"), ({"warm_up": 0}, "warm_up 0"),
                             ({"threshold": math.nan}, "threshold nan"), ({"last_order": -1}, "order -1")):  # fmt: skip
        with pytest.raises(ConfigurationError, match=message):
            CGTaylor(**options)  # type: ignore[arg-type]
    for options, message in (({"blocks": -1}, "blocks -1"), ({"blocks": 1, "boundary": 12.0}, "boundary 12"),
                             ({"blocks": 1, "interval": 0}, "interval 0")):  # fmt: skip
        with pytest.raises(ConfigurationError, match=message):
            DeltaDiT(**options)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="5 blocks cannot be skipped in a stack of 4"):
        sample(walking_system(DEPTH), DeltaDiT(5))
