"""Diffusion Policy's transformer: against PyTorch's decoder, its schedule against diffusers', masks, size."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import yaml
from diffusers import DDPMScheduler
from jsonargparse import ArgumentParser
from torch import Tensor, nn

from polydit.domains.robotics.diffusion_policy import (
    DiffusionPolicyTransformer,
    StepEmbedding,
    published_guidance,
    published_process,
    published_sampler,
    sized_diffusion_policy,
)
from polydit.platform.context import Context
from polydit.platform.denoisers import Denoiser
from polydit.platform.errors import ConfigurationError
from polydit.platform.samplers.guidance import Guided
from polydit.platform.state import Condition, MaskSpec, State, Tokens

WIDTH, HORIZON = 32, 6


def noisy(**options: Any) -> DiffusionPolicyTransformer:
    """Weights large enough that every part shows."""
    torch.manual_seed(0)
    given: dict[str, Any] = {"history": 3, "observations": ("state", "camera"), "horizon": HORIZON, **options}
    model = DiffusionPolicyTransformer(3, WIDTH, 2, 2, **given)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model.eval()


def condition(batch: int = 2, history: int = 3) -> Condition:
    generator = torch.Generator().manual_seed(1)

    def draw(count: int) -> Tokens:
        return Tokens(torch.randn(batch, count, WIDTH, generator=generator))

    return Condition(tokens={"instruction": draw(4), "state": draw(history), "camera": draw(2 * history)})


def run(model: DiffusionPolicyTransformer, cond: Condition, actions: Tensor | None = None, ctx: Any = None) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(2, HORIZON, 3, generator=generator) if actions is None else actions
    with torch.no_grad():
        return model({"action": x}, torch.tensor([0.2, 0.9]), cond, ctx or Context())["action"]


def change(cond: Condition, axis: str, index: int) -> Condition:
    features = cond.tokens[axis].features.clone()
    features[:, index] += 1.0
    return Condition(tokens={**cond.tokens, axis: Tokens(features)})


def torch_decoder(model: DiffusionPolicyTransformer) -> nn.TransformerDecoder:
    """PyTorch's decoder with the model's weights."""
    layer = nn.TransformerDecoderLayer(
        WIDTH, 2, 4 * WIDTH, 0.0, "gelu", batch_first=True, norm_first=True, layer_norm_eps=1e-5
    )
    decoder = nn.TransformerDecoder(layer, len(model.blocks))
    for block, target in zip(model.blocks, decoder.layers, strict=True):
        own, cross = block.mixer.inner, block.cross_attention.inner
        state = {
            "self_attn.in_proj_weight": own.qkv.weight, "self_attn.in_proj_bias": own.qkv.bias,
            "self_attn.out_proj.weight": own.output.weight, "self_attn.out_proj.bias": own.output.bias,
            "multihead_attn.in_proj_weight": torch.cat([cross.query.weight, cross.key_value.weight]),
            "multihead_attn.in_proj_bias": torch.cat([cross.query.bias, cross.key_value.bias]),
            "multihead_attn.out_proj.weight": cross.output.weight, "multihead_attn.out_proj.bias": cross.output.bias,
            "linear1.weight": block.feedforward.expand.weight, "linear1.bias": block.feedforward.expand.bias,
            "linear2.weight": block.feedforward.contract.weight, "linear2.bias": block.feedforward.contract.bias,
            **{f"norm1.{kind}": getattr(block.mixer_norm, kind) for kind in ("weight", "bias")},
            **{f"norm2.{kind}": getattr(block.cross_norm, kind) for kind in ("weight", "bias")},
            **{f"norm3.{kind}": getattr(block.feedforward_norm, kind) for kind in ("weight", "bias")},
        }
        target.load_state_dict(state)
    return decoder.eval()


@pytest.mark.parametrize("first_action", [0, 1, None])
def test_equals_pytorchs_decoder_under_the_published_masks(first_action: int | None) -> None:
    """Causal actions; an action of step j sees the noise level and observations up to step j."""
    model = noisy(goals=(), observations=("state",), first_action=first_action)
    cond, t = Condition(tokens={"state": condition().tokens["state"]}), torch.tensor([0.2, 0.9])
    x = torch.randn(2, HORIZON, 3)
    output = run(model, cond, x)
    index = torch.arange(HORIZON)
    step = torch.tensor([0, 0, 1, 2])  # of the noise level and the three observations
    hidden = step[None] > index[:, None] + (first_action if first_action is not None else 2)
    with torch.no_grad():
        level = t[:, None] * 99 * torch.exp(-torch.arange(16) * torch.tensor(1e4).log() / 15)
        tokens = torch.cat([torch.cat([level.sin(), level.cos()], -1)[:, None], cond.tokens["state"].features], dim=1)
        memory = model.encoder(tokens + model.places.weight)
        actions = model.embedding.linear(x) + model.embedding.position.table.weight
        mixed = torch_decoder(model)(
            actions, memory, tgt_mask=index[:, None] < index[None], memory_mask=hidden if hidden.any() else None
        )
        expected = model.head.linear(model.head.norm(mixed))
    torch.testing.assert_close(output, expected, atol=2e-5, rtol=1e-4)


def test_published_size() -> None:
    """Eight layers of width 256 for low-dimensional observations, 9 M; the observation's linear map is its axis's."""
    with torch.device("meta"):
        model = sized_diffusion_policy("DP-T", action_size=10)
    width = 256
    layer = 8 * width**2 + 8 * width + 8 * width**2 + 5 * width + 6 * width
    memory = 8 * width**2 + 5 * width + 3 * width
    actions = 10 * width + width + 10 * width + 2 * width + 10 * width + 10
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == 8 * layer + memory + actions
    assert round(count / 1e6) == 9
    with pytest.raises(ConfigurationError, match="no size 'DP'"):
        sized_diffusion_policy("DP", 2)


def test_process_and_sampler_are_those_of_diffusers() -> None:
    scheduler = DDPMScheduler(100, beta_schedule="squaredcos_cap_v2", variance_type="fixed_small", clip_sample=True)
    process, sampler, guidance = published_process(), published_sampler(), published_guidance()
    t = torch.arange(100, dtype=torch.float64) / 99
    torch.testing.assert_close(process.schedule.alpha(t) ** 2, scheduler.alphas_cumprod.double(), rtol=2e-5, atol=1e-9)
    torch.manual_seed(0)
    weight = torch.randn(4, 4) / 2
    noise = {"action": torch.randn(3, HORIZON, 4)}

    def predict(x: Tensor) -> Tensor:
        return torch.tanh(x @ weight)

    def denoise(x: State, t: Tensor) -> State:
        estimate = {"action": process.convert(predict(x["action"]), x["action"], t)}
        guided = Guided(lambda *arguments, **options: [estimate], Condition(), None, ())
        return guidance.estimate(x, t, guided)

    ours, theirs = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    sampled = sampler.sample(
        denoise, noise, {"action": process}, lambda: {"action": torch.randn(3, HORIZON, 4, generator=ours)}
    )["action"]
    x = noise["action"]
    scheduler.set_timesteps(100)
    for step in scheduler.timesteps:
        x = scheduler.step(predict(x), step, x, generator=theirs).prev_sample
    torch.testing.assert_close(sampled, x, atol=2e-3, rtol=1e-3)


def test_step_embedding_has_no_weights_and_tells_steps_apart() -> None:
    embedding = StepEmbedding(WIDTH)
    assert not list(embedding.parameters()) and embedding.cost() == 0
    assert float((embedding(torch.tensor([0.5])) - embedding(torch.tensor([0.51]))).abs().max()) > 0.1


def test_actions_are_causal() -> None:
    model, cond = noisy(), condition()
    x = torch.randn(2, HORIZON, 3)
    changed = x.clone()
    changed[:, 3] += 1.0
    before, after = run(model, cond, x), run(model, cond, changed)
    assert torch.equal(before[:, :3], after[:, :3]) and bool((before[:, 3:] != after[:, 3:]).all())


def test_early_actions_see_no_later_observation_and_all_see_the_goal() -> None:
    model, cond = noisy(first_action=0), condition()
    before = run(model, cond)
    changes = (("state", 2, 2), ("camera", 2, 1), ("camera", 5, 2), ("state", 0, 0), ("instruction", 3, 0))
    for axis, index, step in changes:
        after = run(model, change(cond, axis, index))
        torch.testing.assert_close(after[:, :step], before[:, :step], atol=1e-6, rtol=0)
        assert bool(((after - before)[:, step:].abs().amax(-1) > 1e-6).all()), (axis, index)


def test_by_default_every_action_sees_every_observation() -> None:
    model, cond = noisy(), condition()
    before, after = run(model, cond), run(model, change(cond, "state", 2))
    assert bool(((after - before).abs().amax(-1) > 1e-6).all())


@pytest.mark.parametrize("first_action", [None, 0])
def test_masked_words_and_padded_actions_change_nothing(first_action: int | None) -> None:
    model, cond = noisy(first_action=first_action), condition()
    words = torch.tensor([[True, True, False, False], [True] * 4])
    keys = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    outputs = []
    for garbage in (0.0, 50.0):
        features = cond.tokens["instruction"].features + garbage * ~words[..., None]
        masked = Condition(tokens={**cond.tokens, "instruction": Tokens(features, words)})
        actions = torch.where(keys[..., None], torch.ones(2, HORIZON, 3), garbage)
        outputs.append(run(model, masked, actions, Context(masks={"x": MaskSpec(keys=keys)})))
    assert float((outputs[0] - outputs[1]).abs().max()) < 1e-6


def test_what_is_missing_is_named() -> None:
    model, tokens = noisy(), condition().tokens
    with pytest.raises(ConfigurationError, match="has no tokens \\['camera'\\], only \\['instruction', 'state'\\]"):
        run(model, Condition(tokens={axis: tokens[axis] for axis in ("instruction", "state")}))
    with pytest.raises(ConfigurationError, match="2 tokens of 'state' do not divide among 3 observation steps"):
        run(model, condition(history=2))
    with pytest.raises(ConfigurationError, match="7 tokens exceed the 6 learnt positions"):
        run(model, condition(), torch.randn(2, 7, 3))
    with pytest.raises(ConfigurationError, match="width of 33"):
        DiffusionPolicyTransformer(3, 33)


def test_dropout_acts_in_training_only() -> None:
    model, cond = noisy(), condition()
    assert torch.equal(run(model, cond), run(model, cond))
    model.train()
    assert not torch.equal(run(model, cond), run(model, cond))


def test_keeps_both_modes_where_regression_would_average_them() -> None:
    """The same observation asks for -1 or +1 with equal probability: both are sampled, and next to nothing between."""
    torch.manual_seed(0)
    model = DiffusionPolicyTransformer(1, WIDTH, 2, 2, 4, 1, goals=(), dropout=0.0)
    process, generator = published_process(), torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3, betas=(0.9, 0.95))
    cond = Condition(tokens={"state": Tokens(torch.ones(128, 1, WIDTH))})
    for step in range(300):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1.0, step / 20) * (1 - step / 300)
        side = torch.randint(0, 2, (128, 1, 1), generator=generator) * 2.0 - 1
        clean, noise = 0.8 * side.expand(-1, 4, -1), torch.randn(128, 4, 1, generator=generator)
        t = process.sample_time(128, generator)
        output = model({"action": process.corrupt(clean, noise, t)}, t, cond, Context())["action"]
        optimizer.zero_grad()
        process.loss(output, clean, noise, t).backward()
        optimizer.step()
    model.eval()

    @torch.no_grad()
    def denoise(x: State, t: Tensor) -> State:
        level = t.float().expand(128)
        output = model(x, level, cond, Context())["action"]
        return {"action": process.convert(output, x["action"], level).clamp(-1, 1)}

    def draw() -> State:
        return {"action": torch.randn(128, 4, 1, generator=generator)}

    sampled = published_sampler().sample(denoise, draw(), {"action": process}, draw)["action"].mean(1)[:, 0]
    assert 0.35 < float((sampled > 0.5).float().mean()) < 0.65
    assert 0.35 < float((sampled < -0.5).float().mean()) < 0.65
    assert float((sampled.abs() < 0.3).float().mean()) < 0.05


def test_from_yaml() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Denoiser, "denoiser")
    text = yaml.safe_dump({"denoiser": {
        "class_path": "polydit.domains.robotics.diffusion_policy.DiffusionPolicyTransformer",
        "init_args": {"action_size": 4, "width": 128, "depth": 4, "heads": 4, "horizon": 16, "history": 2},
    }})
    config = parser.parse_string(text)
    model = parser.instantiate(parser.parse_string(parser.dump(config))).denoiser
    assert isinstance(model, DiffusionPolicyTransformer) and len(model.blocks) == 4
