"""MoDE: formulas written out, published counts, and what its routers, its mask and its fused experts must do."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import yaml
from jsonargparse import ArgumentParser
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from polydit.domains.robotics.mode import (
    SIZES,
    MoDE,
    NoiseConditionedBlock,
    NoiseLevelEmbedding,
    published_process,
    published_sampler,
    published_schedule,
    sized_mode,
)
from polydit.platform.acceleration import fuse_experts
from polydit.platform.context import Context
from polydit.platform.denoisers import Denoiser
from polydit.platform.errors import ConfigurationError
from polydit.platform.feedforwards import MixtureOfExperts, Routing, SwiGLU, count_active_parameters
from polydit.platform.mixers import WrittenAttention
from polydit.platform.objectives import Denoising, SideLoss
from polydit.platform.processes import LogLogisticSigma
from polydit.platform.state import Condition, Layout, MaskSpec, Tokens

WIDTH = 32
PROCESS = {"action": published_process()}


def tiny(seed: int = 0, **options: Any) -> MoDE:
    torch.manual_seed(seed)
    given: dict[str, Any] = {"horizon": 6, "observations": ("state", "camera"), **options}
    return MoDE(3, WIDTH, 2, 2, **given)


def noisy(**options: Any) -> MoDE:
    """A MoDE without zeros, so that nothing hides behind a weight that starts at zero."""
    model = tiny(**options)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model.eval()


def condition(batch: int = 2, history: int = 1, seed: int = 0) -> Condition:
    generator = torch.Generator().manual_seed(seed)

    def draw(count: int) -> Tensor:
        return torch.randn(batch, count, WIDTH, generator=generator)

    return Condition(
        tokens={"instruction": Tokens(draw(3)), "state": Tokens(draw(history)), "camera": Tokens(draw(2 * history))}
    )


def run(model: MoDE, actions: Tensor, t: Tensor, cond: Condition | None = None) -> Tensor:
    with torch.no_grad():
        return model({"action": actions}, t, cond or condition(len(actions)), Context())["action"]


def record_routing(model: nn.Module) -> list[Routing]:
    """Filled by every pass with the decisions of every layer."""
    decisions: list[Routing] = []
    for module in model.modules():
        if isinstance(module, MixtureOfExperts):
            module.router.register_forward_hook(lambda _, inputs, routing: decisions.append(routing))
    return decisions


# ------------------------------------------------------------------------------------------------ published numbers


@pytest.mark.parametrize(
    ("name", "total", "active", "fused"), [("MoDE", 453, 252, 235), ("MoDE-12", 680, 378, 353)]
)
def test_published_parameter_counts(name: str, total: int, active: int, fused: int) -> None:
    """Of the blocks, in millions; ours have a bias on the attention's output too, 1,024 parameters a layer."""
    with torch.device("meta"):
        model = sized_mode(name)
    blocks = model.blocks
    assert round(sum(parameter.numel() for parameter in blocks.parameters()) / 1e6) == total
    assert round(count_active_parameters(blocks) / 1e6) == active
    assert round(count_active_parameters(blocks, routers=False) / 1e6) == fused
    attention = 4 * 1024**2 + 3 * 1024 + 2 * 128
    experts = 4 * (1024 * 8192 + 8192 + 4096 * 1024)
    router = 1024 * 2048 + 2048 + 2048 * 4 + 4
    published = SIZES[name][0] * (attention + experts + router + 2 * 1024)
    assert sum(parameter.numel() for parameter in blocks.parameters()) == published + SIZES[name][0] * 1024
    share = count_active_parameters(blocks) / sum(parameter.numel() for parameter in blocks.parameters())
    assert share == pytest.approx(0.56, abs=0.005)
    assert count_active_parameters(blocks, routers=False) / sum(
        parameter.numel() for parameter in blocks.parameters()
    ) == pytest.approx(0.52, abs=0.005)


def test_sequence_and_positions_are_the_published_ones() -> None:
    """Noise, goal, two views, ten actions; eleven places: the goal's, the views' and first action's, nine actions'."""
    with torch.device("meta"):
        model = sized_mode("MoDE")
    assert model.embedding.position.table.weight.shape == (11, 1024)
    assert model.in_context == ("time", "instruction", "static", "gripper")
    with pytest.raises(ConfigurationError, match="no size 'MoDE-2'"):
        sized_mode("MoDE-2")


# ---------------------------------------------------------------------------------------------------- the process


def test_preconditioning_is_edm_with_half_a_standard_deviation() -> None:
    process, data = published_process(), 0.5
    t = torch.linspace(0, 1, 9, dtype=torch.float64)
    sigma = process.schedule.sigma(t)
    assert float(sigma[0]) == pytest.approx(0.001) and float(sigma[-1]) == pytest.approx(80.0)
    skip, out = data**2 / (sigma**2 + data**2), sigma * data / (sigma**2 + data**2).sqrt()
    clean, noise, output = torch.randn(3, 9, 4, 2, dtype=torch.float64)
    noised = process.corrupt(clean, noise, t)
    torch.testing.assert_close(noised, clean + sigma[:, None, None] * noise)
    torch.testing.assert_close(process.input_scale(t), 1 / (sigma**2 + data**2).sqrt())
    estimate = process.convert(output, noised, t)
    torch.testing.assert_close(estimate, skip[:, None, None] * noised + out[:, None, None] * output)
    error = output - (clean - skip[:, None, None] * noised) / out[:, None, None]
    torch.testing.assert_close(process.loss(output, clean, noise, t), error.square().mean())
    assert isinstance(process.time_sampling, LogLogisticSigma)
    assert (process.time_sampling.location, process.time_sampling.scale) == (math.log(0.5), 0.5)


def test_sampler_is_ddim_over_the_exponential_grid() -> None:
    sampler = published_sampler()
    times = sampler.times(PROCESS)
    sigma = published_schedule().sigma(times)
    torch.testing.assert_close(sigma, torch.logspace(math.log10(80), -3, 10, dtype=torch.float64))
    centre = torch.tensor([0.3, -0.2], dtype=torch.float64)

    def denoise(x: Any, t: Tensor) -> Any:
        level = published_schedule().sigma(t)
        return {"action": centre + (x["action"] - centre) / (1 + level**2)}

    noise = torch.randn(5, 4, 2, dtype=torch.float64)
    sampled = sampler.sample(denoise, {"action": noise}, PROCESS)["action"]
    x = noise * 80.0
    for now, after in zip(sigma, [*sigma[1:], torch.tensor(0.0)], strict=True):
        estimate = centre + (x - centre) / (1 + now**2)
        if after == 0:
            x = estimate
        else:
            h = now.log() - after.log()
            x = after / now * x - torch.expm1(-h) * estimate
    torch.testing.assert_close(sampled, x, atol=1e-6, rtol=1e-5)


def test_noise_embedding_reads_a_quarter_of_the_log_level() -> None:
    embedding = NoiseLevelEmbedding(8)
    t = torch.tensor([0.0, 0.3, 1.0])
    label = published_schedule().sigma(t).log()[:, None] / 4
    torch.testing.assert_close(embedding(t), embedding.contract(embedding.expand(label)))
    assert embedding.contract.bias is None and embedding.expand.bias is not None


# ------------------------------------------------------------------------------------------------------- the block


def test_block_by_its_formula() -> None:
    model = noisy()
    block: Any = model.blocks[0]
    assert isinstance(block, NoiseConditionedBlock)
    x, time = torch.randn(2, 5, WIDTH), torch.randn(2, WIDTH)
    ctx = Context(time=time)
    attended = x + block.mixer(block.mixer_norm(x) + time[:, None], ctx)
    normed = block.feedforward_norm(attended)
    expected = normed + block.feedforward(normed, ctx)
    torch.testing.assert_close(block({"x": x}, (), ctx)["x"], expected)
    assert float((normed - attended).detach().abs().max()) > 0.1, "a pre-norm block would go on from the stream itself"


def test_each_token_sees_only_what_comes_before_it() -> None:
    """Actions see no later ones; what comes before them sees no action."""
    model, t = noisy(), torch.tensor([0.3, 0.6])
    actions = torch.randn(2, 6, 3)
    changed = actions.clone()
    changed[:, 4] += 1.0
    before, after = run(model, actions, t), run(model, changed, t)
    assert torch.equal(before[:, :4], after[:, :4])
    assert bool(((before - after)[:, 4:].abs() > 1e-4).any())
    stack = RecordStack()
    for values in (actions, changed):
        model({"action": values}, t, condition(), Context(stack_policies=(stack,)))
    assert torch.equal(stack.seen[0][:, :-6], stack.seen[1][:, :-6])


class RecordStack:
    """Keeps what the stack gives."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def run(self, h: Any, blocks: Any, proceed: Any, ctx: Context) -> Any:
        h = proceed(h, blocks)
        self.seen.append(h["x"].detach())
        return h


def test_views_and_first_action_share_a_place() -> None:
    model = noisy(history=2)
    table = model.embedding.position.table.weight
    assert table.shape[0] == 2 + 6
    placed, plain = model._place(condition(history=2)), condition(history=2)
    added = {axis: placed.tokens[axis].features - plain.tokens[axis].features for axis in plain.tokens}
    for axis, rows in {"instruction": [0, 0, 0], "state": [1, 2], "camera": [1, 1, 2, 2]}.items():
        torch.testing.assert_close(added[axis][0], table[rows])
    x_t = {"action": torch.zeros(1, 6, 3)}
    ctx = Context(positions=model.embedding.positions(x_t, Context()))
    torch.testing.assert_close(model.embedding(x_t, Condition(), ctx)["x"][0], table[2:8])


def test_wrong_shapes_are_named() -> None:
    t = torch.tensor([0.3, 0.6])
    with pytest.raises(ConfigurationError, match="7 actions exceeds the horizon of 6"):
        run(tiny(), torch.randn(2, 7, 3), t)
    with pytest.raises(ConfigurationError, match="1 tokens of 'state' do not divide among 2 observation steps"):
        run(tiny(history=2), torch.randn(2, 6, 3), t)
    with pytest.raises(ConfigurationError, match="in-context 'camera' is neither"):
        run(tiny(), torch.randn(2, 6, 3), t, Condition(tokens={"instruction": Tokens(torch.randn(2, 1, WIDTH)),
                                                               "state": Tokens(torch.randn(2, 1, WIDTH))}))


def test_masked_words_and_padded_actions_change_nothing() -> None:
    model, t = noisy(), torch.tensor([0.3, 0.6])
    cond, actions = condition(), torch.randn(2, 6, 3)
    words = torch.tensor([[True, True, False], [True, False, False]])
    outputs = []
    for garbage in (0.0, 50.0):
        features = cond.tokens["instruction"].features + garbage * ~words[..., None]
        masked = Condition(tokens={**cond.tokens, "instruction": Tokens(features, words)})
        keys = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
        padded = torch.where(keys[..., None], actions, garbage)
        ctx = Context(masks={"x": MaskSpec(keys=keys)})
        with torch.no_grad():
            outputs.append(model({"action": padded}, t, masked, ctx)["action"])
    assert float((outputs[0] - outputs[1]).abs().max()) < 1e-6


# ------------------------------------------------------------------------------------------------- proofs it works


def test_routing_ignores_content_and_follows_the_noise() -> None:
    model = tiny().eval()
    decisions = record_routing(model)
    times = published_sampler().times(PROCESS).float()
    pairs: list[set[tuple[int, ...]]] = [set(), set()]
    for t in times:
        for seed in (0, 1):
            torch.manual_seed(seed)
            run(model, 9 * torch.randn(2, 6, 3), t.expand(2), condition(seed=seed))
        first, second = decisions[:2], decisions[2:]
        for one, other in zip(first, second, strict=True):
            assert torch.equal(one.experts, other.experts) and torch.equal(one.weights, other.weights)
        for seen, routing in zip(pairs, first, strict=True):
            seen.add(tuple(sorted(routing.experts[0].tolist())))
        decisions.clear()
    assert max(map(len, pairs)) > 1


@pytest.mark.parametrize("batch", [1, 4, 32, 64])
def test_fused_experts_sample_the_same_actions(batch: int) -> None:
    """A whole chunk, ten steps, and every single prediction within 1e-6."""
    model = tiny()
    nn.init.normal_(model.head.linear.weight, std=0.1)
    model.eval()
    cond, noise = condition(batch), {"action": torch.randn(batch, 6, 3)}
    process, worst = published_process(), 0.0
    plain = copy.deepcopy(model)
    with fuse_experts(model, published_sampler().times(PROCESS)) as fused, torch.no_grad():

        def denoise(x: Any, t: Tensor) -> Any:
            nonlocal worst
            level = t.float().expand(batch)
            scaled = {"action": x["action"] * process.input_scale(t)}
            output, expected = (one(scaled, level, cond, Context())["action"] for one in (model, plain))
            worst = max(worst, float((output - expected).abs().max()))
            return {"action": process.convert(output, x["action"], level)}

        sampled = published_sampler().sample(denoise, noise, PROCESS)["action"]
        assert fused.hits == 10 and fused.misses == 0
    assert worst < 1e-6 and bool(sampled.isfinite().all())


def test_fused_cost_is_that_of_attention_and_the_chosen_experts() -> None:
    model = tiny().eval()
    dense = tiny(feedforward=lambda width: SwiGLU(width, ratio=8.0)).eval()
    t = published_sampler().times(PROCESS)[4].float().expand(2)

    def count(denoiser: MoDE) -> int:
        ctx = Context(attention=WrittenAttention())
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            denoiser({"action": torch.randn(2, 6, 3)}, t, condition(), ctx)
        return counter.get_total_flops()

    with fuse_experts(model, published_sampler().times(PROCESS)):
        # two experts of ratio 4 side by side are one of ratio 8, to the last operation
        assert count(model) == count(dense) == 2 * dense.cost(6, 7)
    assert count(model) == 2 * model.cost(6, 7) > count(dense)


def batches(seed: int) -> Iterator[tuple[Tensor, Condition]]:
    """Actions that turn left or right as the state says, and by how much as the instruction says."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(2, WIDTH, generator=torch.Generator().manual_seed(9))
    ramp = torch.linspace(0.2, 1.0, 6)[None, :, None]
    while True:
        side = torch.randint(0, 2, (64, 1, 1), generator=generator) * 2.0 - 1
        size = torch.randint(1, 3, (64, 1, 1), generator=generator) / 2.0
        actions = (side * size * ramp).expand(-1, -1, 3)
        yield actions, Condition(
            tokens={"instruction": Tokens(size * directions[0]), "state": Tokens(side * directions[1])}
        )


@pytest.fixture(scope="module")
def trained() -> MoDE:
    """A tiny MoDE after 250 steps with the load-balance objective."""
    model = tiny(observations=("state",)).train()
    process, balance = published_process(), SideLoss("balance", 0.02)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3, betas=(0.9, 0.95))
    generator, empty = torch.Generator().manual_seed(0), {}
    for step, (actions, cond) in zip(range(250), batches(0), strict=False):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1.0, step / 20) * (1 - step / 250)
        t = process.sample_time(64, generator)
        noise, ctx = torch.randn(actions.shape, generator=generator), Context()
        x_t = process.corrupt(actions, noise, t)
        scaled = {"action": x_t * process.input_scale(t)[:, None, None]}
        loss = process.loss(model(scaled, t, cond, ctx)["action"], actions, noise, t)
        total = loss + balance.weight * balance.loss(Denoising({}, {}, {}, t, Layout(empty), ctx, {}))
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    return model.eval()


def test_it_learns_what_to_do_from_state_and_instruction(trained: MoDE) -> None:
    actions, cond = next(batches(1))
    process = published_process()

    @torch.no_grad()
    def denoise(x: Any, t: Tensor) -> Any:
        level = t.float().expand(64)
        output = trained({"action": x["action"] * process.input_scale(t)}, level, cond, Context())["action"]
        return {"action": process.convert(output, x["action"], level)}

    with fuse_experts(trained, published_sampler().times(PROCESS)):
        sampled = published_sampler().sample(denoise, {"action": torch.randn(64, 6, 3)}, PROCESS)["action"]
    assert float((sampled - actions).abs().mean()) < 0.1
    assert float(actions.abs().mean()) > 0.4


def test_every_expert_carries_some_of_the_load(trained: MoDE) -> None:
    """Over the noise levels of training, more than a twentieth in every layer, though evaluation takes the likeliest.

    Without the objective, the least loaded expert of such models had 0 to 3 percent.
    """
    decisions = record_routing(trained)
    t = published_process().sample_time(512, torch.Generator().manual_seed(0))
    told = {name: Tokens(torch.randn(512, 1, WIDTH)) for name in ("instruction", "state")}
    run(trained, torch.randn(512, 6, 3), t, Condition(tokens=told))
    assert len(decisions) == 2
    for routing in decisions:
        share = torch.bincount(routing.experts.flatten(), minlength=4) / routing.experts.numel()
        assert float(share.min()) > 0.05, share


def test_from_yaml() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Denoiser, "denoiser")
    text = yaml.safe_dump({"denoiser": {
        "class_path": "polydit.domains.robotics.mode.MoDE",
        "init_args": {
            "action_size": 4, "width": 128, "depth": 4, "heads": 4, "horizon": 16, "observations": ["state"],
            "schedule": {"class_path": "polydit.platform.processes.EDMSchedule", "init_args": {"sigma_min": 0.001}},
        },
    }})
    config = parser.parse_string(text)
    model = parser.instantiate(parser.parse_string(parser.dump(config))).denoiser
    assert isinstance(model, MoDE) and model.time.schedule.sigma_min == 0.001
    assert len(model.blocks) == 4 and model.blocks[0].feedforward.experts[0].contract.in_features == 512
