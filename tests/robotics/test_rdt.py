"""RDT: published sizes, what reads what, the unified slots, and two answers to one question."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from polydit.data.robotics.batch import TrajectoryBatch
from polydit.domains.robotics.channels import ChannelAxis
from polydit.domains.robotics.rdt import RDT, SIZES, published_conditioner, sized_rdt
from polydit.domains.robotics.rdt_axes import EncodedTokensAxis, FrequencyAxis
from polydit.domains.robotics.rdt_codec import UnifiedActionCodec
from polydit.domains.robotics.unified_action import SLOTS, SlotMap
from polydit.platform.conditioning import Conditioner
from polydit.platform.context import Context
from polydit.platform.errors import ConfigurationError, DataError
from polydit.platform.module import count_parameters
from polydit.platform.processes import DDPMSchedule, Process, UniformTime, X0Prediction
from polydit.platform.requests import expand_requests
from polydit.platform.samplers import DPMSolverPP2M, ListedGrid
from polydit.platform.state import Condition, Layout, State, Tokens
from polydit.platform.systems.diffusion import DiffusionSystem

WIDTH, WIDE, HORIZON = 32, 168, 4


def randomised(**options: Any) -> RDT:
    """A tiny RDT whose weights are nowhere zero."""
    torch.manual_seed(0)
    model = RDT(**{"width": WIDTH, "depth": 2, "heads": 2, "horizon": HORIZON, **options})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def make_condition(seed: int = 1, batch: int = 2) -> Condition:
    draw = partial(torch.randn, generator=torch.Generator().manual_seed(seed))
    words = torch.tensor([[True, True, False], [True, False, False]])[:batch]
    valid = SlotMap(["right_arm_joint_position", "right_gripper_joint_position_0"]).validity().float()
    state = torch.cat([draw(batch, 1, SLOTS) * valid, valid.expand(batch, 1, SLOTS)], dim=-1)
    return Condition(
        {"frequency": draw(batch, WIDTH)},
        {"instruction": Tokens(draw(batch, 3, WIDTH), words), "images": Tokens(draw(batch, 6, WIDTH))},
        {"state": state, "action_validity": valid.expand(batch, 1, SLOTS)},
    )


def predict(model: RDT, condition: Condition, level: float = 0.5, ctx: Context | None = None) -> Tensor:
    x = torch.randn(2, HORIZON, SLOTS, generator=torch.Generator().manual_seed(0))
    return model({"action": x}, torch.full((2,), level), condition, ctx or Context())["action"]


def with_tokens(condition: Condition, **groups: Tensor) -> Condition:
    changed = {name: replace(condition.tokens[name], features=features) for name, features in groups.items()}
    return replace(condition, tokens={**condition.tokens, **changed})


# --- published sizes


@pytest.mark.parametrize(("name", "count", "tolerance"), [("RDT-1B", 1.228e9, 1e-3), ("RDT-170M", 166e6, 3e-3)])
def test_published_parameter_counts(name: str, count: float, tolerance: float) -> None:
    with torch.device("meta"):
        total = count_parameters(sized_rdt(name)) + count_parameters(published_conditioner(name))
    assert total == pytest.approx(count, rel=tolerance)
    depth, D, _ = SIZES[name]
    head = D // SIZES[name][2]
    blocks = depth * (10 * D**2 + 13 * D + 4 * head)
    state, vectors, end = (256 * D + D) + 2 * (D**2 + D), 2 * (256 * D + D + D**2 + D), D**2 + 2 * D + 128 * D + 128
    words, patches = 4096 * D + D + D**2 + D, 1152 * D + D + D**2 + D
    tables, nulls = (67 + 1024 + 4374) * D, 3 * D + 2
    assert total == blocks + state + vectors + end + words + patches + tables + nulls


def test_the_published_sequence_is_of_67_tokens_and_the_condition_of_4374_and_the_words() -> None:
    with torch.device("meta"):
        model, conditioner = sized_rdt("RDT-170M"), published_conditioner("RDT-170M")
        labels = {"instruction": torch.zeros(1, 7, 4096), "images": torch.zeros(1, 4374, 1152)}
        condition = conditioner.encode(labels, 1, torch.device("meta"))
        ctx = Context(wanted_taps=frozenset({"blocks.13"}))
        output = model({"action": torch.zeros(1, 64, SLOTS)}, torch.zeros(1), condition, ctx)
    assert ctx.taps["blocks.13"].shape == (1, 67, 1024) and output["action"].shape == (1, 64, SLOTS)
    assert sum(group.features.shape[1] for group in condition.tokens.values()) == 4374 + 7


def test_an_unknown_size_names_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match="RDT-1B, RDT-170M, RDT-small"):
        sized_rdt("RDT-2B")


# --- what reads what


def test_images_are_read_by_odd_blocks_and_language_by_even_ones() -> None:
    condition = make_condition()
    other = with_tokens(condition, images=torch.randn(2, 6, WIDTH))
    told = with_tokens(condition, instruction=torch.randn(2, 3, WIDTH))
    one, two = randomised(depth=1), randomised(depth=2)
    assert torch.equal(predict(one, other), predict(one, condition))
    assert (predict(two, other) - predict(two, condition)).abs().max() > 1e-3
    assert (predict(one, told) - predict(one, condition)).abs().max() > 1e-3
    alone = randomised(depth=1, language=())
    assert torch.equal(predict(alone, told), predict(alone, condition))
    assert (predict(alone, other) - predict(alone, condition)).abs().max() > 1e-3
    assert randomised(language=(), images=()).blocks[0].cross_attention is None  # type: ignore[union-attr]


def test_masked_words_never_change_the_output() -> None:
    model, condition = randomised(), make_condition()
    features, real = condition.tokens["instruction"].features, condition.tokens["instruction"].mask
    assert real is not None
    padded = torch.where(real[..., None], features, 9 * torch.randn_like(features))
    torch.testing.assert_close(
        predict(model, with_tokens(condition, instruction=padded)), predict(model, condition), rtol=0, atol=1e-6
    )


def test_noise_level_frequency_and_state_are_read() -> None:
    model, condition = randomised(), make_condition()
    expected = predict(model, condition)
    assert (predict(model, condition, level=0.1) - expected).abs().max() > 1e-3
    faster = replace(condition, vectors={"frequency": torch.randn(2, WIDTH)})
    assert (predict(model, faster) - expected).abs().max() > 1e-3
    moved = condition.with_channels(state=condition.channels["state"] + 1)
    assert (predict(model, moved) - expected).abs().max() > 1e-3


def test_actions_past_the_end_change_nothing_and_are_zero() -> None:
    model, condition = randomised(), make_condition()
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    layout = Layout({"action": (2, 4, SLOTS)}, {"action": mask})
    x, t = torch.randn(2, 4, SLOTS), torch.tensor([0.2, 0.7])
    expected = model({"action": x}, t, condition, model.context(layout))["action"]
    x[~mask] = 7.0
    changed = model({"action": x}, t, condition, model.context(layout))["action"]
    torch.testing.assert_close(changed, expected, rtol=0, atol=1e-6)
    assert not expected[~mask].any()


def test_the_start_is_zero_and_places_are_sines_of_kind_and_place() -> None:
    model = RDT(WIDTH, 2, 2, HORIZON)
    assert not predict(model, make_condition()).any()
    table = model.embedding.table.detach()
    assert isinstance(table, Tensor) and table.shape == (2 + 1 + HORIZON, WIDTH)
    kind, place = table[:, : WIDTH // 2], table[:, WIDTH // 2 :]
    assert torch.equal(kind[3:], kind[3:4].expand(HORIZON, -1)) and len(kind.unique(dim=0)) == 4
    assert torch.equal(place[:4], place[:1].expand(4, -1)) and len(place.unique(dim=0)) == HORIZON


# --- slots


def test_a_value_in_an_invalid_slot_is_read_and_zero_is_not_absence() -> None:
    """Proof 2: values and validity are both seen; an adaptor blind to validity could not tell (0, valid) from none."""
    model, condition = randomised(), make_condition()
    expected = predict(model, condition)
    intruding = condition.channels["state"].clone()
    intruding[..., 60] = 1.0  # a slot of the left arm, which is not there
    assert (predict(model, condition.with_channels(state=intruding)) - expected).abs().max() > 1e-4
    present = torch.zeros(2, 1, 2 * SLOTS)
    present[..., SLOTS] = 1.0
    absent = torch.zeros(2, 1, 2 * SLOTS)
    seen = [model.embedding.adaptor(value) for value in (present, absent)]  # type: ignore[operator]
    assert (seen[0] - seen[1]).abs().max() > 1e-3
    both = [predict(model, condition.with_channels(state=value)) for value in (present, absent)]
    assert (both[0] - both[1]).abs().max() > 1e-4
    nothing = replace(condition, channels={})
    zeros = condition.with_channels(state=torch.zeros(2, 1, 2 * SLOTS), action_validity=torch.zeros(2, 1, SLOTS))
    assert torch.equal(predict(model, nothing), predict(model, zeros))


def test_other_shapes_are_refused_by_name() -> None:
    model, condition = randomised(), make_condition()
    with pytest.raises(ConfigurationError, match=r"state of shape \(2, 2, 256\).*1 states"):
        predict(model, condition.with_channels(state=torch.zeros(2, 2, 256)))
    with pytest.raises(ConfigurationError, match=r"actions of shape \(2, 5, 128\).*up to 4 actions"):
        model({"action": torch.zeros(2, 5, SLOTS)}, torch.zeros(2), condition, Context())
    with pytest.raises(ConfigurationError, match=r"action_validity of shape \(2, 1, 7\)"):
        predict(model, condition.with_channels(action_validity=torch.zeros(2, 1, 7)))


# --- axes


def test_encoded_tokens_are_known_where_they_are_numbers() -> None:
    axis = EncodedTokensAxis(WIDTH, features=5, grid=(2, 3, 4), coded=2)
    labels = torch.randn(2, 6, 5)
    labels[0, 4:] = torch.nan
    labels[1] = torch.nan
    tokens, real = axis(labels), axis.real(labels)
    assert real is not None and real.tolist() == [[True] * 4 + [False] * 2, [True] + [False] * 5]
    assert tokens.isfinite().all() and torch.equal(tokens[1, 0], axis.null)
    assert axis.real(torch.randn(2, 6, 5)) is None
    table = axis.table.reshape(6, 4, WIDTH)
    assert torch.equal(table, table[:, :1].expand_as(table)) and len(table[:, 0].unique(dim=0)) == 6
    with pytest.raises(ConfigurationError, match="up to 24 tokens of 5 features and was given 25 of 5"):
        axis(torch.zeros(2, 25, 5))
    conditioner = Conditioner(WIDTH, {"instruction": lambda width: axis})
    condition = conditioner.encode({}, 3, torch.device("cpu"))
    assert torch.equal(condition.tokens["instruction"].features, axis.null.expand(3, 1, WIDTH))


def test_a_frequency_of_zero_is_none() -> None:
    axis = FrequencyAxis(WIDTH)
    embedded = axis(torch.tensor([0.0, torch.nan, 10.0, 25.0]))
    assert torch.equal(embedded[0], axis.null) and torch.equal(embedded[1], axis.null)
    assert len(embedded.unique(dim=0)) == 3 and embedded.isfinite().all()


def test_channels_are_the_values_unless_unknown() -> None:
    conditioner = Conditioner(WIDTH, {"state": partial(ChannelAxis, shape=(1, 3))})
    torch.nn.init.constant_(conditioner.axes["state"].null, 0.25)  # type: ignore[arg-type]
    labels = torch.tensor([[[1.0, 2, 3]], [[1, torch.nan, 3]]])
    condition = conditioner.encode({"state": labels}, 2, torch.device("cpu"))
    assert condition.channels["state"].tolist() == [[[1, 2, 3]], [[0.25] * 3]]
    assert conditioner.null(condition, ["state"]).channels["state"].tolist() == [[[0.25] * 3]] * 2
    assert conditioner.encode({}, 2, torch.device("cpu")).channels["state"].shape == (2, 1, 3)
    with pytest.raises(ConfigurationError, match=r"shape \(1, 3\) and was given \(2, 3\)"):
        conditioner.encode({"state": torch.zeros(2, 2, 3)}, 2, torch.device("cpu"))


# --- as a policy

ACTION = ["right_end_effector_velocity_0", "right_gripper_joint_position_0"]
STATE = {"state": ["right_end_effector_position[0:2]"]}


def make_codec(**options: Any) -> UnifiedActionCodec:
    plain: dict[str, Any] = {"horizon": HORIZON, "actions": "identity", "states": "identity", **options}
    return UnifiedActionCodec(ACTION, STATE, {"state": 2}, **plain)


def make_batch(sign: Tensor) -> TrajectoryBatch:
    """The same observation for all; every action is +1 or -1, and the gripper stays half open."""
    actions = torch.stack([sign[:, None].expand(-1, HORIZON), torch.full((len(sign), HORIZON), 0.5)], dim=-1)
    return TrajectoryBatch(
        {"state": torch.full((len(sign), 1, 2), 0.3)}, torch.ones(len(sign), 1, dtype=torch.bool), actions,
        torch.ones(len(sign), HORIZON, dtype=torch.bool), [""] * len(sign), [""] * len(sign),
        frequency=torch.full((len(sign),), 20.0),
    )


def make_system(process: Process | None = None, steps: int = 5, **options: Any) -> DiffusionSystem:
    torch.manual_seed(0)
    conditioner = Conditioner(
        WIDE,
        {
            "state": partial(ChannelAxis, shape=(1, 2 * SLOTS)),
            "action_validity": partial(ChannelAxis, shape=(1, SLOTS)),
            "frequency": FrequencyAxis,
        },
    )
    model = RDT(WIDE, 4, 4, HORIZON, language=(), images=())
    cosine = Process(DDPMSchedule(spacing="cosine"), X0Prediction())
    return DiffusionSystem(make_codec(**options), model, process or cosine, DPMSolverPP2M(steps), conditioner)


def test_chunks_and_states_stand_in_their_slots() -> None:
    codec = make_codec(frequency=10.0)
    batch = make_batch(torch.tensor([1.0, -1.0]))
    batch.action_mask[1, 2:] = False
    batch.frequency = torch.tensor([20.0, torch.nan])
    state, layout = codec.encode(batch, torch.Generator())
    used = torch.zeros(SLOTS, dtype=torch.bool)
    used[[39, 10]] = True
    assert state["action"].shape == layout.shapes["action"] == (2, HORIZON, SLOTS)
    assert not state["action"][..., ~used].any() and state["action"][0, :, 39].tolist() == [1.0] * HORIZON
    assert torch.equal(layout.loss_masks["action"], batch.action_mask[..., None] & used)
    assert layout.labels["state"].shape == (2, 1, 2 * SLOTS)
    assert layout.labels["state"][0, 0].nonzero().flatten().tolist() == [30, 31, SLOTS + 30, SLOTS + 31]
    assert layout.labels["frequency"].tolist() == [20.0, 10.0]
    _, everywhere = make_codec(loss_over="all").encode(batch, torch.Generator())
    assert everywhere.loss_masks["action"].sum() == 6 * SLOTS
    asked = codec.observe([{"state": np.full((1, 2), 0.3)}], [""], [5])
    assert asked.shapes["action"] == (1, HORIZON, SLOTS) and asked.labels["frequency"].tolist() == [10.0]
    torch.testing.assert_close(asked.labels["state"][0], layout.labels["state"][0])
    guess = codec.normalise_actions([batch.actions[0].numpy()], torch.device("cpu"))
    assert torch.equal(guess["action"][0], state["action"][0])
    np.testing.assert_array_equal(codec.decode(state, layout)[1], batch.actions[1] * batch.action_mask[1][:, None])


def test_wrong_slots_of_a_robot_are_refused_by_name() -> None:
    with pytest.raises(ConfigurationError, match="'state' has 2 named dimensions and vectors say 3"):
        UnifiedActionCodec(ACTION, STATE, {"state": 3})
    twice = {"a": ["base_velocity"], "b": ["base_velocity_1"]}
    with pytest.raises(ConfigurationError, match="both base_velocity_1"):
        UnifiedActionCodec(ACTION, twice, {"a": 2, "b": 1})
    broken = make_batch(torch.ones(1))
    broken.observations["state"][0, 0, 1] = torch.nan
    with pytest.raises(DataError, match="dimension 1, right_end_effector_position_1"):
        make_codec().encode(broken, torch.Generator())


def test_invalid_slots_of_a_sample_are_exactly_zero_though_nothing_taught_them() -> None:
    system = make_system()
    with torch.no_grad():
        for parameter in system.denoiser.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    layout = system.codec.layout(expand_requests([{"observation": {"state": np.zeros(2)}, "count": 3}]))
    sample = system.sample_state(layout)["action"]
    valid = layout.labels["action_validity"] > 0
    assert sample.isfinite().all() and not sample[~valid.expand_as(sample)].any()
    assert sample[valid.expand_as(sample)].all()


def test_five_steps_are_those_of_the_published_solver() -> None:
    """Diffusers' multistep solver on squared-cosine rates and clean predictions, at its own five step numbers."""
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DPMSolverMultistepScheduler(
        num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2", prediction_type="sample"
    )
    scheduler.set_timesteps(5)
    steps = scheduler.timesteps.tolist()
    assert steps == [999, 799, 599, 400, 200]
    noise = torch.randn(64, HORIZON, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = noise
    for step in scheduler.timesteps:
        expected = scheduler.step(torch.tanh(3 * expected), step, expected).prev_sample
    processes = {"action": Process(DDPMSchedule(spacing="cosine"), X0Prediction())}

    def denoise(x: State, t: Tensor) -> State:
        return {"action": torch.tanh(3 * x["action"])}

    def sample(sampler: DPMSolverPP2M) -> Tensor:
        return sampler.sample(denoise, {"action": noise}, processes)["action"]

    exact = sample(DPMSolverPP2M(5, ListedGrid([step / 999 for step in steps])))
    torch.testing.assert_close(exact, expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(sample(DPMSolverPP2M(5)), expected, rtol=0, atol=1e-2)


def train(system: DiffusionSystem, steps: int) -> DiffusionSystem:
    optimizer = torch.optim.AdamW(system.parameters(), 1e-3)
    generator = torch.Generator().manual_seed(0)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1.0, 2 - 2 * step / steps)
        sign = 2.0 * torch.randint(0, 2, (32,), generator=generator) - 1
        optimizer.zero_grad()
        system.losses(make_batch(sign), generator)["loss"].backward()
        optimizer.step()
    return system.eval()


def sampled_actions(system: DiffusionSystem) -> Tensor:
    requests = expand_requests([{"observation": {"state": np.full(2, 0.3)}, "count": 400}])
    return torch.from_numpy(np.stack([sample.item for sample in system.generate(requests)]))


@pytest.mark.slow
def test_two_answers_stay_two_where_regression_gives_their_mean() -> None:
    """Proof 3: both modes with 40 to 60 % each in five solver steps; the same network as a regression gives neither."""
    system = train(make_system(), 300)
    assert 0.9e6 < count_parameters(system) < 1.4e6
    actions = sampled_actions(system)
    first = actions[:, 0, 0]
    share = float((first > 0).float().mean())
    assert 0.4 < share < 0.6
    assert float((first.abs() < 0.3).float().mean()) < 0.05
    agreement = (actions[..., 0].sign() == first.sign()[:, None]).float().mean()
    assert float(agreement) > 0.95, "a chunk is of one mode"
    assert float((actions[..., 1] - 0.5).abs().mean()) < 0.1
    from_noise = Process(DDPMSchedule(spacing="cosine"), X0Prediction(), time_sampling=UniformTime(low=0.999, high=1.0))
    regression = sampled_actions(train(make_system(from_noise, steps=1), 100))
    assert float((regression[..., 0].abs() < 0.3).float().mean()) > 0.95
