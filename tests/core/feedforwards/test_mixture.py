"""Mixtures of experts: against their sum written out, their balance, and what their routers may and may not read."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonargparse import ArgumentParser
from torch import Tensor, nn

from polydit.platform.context import Context
from polydit.platform.denoisers import Denoiser, DiT, TokenEmbedding, TokenHead
from polydit.platform.errors import ConfigurationError
from polydit.platform.feedforwards import (
    MLP,
    FeedForward,
    MixtureOfExperts,
    NoiseRouter,
    Router,
    SwiGLU,
    TokenNoiseRouter,
    TokenRouter,
    count_active_parameters,
)
from polydit.platform.module import describe_parameters
from polydit.platform.objectives import Denoising, SideLoss
from polydit.platform.state import Condition, Layout, MaskSpec

WIDTH = 16
ROUTERS = (TokenRouter, NoiseRouter, TokenNoiseRouter)


def context(batch: int = 3, tokens: int = 5, keys: Tensor | None = None) -> Context:
    masks = {} if keys is None else {"x": MaskSpec(keys=keys)}
    return Context(masks=masks, time=torch.randn(batch, WIDTH))


def written_out(mixture: MixtureOfExperts, x: Tensor, ctx: Context) -> Tensor:
    """Every expert on every token, times a weight that is zero where it was not chosen."""
    routing = mixture.router(x, ctx)
    weights = torch.zeros_like(routing.probabilities).scatter(1, routing.experts, routing.weights)
    weights = weights.reshape(x.shape[0], -1, len(mixture.experts)).expand(-1, x.shape[1], -1)
    outputs = torch.stack([expert(x, ctx) for expert in mixture.experts], dim=-1)
    total = (outputs * weights[:, :, None]).sum(-1)
    return total + sum((expert(x, ctx) for expert in mixture.shared), torch.zeros_like(x))


@settings(max_examples=30)
@given(
    router=st.sampled_from(ROUTERS), batch=st.integers(1, 4), tokens=st.integers(1, 6), experts=st.integers(2, 5),
    shared=st.integers(0, 2), data=st.data(),
)
def test_equals_the_sum_written_out(
    router: type[Router], batch: int, tokens: int, experts: int, shared: int, data: Any
) -> None:
    """Dispatch is an optimisation: outputs and gradients are those of running every expert on every token."""
    torch.manual_seed(batch)
    top_k = data.draw(st.integers(1, experts))
    expert = data.draw(st.sampled_from([MLP, SwiGLU]))
    mixture = MixtureOfExperts(WIDTH, experts, top_k, expert, router, shared).double().eval()
    x = torch.randn(batch, tokens, WIDTH, dtype=torch.float64, requires_grad=True)
    ctx = Context(time=torch.randn(batch, WIDTH, dtype=torch.float64))
    output, expected = mixture(x, ctx), written_out(mixture, x, ctx)
    torch.testing.assert_close(output, expected)
    for parameter in (x, mixture.experts[0].get_parameter("contract.weight"), mixture.router.score.weight):
        first, second = (
            torch.autograd.grad(value.square().sum(), parameter, retain_graph=True, allow_unused=True)[0]
            for value in (output, expected)
        )
        zero = torch.zeros_like(parameter)
        torch.testing.assert_close(zero if first is None else first, zero if second is None else second)


class CountingExpert(MLP):
    """An expert that remembers how many tokens it saw."""

    seen = 0

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        self.seen += x.shape[0] * x.shape[1]
        return super().forward(x, ctx)


@pytest.mark.parametrize("router", ROUTERS)
def test_experts_run_only_on_what_is_routed_to_them(router: type[Router]) -> None:
    mixture = MixtureOfExperts(WIDTH, 4, 2, CountingExpert, router).eval()
    x, ctx = torch.randn(3, 5, WIDTH), context()
    chosen = mixture.router(x, ctx).experts
    mixture(x, ctx)
    per_decision = 15 // len(chosen)
    assert [expert.seen for expert in mixture.experts] == [
        int((chosen == number).sum()) * per_decision for number in range(4)
    ]
    assert sum(expert.seen for expert in mixture.experts) == 2 * 15


def test_noise_routing_ignores_content_and_token_routing_the_noise() -> None:
    first, second = torch.randn(2, 6, 5, WIDTH)
    ctx, other = context(6), context(6)
    by_noise, by_token = NoiseRouter(WIDTH, 4, 2).eval(), TokenRouter(WIDTH, 4, 2).eval()
    assert torch.equal(by_noise(first, ctx).weights, by_noise(second, ctx).weights)
    assert not torch.equal(by_noise(first, ctx).probabilities, by_noise(first, other).probabilities)
    assert torch.equal(by_token(first, ctx).weights, by_token(first, other).weights)
    assert not torch.equal(by_token(first, ctx).probabilities, by_token(second, ctx).probabilities)
    both = TokenNoiseRouter(WIDTH, 4, 2).eval()
    assert not torch.equal(both(first, ctx).probabilities, both(first, other).probabilities)
    assert not torch.equal(both(first, ctx).probabilities, both(second, ctx).probabilities)


def test_noise_levels_per_token_are_decided_per_token() -> None:
    mixture = MixtureOfExperts(WIDTH, 4, 2, router=NoiseRouter).eval()
    x, time = torch.randn(2, 3, WIDTH), torch.randn(2, 3, WIDTH)
    ctx = Context(time=time)
    assert mixture.router(x, ctx).experts.shape == (6, 2)
    torch.testing.assert_close(mixture(x, ctx), written_out(mixture, x, ctx))
    one_level = Context(time=time[:, :1].expand(-1, 3, -1))
    torch.testing.assert_close(mixture(x, one_level), mixture(x, Context(time=time[:, 0])))


def test_training_draws_without_replacement_by_the_probabilities() -> None:
    """Every ordered pair as often as drawing one after the other gives it; evaluation takes the likeliest."""
    router = NoiseRouter(WIDTH, 4, 2)
    time = torch.randn(1, WIDTH)
    count = 20_000
    x = torch.zeros(count, 1, WIDTH)
    torch.manual_seed(0)
    routing = router(x, Context(time=time.expand(count, -1)))
    assert bool((routing.experts[:, 0] != routing.experts[:, 1]).all())
    torch.testing.assert_close(routing.weights.sum(-1), torch.ones(count))
    p = routing.probabilities[0].detach()
    expected = p[:, None] * p[None, :] / (1 - p[:, None])  # one after the other, the first put aside
    expected.fill_diagonal_(0)
    drawn = torch.bincount(4 * routing.experts[:, 0] + routing.experts[:, 1], minlength=16).reshape(4, 4) / count
    torch.testing.assert_close(drawn, expected, atol=0.01, rtol=0)
    torch.manual_seed(0)
    again = router(x, Context(time=time.expand(count, -1)))
    assert torch.equal(again.experts, routing.experts)
    likeliest = router.eval()(x[:1], Context(time=time)).experts
    assert torch.equal(likeliest, routing.probabilities[:1].topk(2).indices)


def test_weights_are_renormalised_or_the_probabilities_themselves() -> None:
    x, ctx = torch.randn(2, 3, WIDTH), context(2)
    plain = TokenRouter(WIDTH, 4, 2, renormalised=False)(x, ctx)
    assert torch.equal(plain.weights, plain.probabilities.topk(2).values)
    torch.testing.assert_close(TokenRouter(WIDTH, 4, 2)(x, ctx).weights.sum(-1), torch.ones(6))


def side_losses(mixture: MixtureOfExperts, x: Tensor, ctx: Context) -> dict[str, float]:
    mixture(x, ctx)
    return {name: float(values[-1].detach()) for name, values in ctx.losses.items()}


def test_balance_is_one_when_even_and_the_number_of_experts_when_all_go_to_one() -> None:
    mixture = MixtureOfExperts(WIDTH, 4, 1, router=partial(TokenRouter, bias=True))
    assert mixture.router.score.bias is not None
    nn.init.zeros_(mixture.router.score.weight)
    nn.init.zeros_(mixture.router.score.bias)
    x = torch.randn(2, 6, WIDTH)
    even = side_losses(mixture, x, context(2))
    assert even == pytest.approx({"balance": 1.0, "router_logits": math.log(4) ** 2})
    mixture.router.score.bias.data[2] = 30.0
    assert side_losses(mixture, x, context(2)) == pytest.approx({"balance": 4.0, "router_logits": 900.0})


def test_side_losses_by_their_formula_over_real_tokens() -> None:
    mixture = MixtureOfExperts(WIDTH, 4, 2, router=partial(TokenRouter, hidden=1.0))
    keys = torch.tensor([[True] * 5, [True, True, True, False, False]])
    x, ctx = torch.randn(2, 5, WIDTH), context(2, keys=keys)
    losses = side_losses(mixture, x, ctx)
    with torch.no_grad():
        routing = mixture.router(x, ctx)
    real = keys.flatten()
    share = torch.bincount(routing.experts[real].flatten(), minlength=4) / (8 * 2)
    mean = routing.probabilities[real].mean(0)
    assert losses["balance"] == pytest.approx(float(4 * (share * mean).sum()))
    assert losses["router_logits"] == pytest.approx(float(routing.logits[real].logsumexp(-1).square().mean()))
    moved = x.clone()
    moved[1, 3:] = 50.0
    assert side_losses(mixture, moved, replace(ctx, losses={})) == pytest.approx(losses)


def test_the_balance_objective_spreads_the_load() -> None:
    """A router that begins with all samples on one pair uses every expert after a while under the objective alone."""
    torch.manual_seed(0)
    mixture = MixtureOfExperts(WIDTH, 4, 2, router=NoiseRouter)
    assert mixture.router.score.bias is not None
    mixture.router.score.bias.data[0] = mixture.router.score.bias.data[1] = 4.0
    objective, optimizer = SideLoss("balance"), torch.optim.Adam(mixture.router.parameters(), 1e-2)
    empty: Any = {}
    history = []
    for _ in range(150):
        ctx = context(64, 1)
        mixture(torch.zeros(64, 1, WIDTH), ctx)
        loss = objective.loss(Denoising(empty, empty, empty, torch.zeros(1), Layout({}), ctx, {}))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(float(loss.detach()))
    assert history[0] > 1.5 and history[-1] < 1.1
    chosen = mixture.router(torch.zeros(512, 1, WIDTH), context(512, 1)).experts
    assert bool((torch.bincount(chosen.flatten(), minlength=4) > 0.05 * 1024).all())


def test_shared_experts_meet_every_token_and_active_parameters_are_counted() -> None:
    mixture = MixtureOfExperts(WIDTH, 4, 2, SwiGLU, shared=1)
    one = sum(parameter.numel() for parameter in mixture.experts[0].parameters())
    router = WIDTH * 4
    assert sum(parameter.numel() for parameter in mixture.parameters()) == 5 * one + router
    wrapped = nn.ModuleList([mixture, nn.Linear(2, 3)])
    assert count_active_parameters(wrapped) == 3 * one + router + 9
    assert count_active_parameters(wrapped, routers=False) == 3 * one + 9
    wrapped[1].requires_grad_(False)
    every, active = 5 * one + router + 9, 3 * one + router + 9
    told = f"{every:,} ({every - 9:,} trainable, {active:,} active for a token)"
    assert describe_parameters(wrapped) == told
    assert describe_parameters(nn.Linear(2, 3)) == "9"


def tokens_of(layers: dict[str, Any]) -> Any:
    """A DiT from YAML with this feed-forward."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Denoiser, "denoiser")
    path = "polydit.platform.denoisers"
    parts = {
        "embedding": {"class_path": f"{path}.TokenEmbedding", "init_args": {"fields": {"latent": 4}}},
        "head": {"class_path": f"{path}.TokenHead", "init_args": {"fields": {"latent": 4}}},
        "width": 64, "depth": 3, **layers,
    }
    text = yaml.safe_dump({"denoiser": {"class_path": f"{path}.DiT", "init_args": parts}})
    config = parser.parse_string(text)
    return parser.instantiate(parser.parse_string(parser.dump(config))).denoiser


def test_any_dit_gets_experts_by_yaml_alone() -> None:
    """The default DiT, as ADiT uses it, with experts in every second block and a router by noise level."""
    package = "polydit.platform.feedforwards"
    mixture = {
        "class_path": f"{package}.MixtureOfExperts",
        "init_args": {
            "experts": 3, "top_k": 2, "shared": 1,
            "expert": {"class_path": f"{package}.SwiGLU", "init_args": {"ratio": 2.0}},
            "router": {"class_path": f"{package}.NoiseRouter", "init_args": {"hidden": 0.5}},
        },
    }
    model = tokens_of({"feedforward": [{"class_path": f"{package}.MLP"}, mixture]})
    kinds = [type(block.feedforward) for block in model.blocks]
    assert kinds == [MLP, MixtureOfExperts, MLP]
    experts = model.blocks[1].feedforward
    assert isinstance(experts.router, NoiseRouter) and isinstance(experts.shared[0], SwiGLU)
    assert experts.router.expand.out_features == 32 and experts.top_k == 2
    x_t = {"latent": torch.randn(2, 5, 4)}
    context = model.context(Layout({"latent": (2, 5, 4)}))
    assert model(x_t, torch.tensor([0.2, 0.8]), Condition(), context)["latent"].shape == (2, 5, 4)
    assert set(context.losses) == {"balance", "router_logits"} and len(context.losses["balance"]) == 1


def test_adits_recipe_gets_experts_by_one_entry(root: Path) -> None:
    """The published recipe, smaller, with its feed-forward replaced; it trains a step with the balance objective."""
    recipe = yaml.safe_load((root / "examples" / "chemistry" / "adit.yaml").read_text())
    denoiser = recipe["model"]["system"]["init_args"]["denoiser"]
    package = "polydit.platform.feedforwards"
    denoiser["init_args"] |= {
        "width": 32, "depth": 2,
        "mixer": {"class_path": "polydit.platform.mixers.Attention", "init_args": {"heads": 2}},
        "feedforward": {"class_path": f"{package}.MixtureOfExperts", "init_args": {"router": f"{package}.TokenRouter"}},
    }
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Denoiser, "denoiser")
    model = parser.instantiate(parser.parse_string(yaml.safe_dump({"denoiser": denoiser}))).denoiser
    channels = next(iter(model.embedding.fields.values()))
    x_t, keys = {"latent": torch.randn(2, 5, channels)}, torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    layout = Layout({"latent": (2, 5, channels)}, {"latent": keys})
    ctx = model.context(layout)
    t = torch.tensor([0.2, 0.8])
    prediction = model(x_t, t, Condition(), ctx)
    balance = SideLoss("balance", 0.01)
    denoising = Denoising(prediction, x_t, x_t, t, layout, ctx, {})
    total = prediction["latent"].square().mean() + balance.weight * balance.loss(denoising)
    total.backward()
    assert len(ctx.losses["balance"]) == 2
    assert bool((model.blocks[0].feedforward.router.score.weight.grad != 0).any())


def test_compiled_without_the_whole_graph_equals_eager() -> None:
    """Sizes of what each expert gets are known only at run time, so a compiler breaks its graph there, and goes on."""
    model = DiT(
        partial(TokenEmbedding, fields={"latent": 4}), partial(TokenHead, fields={"latent": 4}), 64, 1,
        feedforward=partial(MixtureOfExperts, router=NoiseRouter),
    ).eval()
    nn.init.normal_(model.head.get_parameter("linear.weight"))
    x_t, t = {"latent": torch.randn(2, 5, 4)}, torch.tensor([0.2, 0.8])
    torch.compiler.reset()  # code that other tests compiled many times over is not compiled again
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        outputs = [run(x_t, t, Condition(), Context())["latent"] for run in (model, compiled)]
    torch.testing.assert_close(*outputs)


def test_wrong_numbers_are_named() -> None:
    with pytest.raises(ConfigurationError, match="top_k 5 of 4 experts"):
        MixtureOfExperts(WIDTH, 4, 5)
    with pytest.raises(ConfigurationError, match="a mixture of 1 experts"):
        MixtureOfExperts(WIDTH, 1, 1)
    with pytest.raises(ConfigurationError, match="this stack has none"):
        MixtureOfExperts(WIDTH, router=NoiseRouter)(torch.randn(1, 2, WIDTH), Context())
    with pytest.raises(ConfigurationError, match="3 tokens and the sequence 5"):
        MixtureOfExperts(WIDTH, router=NoiseRouter)(torch.randn(1, 5, WIDTH), Context(time=torch.randn(1, 3, WIDTH)))


@settings(max_examples=20)
@given(kind=st.sampled_from([MLP, SwiGLU]), bias=st.booleans(), count=st.integers(1, 4))
def test_fused_feedforwards_are_the_weighted_sum(kind: type[FeedForward], bias: bool, count: int) -> None:
    torch.manual_seed(count)
    parts: list[Any] = [kind(WIDTH, bias=bias, dropout=0.5) for _ in range(count)]  # type: ignore[call-arg]
    for parameter in nn.ModuleList(parts).parameters():
        nn.init.normal_(parameter)
    x, weights = torch.randn(2, 3, WIDTH), torch.rand(2, count).tolist()
    fused = kind.fuse(parts, weights[0])
    other = kind.fuse(parts, weights[1], twin=fused)
    assert fused is not None and other is not None
    for chosen, module in zip(weights, (fused, other), strict=True):
        expected = sum(weight * part.eval()(x, Context()) for weight, part in zip(chosen, parts, strict=True))
        torch.testing.assert_close(module(x, Context()), expected, atol=1e-4, rtol=1e-4)
        assert not any(parameter.requires_grad for parameter in module.parameters())
    assert fused.cost(3) == count * parts[0].cost(3)
    first = "expand.weight" if kind is MLP else "gate_value.weight"
    assert other.get_parameter(first) is fused.get_parameter(first)
