"""Switch-DiT's blocks and their prior."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from polydit.platform.context import Context
from polydit.platform.denoisers import DiT, DiTBlock, PatchEmbedding, PatchHead, SwitchBlock
from polydit.platform.denoisers.sizes import PUBLISHED_SIZES
from polydit.platform.mixers import Attention
from polydit.platform.objectives import Denoising, DiffusionPrior
from polydit.platform.objectives.diffusion_prior import divergence, make_prior, match_columns
from polydit.platform.processes import Process
from polydit.platform.state import Condition, Layout

DEPTH, EXPERTS = 4, 3


def build(block: Any = SwitchBlock, depth: int = DEPTH, width: int = 24, heads: int = 2, **options: Any) -> DiT:
    torch.manual_seed(0)
    return DiT(
        PatchEmbedding, partial(PatchHead, out_channels=8), width, depth, partial(Attention, heads=heads), block=block,
        **options,
    )


@pytest.mark.parametrize(
    ("size", "total"), [("S", 38_201_156), ("B", 151_604_804), ("L", 533_485_672), ("XL", 786_505_076)]
)
def test_published_sizes(size: str, total: int) -> None:
    depth, width, heads = PUBLISHED_SIZES[size]
    with torch.device("meta"):
        model = build(depth=depth, width=width, heads=heads)
    assert sum(parameter.numel() for parameter in model.parameters()) + 1001 * width == total


def images(batch: int = 2) -> Tensor:
    return torch.randn(batch, 4, 4, 4, generator=torch.Generator().manual_seed(1))


def open_gates(model: DiT) -> None:
    """Weights everywhere, so that no block is the identity."""
    generator = torch.Generator().manual_seed(2)
    for name, parameter in model.named_parameters():
        if ".mask." not in name:
            with torch.no_grad():
                parameter.normal_(std=0.2, generator=generator)


def test_starts_as_the_block_within() -> None:
    switched, plain = build(), build(DiTBlock)
    open_gates(switched)
    weights = {name: value for name, value in switched.state_dict().items() if ".mask." not in name}
    plain.load_state_dict({name.replace(".block.", "."): value for name, value in weights.items()})
    t = torch.tensor([0.1, 0.8])
    found, expected = (model({"image": images()}, t, Condition(), Context())["image"] for model in (switched, plain))
    assert torch.equal(found, expected) and bool((found != 0).any())
    for block in switched.blocks:
        for expert in block.mask.experts:  # type: ignore[union-attr]
            nn.init.normal_(expert.linear.weight, std=0.2)
    assert not torch.allclose(switched({"image": images()}, t, Condition(), Context())["image"], expected, atol=1e-3)


def test_output_is_the_masked_block_and_what_the_mask_left_out() -> None:
    model = build()
    open_gates(model)
    for parameter in model.parameters():
        parameter.data.add_(0.1)
    block: Any = model.blocks[1]
    seen: dict[str, Tensor] = {}

    class Watch:
        def call(self, name: str, function: Any, h: Tensor, ctx: Context) -> Tensor:
            seen[name] = function(h)
            return seen[name]

    x, time = torch.randn(2, 4, 24), torch.randn(2, 24)
    modulation = [torch.randn(2, 1, 24) for _ in range(6)]
    ctx = Context(time=time, module_policies=(Watch(),))
    found = block({"x": x}, modulation, ctx)["x"]
    probabilities = block.mask.router.score(nn.functional.silu(time)).softmax(-1)
    lowest = probabilities.argmin(-1)
    gates = probabilities.scatter(1, lowest[:, None], 0.0)
    outputs = torch.stack([expert.linear(x) for expert in block.mask.experts], dim=-1)
    mask = 1 + (outputs * gates[:, None, None]).sum(-1)
    inner = block.block({"x": x * mask}, modulation, Context(time=time))["x"]
    torch.testing.assert_close(found, inner + (1 - mask) * x, rtol=1e-4, atol=1e-4)
    assert "blocks.1.mask" in seen and "blocks.1.mixer" in seen


def test_a_label_never_changes_a_gate() -> None:
    model = build()
    open_gates(model)
    wanted = frozenset(f"blocks.{i}.gates" for i in range(DEPTH))
    taps = []
    for label in torch.randn(2, 2, 24):
        ctx = Context(wanted_taps=wanted)
        model({"image": images()}, torch.tensor([0.1, 0.8]), Condition({"class": label}), ctx)
        taps.append(ctx.taps)
    assert all(torch.equal(taps[0][name], taps[1][name]) for name in wanted)
    assert taps[0]["blocks.0.gates"].shape == (1000, EXPERTS)
    torch.testing.assert_close(taps[0]["blocks.3.gates"].sum(-1), torch.ones(1000))


# the prior


def test_the_prior_is_a_window_that_moves_late() -> None:
    prior = make_prior(1000, 36, 2 / 3)
    assert prior.sum(-1).unique().tolist() == [24.0]
    assert prior[0, :24].all() and prior[-1, 12:].all()
    shared = (prior[10] * prior).sum(-1)
    assert shared[50] == 24 and shared[950] < 16 and bool((shared.diff() <= 0).all())


def test_divergence_is_zero_at_the_prior_and_positive_elsewhere() -> None:
    prior = make_prior(100, 12, 2 / 3)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    gates = prior[:, order] / 2
    matched = prior[:, match_columns(gates, prior)]
    assert float(divergence(gates, matched).max()) < 1e-6
    uniform = torch.full_like(prior, 1 / 3)
    assert float(divergence(uniform, prior).min()) > 0.05
    assert float(divergence(torch.eye(2), torch.eye(2).flip(0))[0]) == pytest.approx(0.6931, abs=1e-4)


def learn(model: DiT, steps: int) -> list[float]:
    objective = DiffusionPrior(DEPTH)
    gates = [parameter for name, parameter in model.named_parameters() if ".router." in name]
    optimizer = torch.optim.Adam(gates, 0.02)
    generator, losses = torch.Generator().manual_seed(0), []
    for _ in range(steps):
        t = torch.rand(16, generator=generator)
        ctx = Context(wanted_taps=objective.wanted_taps)
        x = {"image": images(16)}
        prediction = model(x, t, Condition(), ctx)
        loss = objective.loss(
            Denoising(prediction, x, x, t, Layout({"image": (16, 4, 4, 4)}), ctx, {"image": object.__new__(Process)})
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def test_gates_learn_to_share_units_between_near_levels() -> None:
    model = build()
    for parameter in model.time.parameters():
        nn.init.normal_(parameter, std=0.1)
    losses = learn(model, 200)
    assert losses[-1] < 0.5 * losses[0]
    with torch.no_grad():
        levels = model.time(torch.tensor([0.010, 0.050, 0.950]))
        gates = torch.cat([block.mask.router.probabilities(levels) for block in model.blocks], dim=-1)  # type: ignore

    def common(a: int, b: int) -> float:
        chosen = [set(gates[row].topk(8).indices.tolist()) for row in (a, b)]
        return len(chosen[0] & chosen[1])

    assert common(0, 1) > common(0, 2)


def test_wrong_depth_is_refused() -> None:
    model = build()
    ctx = Context(wanted_taps=DiffusionPrior(DEPTH + 1).wanted_taps)
    x, t = {"image": images()}, torch.rand(2)
    denoising = Denoising(model(x, t, Condition(), ctx), x, x, t, Layout({"image": (2, 4, 4, 4)}), ctx, {})
    with pytest.raises(ValueError, match=r"no gates \['blocks.4.gates'\] were left"):
        DiffusionPrior(DEPTH + 1).loss(denoising)
    assert float(DiffusionPrior(DEPTH).loss(denoising).detach()) > 0
