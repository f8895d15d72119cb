"""Fused experts: the same output, without routers and unused experts, at every batch size and after every change."""

from __future__ import annotations

import copy
import warnings
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from polydit.platform.acceleration import ExpertFusion, InferencePrecision, fuse_experts, sampling_levels
from polydit.platform.acceleration.experts import ChosenExperts
from polydit.platform.context import Context
from polydit.platform.denoisers import DiT, TokenEmbedding, TokenHead
from polydit.platform.errors import ConfigurationError
from polydit.platform.feedforwards import MLP, FeedForward, MixtureOfExperts, NoiseRouter, SwiGLU, TokenRouter
from polydit.platform.mixers import Attention, WrittenAttention
from polydit.platform.module import GenerativeModule
from polydit.platform.requests import expand_requests
from polydit.platform.samplers import Euler, Heun
from polydit.platform.samplers.guidance import ClassifierFreeGuidance
from polydit.platform.state import Condition
from polydit.platform.systems.diffusion import DiffusionSystem
from tests.core.systems.test_diffusion import make_system

LEVELS = [1.0, 0.8, 0.5, 0.3, 0.1]


def make_denoiser(fields: Any = None, channels: Any = None, **options: Any) -> DiT:
    """Two blocks whose routers change their minds over the levels."""
    torch.manual_seed(0)
    fields = fields or {"a": 3}
    experts: dict[str, Any] = {"expert": partial(SwiGLU, dropout=0.3), "router": NoiseRouter, **options}
    model = DiT(
        partial(TokenEmbedding, fields=fields, channels=channels), partial(TokenHead, fields=fields), 32, 2,
        partial(Attention, heads=2), partial(MixtureOfExperts, **experts),
    )
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.15)
    return model.eval()


@torch.no_grad()
def run(model: nn.Module, batch: int, level: float, expanded: bool = True) -> Tensor:
    generator = torch.Generator().manual_seed(batch)
    t = torch.tensor(level).expand(batch) if expanded else torch.full((batch,), level)
    return model({"a": torch.randn(batch, 4, 3, generator=generator)}, t, Condition(), Context())["a"]


class CubedExpert(MLP):
    """An expert of another kind, which says that it cannot be fused."""

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        return super().forward(x, ctx) ** 3

    @classmethod
    def fuse(cls, *parts: Any, **options: Any) -> FeedForward | None:
        return None


@pytest.mark.parametrize(
    "options", [{}, {"expert": MLP, "shared": 1}, {"expert": CubedExpert}, {"top_k": 1}, {"experts": 3, "top_k": 3}],
    ids=["swiglu", "mlp and shared", "not fusable", "top 1", "all"],
)
def test_equals_the_unfused_output_at_every_batch_size(options: dict[str, Any]) -> None:
    model = make_denoiser(**options)
    with fuse_experts(model, LEVELS) as fused:
        for batch in (1, 2, 64):
            for level in LEVELS:
                output = run(model, batch, level, expanded=batch == 2)
                handle, hits = fused._handle, fused.hits
                model._forward_pre_hooks.pop(handle.id)
                expected = run(model, batch, level)
                model._forward_pre_hooks[handle.id] = fused._attach
                assert float((output - expected).abs().max() / expected.abs().max()) < 1e-6
                assert fused.hits == hits
        assert fused.hits == 3 * len(LEVELS) and fused.misses == 0


def test_a_compiled_denoiser_runs_fused_too() -> None:
    """In the order of a run: `Compilation` sets in before `ExpertFusion` does."""
    torch.compiler.reset()
    model = make_denoiser()
    expected = [run(model, 2, level) for level in LEVELS]
    model.compile(backend="eager", dynamic=True)
    run(model, 2, LEVELS[0])
    with fuse_experts(model, LEVELS) as fused:
        found = [run(model, 2, level) for level in LEVELS]
        assert fused.hits == len(LEVELS)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(run(model, 2, LEVELS[0]), expected[0])


def test_different_levels_choose_different_experts() -> None:
    """Else the test above would prove little."""
    model = make_denoiser()
    pairs = set()
    for level in LEVELS:
        ctx = Context(time=model.time(torch.tensor([level])))
        routing = model.blocks[0].feedforward.router(torch.zeros(1, 1, 32), ctx)
        pairs.add(tuple(sorted(routing.experts[0].tolist())))
    assert len(pairs) > 1


def test_neither_routers_nor_experts_run_and_the_counted_operations_say_so() -> None:
    model = make_denoiser()
    mixtures = [block.feedforward for block in model.blocks]
    ran: list[nn.Module] = []
    for mixture in mixtures:
        for part in (mixture, mixture.router, *mixture.experts):
            part.register_forward_hook(lambda module, *_: ran.append(module))

    def count() -> int:
        ctx = Context(attention=WrittenAttention())
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model({"a": torch.randn(6, 4, 3)}, torch.tensor(0.5).expand(6), Condition(), ctx)
        return counter.get_total_flops()

    assert count() == 6 * model.cost(4)
    ran.clear()
    routers = sum(mixture.router.cost(4) for mixture in mixtures)
    with fuse_experts(model, LEVELS):
        ran.clear()  # making them asked the routers
        assert count() == 6 * (model.cost(4) - routers)
        assert not ran
    everything = sum(mixture.experts[0].cost(4) * len(mixture.experts) for mixture in mixtures)
    assert everything > 2 * routers  # the cost above holds neither


def step(model: nn.Module, fused: bool) -> None:
    """Fused optimizers leave the version of a tensor as it was."""
    optimizer = torch.optim.AdamW(model.parameters(), 0.1, fused=fused)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()


def load(model: nn.Module, assign: bool) -> None:
    state = {name: 1.5 * value for name, value in model.state_dict().items()}
    model.load_state_dict(state, assign=assign)


def swap_data(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.data = 0.5 * parameter.data


@pytest.mark.parametrize(
    "change",
    [partial(step, fused=True), partial(step, fused=False), partial(load, assign=False), partial(load, assign=True),
     swap_data, nn.Module.double],
    ids=["fused optimizer", "optimizer", "loaded", "assigned", "data swapped", "cast"],
)
def test_new_weights_are_noticed(change: Any) -> None:
    model = make_denoiser()
    with fuse_experts(model, LEVELS):
        before = run(model, 3, 0.5)
        change(model)
        after = run(model, 3, 0.5)
        copied = run(copy.deepcopy(model), 3, 0.5)
    plain = run(model, 3, 0.5)
    assert float((after - plain).abs().max() / plain.abs().max()) < 1e-6 and torch.equal(after, copied)
    assert change is nn.Module.double or not torch.allclose(before, after)


def test_taking_them_off_leaves_the_denoiser_as_it_was() -> None:
    model = make_denoiser()
    names, expected = list(model.state_dict()), run(model, 3, 0.5)
    fused = fuse_experts(model, LEVELS)
    assert list(model.state_dict()) == names and len(list(model.parameters())) == len(names)
    fused.remove()
    assert torch.equal(run(model, 3, 0.5), expected) and not model._forward_pre_hooks


def test_other_levels_run_unfused_and_say_so_once() -> None:
    model = make_denoiser()
    odd = run(model, 3, 0.4)
    mixed_levels = torch.tensor([1.0, 0.5])
    x, ctx = {"a": torch.randn(2, 4, 3)}, Context()
    with torch.no_grad():
        mixed = model(x, mixed_levels, Condition(), ctx)["a"]
    with fuse_experts(model, LEVELS) as fused:
        with pytest.warns(UserWarning, match="noise level 0.4.* came where experts are fused for 5 levels, 1.0 to 0.1"):
            assert torch.equal(run(model, 3, 0.4), odd)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("error")
            assert torch.equal(model(x, mixed_levels, Condition(), ctx)["a"], mixed)
        assert (fused.hits, fused.misses) == (0, 2)


def test_training_never_meets_them() -> None:
    model = make_denoiser().train()
    ctx = Context()
    with fuse_experts(model, LEVELS) as fused:
        assert all(block.feedforward.router.training for block in model.blocks)
        model({"a": torch.randn(2, 4, 3)}, torch.full((2,), 0.5), Condition(), ctx)["a"].sum().backward()
    assert fused.hits == fused.misses == 0 and len(ctx.losses["balance"]) == 2
    assert model.blocks[0].feedforward.router.score.weight.grad is not None


def test_gradient_by_the_input_passes_through_also_when_fused_in_inference_mode() -> None:
    model = make_denoiser()
    x = {"a": torch.randn(2, 4, 3, requires_grad=True)}

    def gradient() -> Tensor:
        return torch.autograd.grad(model(x, torch.full((2,), 0.5), Condition(), Context())["a"].sum(), x["a"])[0]

    expected = gradient()
    with torch.inference_mode():
        fused = fuse_experts(model, LEVELS)
    torch.testing.assert_close(gradient(), expected)
    assert fused.hits == 1


def test_what_depends_on_no_weight_is_kept_once() -> None:
    model = make_denoiser()
    with fuse_experts(model, LEVELS) as fused:
        parts: list[Any] = [part for policy in fused._policies.values() for part in policy.fused.values()]
        first = {part.gate_value.weight.data_ptr() for part in parts}
        last = {part.contract.weight.data_ptr() for part in parts}
    assert len(last) == 2 * len(LEVELS) > len(first) >= 2


def expert_system(**options: Any) -> DiffusionSystem:
    """Two fields, guidance and self-conditioning, with experts in the denoiser."""
    system = make_system(guidance=ClassifierFreeGuidance({"label": 2.0}), **options)
    system.denoiser = make_denoiser({"a": 2, "b": 1}, {"self_condition": 3})
    return system.eval()


@pytest.mark.parametrize("sampler", [Euler(5), Heun(5)], ids=["euler", "heun"])
def test_sampling_runs_fused_throughout(sampler: Any) -> None:
    system = expert_system(sampler=sampler)
    requests = expand_requests([{"count": 6, "points": 4, "label": 1}, {"count": 1, "points": 2, "label": 2}], 0)
    expected = [entry.item for entry in system.generate(requests)]
    with fuse_experts(system.denoiser, sampling_levels(system)) as fused:
        items = [entry.item for entry in system.generate(requests)]
    assert fused.misses == 0 and fused.hits in (5, 9)
    for item, other in zip(items, expected, strict=True):
        torch.testing.assert_close(item, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("stage", ["predict", "test"])
def test_the_callback_fuses_while_a_stage_runs(stage: str) -> None:
    system = expert_system(sampler=Euler(3))
    module: Any = GenerativeModule(system)
    callback = ExpertFusion()
    getattr(callback, f"on_{stage}_start")(None, module)
    fused = callback.fused
    assert fused is not None
    requests = expand_requests([{"count": 2, "points": 3, "label": 1}], 0)
    system.generate(requests)
    getattr(InferencePrecision("bf16"), f"on_{stage}_start")(None, module)
    assert bool(system.generate(requests)[0].item.isfinite().all())
    assert fused.hits == 6 and next(iter(fused._policies.values())).fused
    part: Any = next(iter(next(iter(fused._policies.values())).fused.values()))
    assert part.contract.weight.dtype == torch.bfloat16
    getattr(callback, f"on_{stage}_end")(None, module)
    assert not system.denoiser._forward_pre_hooks and callback.fused is None


def test_a_denoiser_without_such_experts_is_refused() -> None:
    for feedforward in (MLP, partial(MixtureOfExperts, router=TokenRouter)):
        model = DiT(
            partial(TokenEmbedding, fields={"a": 3}), partial(TokenHead, fields={"a": 3}), 32, 1,
            partial(Attention, heads=2), feedforward,
        )
        with pytest.raises(ConfigurationError, match="has no experts that the noise level alone chooses"):
            fuse_experts(model, LEVELS)


def test_experts_that_cannot_be_fused_run_alone() -> None:
    parts = [CubedExpert(8) for _ in range(2)]
    both, x = ChosenExperts(parts, [0.25, 0.75]), torch.randn(1, 2, 8)
    expected = 0.25 * parts[0](x, Context()) + 0.75 * parts[1](x, Context())
    torch.testing.assert_close(both(x, Context()), expected)
    assert both.cost(2) == 2 * parts[0].cost(2)
