"""DiT-MoE: published sizes, what a mixture costs, upcycling, and a balance that can be lost and found."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from polydit.platform.context import Context
from polydit.platform.denoisers import DiT, TokenEmbedding, TokenHead
from polydit.platform.denoisers.sizes import published_dit_moe
from polydit.platform.errors import ConfigurationError
from polydit.platform.feedforwards import (
    MLP,
    MixtureOfExperts,
    SwiGLU,
    TokenRouter,
    count_active_parameters,
    upcycle_experts,
)
from polydit.platform.mixers import Attention
from polydit.platform.state import Condition

WIDTH = 16


@pytest.mark.parametrize(
    ("name", "total", "active"),
    [
        ("DiT-MoE-S/2-8E2A", 199_209_248, 71_807_264),
        ("DiT-MoE-S/2-16E2A", 369_115_424, 71_844_128),
        ("DiT-MoE-B/2-8E2A", 795_664_928, 286_056_992),
        ("DiT-MoE-L/2-8E2A", 2_823_501_856, 1_011_562_528),
        ("DiT-MoE-XL/2-8E2A", 4_167_869_216, 1_492_427_552),
        ("DiT-MoE-G/2-16E2A", 16_503_356_704, 3_181_198_624),
    ],
)
def test_total_and_active_parameters_of_the_published_sizes(name: str, total: int, active: int) -> None:
    """With the label table of 1000 classes and the null, which here is the conditioner's."""
    with torch.device("meta"):
        model = published_dit_moe(name)
    table = 1001 * model.width
    assert sum(parameter.numel() for parameter in model.parameters()) + table == total
    assert count_active_parameters(model) + table == active


def test_other_sizes_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="no published size 'DiT-MoE-G/2-8E2A'"):
        published_dit_moe("DiT-MoE-G/2-8E2A")


def operations(experts: int, top_k: int) -> tuple[int, int]:
    """Counted and claimed of a pass of one sample of 24 tokens, with a shared expert of another width."""
    torch.manual_seed(0)
    mixture = MixtureOfExperts(
        WIDTH, experts, top_k, partial(SwiGLU, ratio=4.0), partial(TokenRouter, renormalised=False), 1,
        partial(SwiGLU, ratio=2.0),
    )
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        mixture(torch.randn(1, 24, WIDTH), Context())
    return counter.get_total_flops(), mixture.cost(24)


def test_more_experts_cost_their_router_and_more_chosen_ones_cost_more() -> None:
    router = 2 * 24 * WIDTH  # of one more expert
    counted = {}
    for experts, top_k in ((4, 2), (8, 2), (8, 4)):
        counted[experts, top_k], claimed = operations(experts, top_k)
        assert counted[experts, top_k] == claimed
    assert counted[8, 2] - counted[4, 2] == 4 * router
    assert counted[8, 4] - counted[8, 2] == 2 * 6 * 24 * WIDTH * 4 * WIDTH


def make_dit(feedforward: object, depth: int = 2) -> DiT:
    torch.manual_seed(0)
    return DiT(
        partial(TokenEmbedding, fields={"a": 3}), partial(TokenHead, fields={"a": 3}), WIDTH, depth,
        partial(Attention, heads=2), feedforward,  # type: ignore[arg-type]
    )


Experts = partial(
    MixtureOfExperts, experts=4, top_k=2, expert=MLP, router=partial(TokenRouter, renormalised=False), shared=1,
    shared_expert=partial(SwiGLU, ratio=1.0),
)


def test_upcycled_experts_are_the_dense_one_and_their_sum_is_less() -> None:
    """Weights are probabilities as they are, so that upcycling does not preserve the function."""
    dense, sparse = make_dit(MLP), make_dit([MLP, Experts])
    for parameter in dense.parameters():
        nn.init.normal_(parameter, std=0.2)
    mixture = sparse.blocks[1].feedforward
    shared = mixture.shared[0].contract.weight.clone()  # type: ignore[union-attr, index]
    state = dense.state_dict()
    assert upcycle_experts(sparse, state, torch.Generator().manual_seed(0)) == ["blocks.1.feedforward"]
    found = sparse.state_dict()
    for key, value in state.items():
        if key.startswith("blocks.1.feedforward."):
            copies = [found[key.replace("feedforward.", f"feedforward.experts.{index}.")] for index in range(4)]
            assert all(torch.equal(copy, value) for copy in copies)
        else:
            assert torch.equal(found[key], value)
    router = found["blocks.1.feedforward.router.score.weight"]
    assert 0.01 < float(router.std()) < 0.03 and torch.equal(mixture.shared[0].contract.weight, shared)  # type: ignore

    x, ctx = torch.randn(3, 5, WIDTH), Context()
    routing = mixture.router(x, ctx)  # type: ignore[operator, union-attr]
    whole = dense.blocks[1].feedforward(x, ctx)  # type: ignore[operator, union-attr]
    routed = mixture(x, ctx) - mixture.shared[0](x, ctx)  # type: ignore
    share = routing.weights.sum(-1).reshape(3, 5, 1)
    torch.testing.assert_close(routed, share * whole, rtol=1e-4, atol=1e-5)
    assert bool((share < 1).all())
    assert torch.isfinite(sparse({"a": torch.randn(2, 4, 3)}, torch.rand(2), Condition(), Context())["a"]).all()


def test_renormalised_experts_without_shared_ones_begin_as_the_dense_model() -> None:
    dense, sparse = make_dit(MLP), make_dit(partial(MixtureOfExperts, experts=4, top_k=2, expert=MLP))
    for parameter in dense.parameters():
        nn.init.normal_(parameter, std=0.2)
    upcycle_experts(sparse, dense.state_dict(), torch.Generator().manual_seed(0))
    x, t = {"a": torch.randn(2, 4, 3)}, torch.rand(2)
    expected = dense(x, t, Condition(), Context())["a"]
    torch.testing.assert_close(sparse(x, t, Condition(), Context())["a"], expected, rtol=1e-4, atol=1e-4)


def test_the_same_seed_upcycles_the_same() -> None:
    models = [make_dit(Experts), make_dit(Experts)]
    for model in models:
        upcycle_experts(model, make_dit(MLP).state_dict(), torch.Generator().manual_seed(3))
    assert all(torch.equal(a, b) for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True))


@pytest.mark.parametrize("dense", [SwiGLU, partial(MLP, ratio=2.0)], ids=["another class", "another size"])
def test_a_dense_model_that_does_not_fit_is_refused_and_nothing_is_loaded(dense: object) -> None:
    model = make_dit(Experts)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ConfigurationError, match=r"do not fit \d+ of the model's.*experts' class and size"):
        upcycle_experts(model, make_dit(dense).state_dict(), torch.Generator())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    with pytest.raises(ConfigurationError, match="no mixture of experts to fill"):
        upcycle_experts(make_dit(MLP), make_dit(MLP).state_dict(), torch.Generator())


def test_balance_is_one_when_even_half_the_experts_when_two_take_all_and_learnt_by_the_router() -> None:
    experts = 8
    torch.manual_seed(0)
    mixture = MixtureOfExperts(WIDTH, experts, 2, MLP, partial(TokenRouter, renormalised=False))
    x = torch.randn(4, 64, WIDTH)

    def measure() -> tuple[torch.Tensor, float]:
        ctx = Context()
        mixture(x, ctx)
        chosen = mixture.router(x, ctx).experts.flatten()
        return ctx.losses["balance"][0], float(torch.bincount(chosen, minlength=experts).max() / len(chosen))

    with torch.no_grad():
        mixture.router.score.weight.zero_()
        assert float(measure()[0]) == pytest.approx(1.0)
        x[..., 0] = 1.0
        mixture.router.score.weight[:2, 0] = 50.0  # both take half of every token
        collapsed, load = measure()
        assert float(collapsed) == pytest.approx(experts / 2) and load == pytest.approx(0.5)
        mixture.router.score.weight.normal_(std=0.3)
        mixture.router.score.weight[:2, 0] = 2.0
    first, crowded = measure()
    optimizer = torch.optim.Adam(mixture.router.parameters(), 0.02)
    for _ in range(150):
        optimizer.zero_grad()
        measure()[0].backward()
        optimizer.step()
    last, even = measure()
    assert float(last.detach()) < float(first.detach()) and even < 0.6 * crowded and even < 0.2
