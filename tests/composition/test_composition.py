"""What is built once in the core works in every domain: each mechanism trained and sampled in each own recipe."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from polydit.platform.acceleration import cast_denoiser
from polydit.platform.mixers import TokenMixer
from polydit.platform.state import State

from .domains import DOMAINS, Bench, set_up, standing_in
from .mechanisms import CACHES, MECHANISMS


@pytest.fixture(scope="module", params=DOMAINS)
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder: Path = tmp_path_factory.mktemp(request.param)
    with standing_in(folder):
        yield set_up(DOMAINS[request.param], folder)


@pytest.fixture
def lacks(request: pytest.FixtureRequest) -> frozenset[str]:
    return DOMAINS[request.node.callspec.params["bench"]].lacks


@pytest.mark.parametrize("name", MECHANISMS)
def test_mechanism_trains_and_samples(bench: Bench, lacks: frozenset[str], name: str) -> None:
    mechanism = MECHANISMS[name]
    if mechanism.slot in lacks:
        pytest.skip(f"its denoiser has no slot for a {mechanism.slot}")
    system = bench.build(mechanism.changes)
    held = mechanism.holds
    assert held is None or any(isinstance(module, held) for module in system.denoiser.modules())

    losses = system.losses(bench.batch, torch.Generator().manual_seed(0))
    assert torch.isfinite(losses["loss"]) and (not mechanism.loss or mechanism.loss in losses)
    losses["loss"].backward()
    without = [key for key, value in system.denoiser.named_parameters() if value.grad is None]
    assert not [key for key in without if ".experts." not in key], "no gradient reaches these"
    assert_finite(bench.sample(system))
    assert same(bench.sample(system), bench.sample(system)) and not same(bench.sample(system), bench.sample(system, 1))


@pytest.mark.parametrize("name", CACHES)
def test_step_cache_saves_calls(bench: Bench, name: str) -> None:
    system = bench.build({"sampler": {"init_args": {"steps": 8}}, "step_cache": CACHES[name]})
    cache, calls = system.step_cache, []
    for module in system.denoiser.modules():
        if isinstance(module, TokenMixer):
            module.register_forward_hook(lambda *_: calls.append(1))
    fewer = bench.sample(system)
    with_cache = len(calls)
    system.step_cache = None
    full = bench.sample(system)
    assert 0 < with_cache < 0.9 * (len(calls) - with_cache)
    assert_finite(fewer)
    assert not same(fewer, full)
    system.step_cache = cache
    assert same(fewer, bench.sample(system)), "a walk remembers the one before"


def test_weights_in_bf16_sample_the_same_but_for_rounding(bench: Bench) -> None:
    system = bench.build({})
    full = bench.sample(system)
    cast_denoiser(system, "bf16")
    rounded = bench.sample(system)
    for name, value in full.items():
        assert rounded[name].dtype == value.dtype
        assert (rounded[name] - value).square().mean().sqrt() < 0.2 * value.square().mean().sqrt().clamp(min=0.1)
    assert all(p.dtype == torch.bfloat16 for p in nn.ModuleList([system.denoiser]).parameters())


def assert_finite(state: State) -> None:
    assert all(value.isfinite().all() and value.any() for value in state.values())


def same(first: State, second: State) -> bool:
    return all(torch.equal(value, second[name]) for name, value in first.items())
