"""PAD: published sizes, who sees whom, missing modalities, the warm start, and what frames teach about actions."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from polydit.data.robotics.batch import TrajectoryBatch, collate
from polydit.domains.robotics.channels import ChannelAxis
from polydit.domains.robotics.pad import PAD, published_pad
from polydit.domains.robotics.pad_axes import InstructionVectorAxis
from polydit.domains.robotics.pad_codec import FrameActionCodec, to_bytes, to_signed
from polydit.domains.robotics.pad_warm_start import warm_start
from polydit.platform.conditioning import Conditioner
from polydit.platform.context import Context
from polydit.platform.denoisers import DiT, PatchEmbedding, PatchHead, TimeEmbedding, TokenEmbedding, TokenHead
from polydit.platform.errors import CheckpointError, ConfigurationError, DataError
from polydit.platform.mixers import Attention
from polydit.platform.module import count_parameters
from polydit.platform.objectives import LossWeight
from polydit.platform.processes import DDPMSchedule, Process, X0Prediction
from polydit.platform.requests import expand_requests
from polydit.platform.samplers import DDIM
from polydit.platform.state import Condition, Layout, State, Tokens
from polydit.platform.systems.diffusion import DiffusionSystem

WIDTH = 32
TINY: dict[str, Any] = {
    "width": WIDTH, "depth": 2, "heads": 2, "frames": 2, "channels": 3, "patch": 4, "horizon": 3, "action_size": 2,
    "state_size": 5, "history": 2,
}


def randomise(model: nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))


def randomised(**options: Any) -> PAD:
    """A tiny PAD whose weights are nowhere zero."""
    torch.manual_seed(0)
    model = PAD(**{**TINY, **options})
    randomise(model)
    return model


def make_state(depth: bool = False, batch: int = 2) -> State:
    draw = partial(torch.randn, generator=torch.Generator().manual_seed(1))
    state = {"action": draw(batch, 3, 2), "image": draw(batch, 2, 3, 8, 12)}
    return {**state, "depth": draw(batch, 2, 1, 8, 12)} if depth else state


def make_condition(depth: bool = False, batch: int = 2) -> Condition:
    draw = partial(torch.randn, generator=torch.Generator().manual_seed(2))
    channels = {"state": draw(batch, 2, 5), "current_image": draw(batch, 2, 3, 8, 12)}
    channels |= {"current_depth": draw(batch, 2, 1, 8, 12)} if depth else {}
    return Condition({"instruction": draw(batch, WIDTH)}, {}, channels)


def predict(model: PAD, x: State, cond: Condition | None = None, ctx: Context | None = None) -> State:
    batch = len(x["action"])
    condition = make_condition("depth" in x, batch) if cond is None else cond
    return model(x, torch.linspace(0.2, 0.8, batch), condition, ctx or Context())


# --- published sizes


@pytest.mark.parametrize(("name", "millions"), [("PAD-B/2", 128), ("PAD-L/2", 449), ("PAD-XL/2", 661)])
def test_published_parameter_counts(name: str, millions: int) -> None:
    """The paper's millions are of 1024 thousand: its three counts and the counted ones differ by this factor alike."""
    with torch.device("meta"):
        model = published_pad(name)
        language = InstructionVectorAxis(model.width, buckets=0, features=512)
    assert round((count_parameters(model) + count_parameters(language)) / 1.024e6) == millions


@pytest.mark.parametrize(("name", "tokens", "billions"), [("PAD-XL/2", 256, 119.1), ("PAD-XL/4", 64, 29.5)])
def test_the_published_cost(name: str, tokens: int, billions: float) -> None:
    """Multiply-adds of one pass; one is two operations."""
    with torch.device("meta"):
        assert published_pad(name).cost(tokens + 1) / 2e9 == pytest.approx(billions, rel=2e-3)


def test_an_unknown_size_names_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match=r"PAD-B/2, .*PAD-XL/8"):
        published_pad("PAD-S/2")


# --- who sees whom


def test_frames_never_see_actions_and_actions_see_frames() -> None:
    """Proof 1, bit by bit."""
    model, x = randomised(), make_state()
    expected = predict(model, x)
    acted = predict(model, {**x, "action": x["action"] + 1})
    assert torch.equal(acted["image"], expected["image"])
    assert (acted["action"] - expected["action"]).abs().max() > 1e-3
    seen = predict(model, {**x, "image": x["image"] + 1})
    assert (seen["action"] - expected["action"]).abs().max() > 1e-3
    moved = make_condition().with_channels(state=make_condition().channels["state"] + 1)
    stated = predict(model, x, moved)
    assert torch.equal(stated["image"], expected["image"])
    assert (stated["action"] - expected["action"]).abs().max() > 1e-3


def test_without_the_one_way_mask_frames_see_actions() -> None:
    model, x = randomised(one_way=False), make_state()
    acted = predict(model, {**x, "action": x["action"] + 1})
    assert (acted["image"] - predict(model, x)["image"]).abs().max() > 1e-4


def test_depth_and_actions_see_everything_and_frames_neither() -> None:
    model, x = randomised(depth_patch=8, history=2), make_state(depth=True)
    x = {name: torch.nn.functional.pad(value, (0, 4)) if value.ndim == 5 else value for name, value in x.items()}
    condition = make_condition(depth=True)
    wide = {
        name: torch.nn.functional.pad(value, (0, 4)) if value.ndim == 5 else value
        for name, value in condition.channels.items()
    }
    condition = replace(condition, channels=wide)
    expected = predict(model, x, condition)
    assert expected["depth"].shape == x["depth"].shape
    deeper = predict(model, {**x, "depth": x["depth"] + 1}, condition)
    acted = predict(model, {**x, "action": x["action"] + 1}, condition)
    assert torch.equal(deeper["image"], expected["image"])
    assert (deeper["action"] - expected["action"]).abs().max() > 1e-4
    assert (acted["depth"] - expected["depth"]).abs().max() > 1e-4


def test_instruction_frames_seen_and_noise_level_are_read() -> None:
    model, x, condition = randomised(), make_state(), make_condition()
    expected = predict(model, x)
    now = condition.with_channels(current_image=condition.channels["current_image"] + 1)
    told = replace(condition, vectors={"instruction": -condition.vectors["instruction"]})
    for changed in (predict(model, x, now), predict(model, x, told), model(x, torch.zeros(2), condition, Context())):
        for name in x:
            assert (changed[name] - expected[name]).abs().max() > 1e-4
    bare = replace(condition, channels={})
    zeros = replace(condition, channels={k: torch.zeros_like(v) for k, v in condition.channels.items()})
    assert torch.equal(predict(model, x, bare)["image"], predict(model, x, zeros)["image"])


def test_words_are_read_by_cross_attention_where_asked_for() -> None:
    model, x = randomised(language=("instruction",)), make_state()
    words = [Condition(tokens={"instruction": Tokens(torch.randn(2, 3, WIDTH))}) for _ in range(2)]
    first, second = (predict(model, x, condition)["image"] for condition in words)
    assert (first - second).abs().max() > 1e-4


def test_other_shapes_are_refused_by_name() -> None:
    model, x, condition = randomised(), make_state(), make_condition()
    with pytest.raises(ConfigurationError, match=r"action of shape \(2, 4, 2\).*\[B, 3, 2, ...\]"):
        predict(model, {**x, "action": torch.zeros(2, 4, 2)})
    with pytest.raises(ConfigurationError, match=r"current_image of shape \(2, 1, 3, 8, 12\)"):
        predict(model, x, condition.with_channels(current_image=torch.zeros(2, 1, 3, 8, 12)))
    with pytest.raises(ConfigurationError, match="patches of 4 x 4 do not tile an image of 8 x 10"):
        predict(model, {**x, "image": torch.zeros(2, 2, 3, 8, 10)})
    with pytest.raises(ConfigurationError, match=r"\['self_condition'\] beside them"):
        predict(model, x, condition.with_channels(self_condition=x["action"]))


# --- what is missing


def masked_context(model: PAD, x: State, actions: Tensor | None = None, frames: Tensor | None = None) -> Context:
    masks = {name: mask for name, mask in (("action", actions), ("image", frames)) if mask is not None}
    return model.context(Layout({name: tuple(value.shape) for name, value in x.items()}, masks))


@pytest.mark.parametrize("one_way", [True, False])
def test_masked_frames_and_actions_are_neither_read_nor_predicted(one_way: bool) -> None:
    model, x = randomised(one_way=one_way), make_state()
    actions = torch.tensor([[True, True, False], [False] * 3])
    frames = torch.tensor([[True, False], [True, True]])
    expected = predict(model, x, ctx=masked_context(model, x, actions, frames))
    x["action"][~actions], x["image"][~frames] = torch.nan, 9.0
    changed = predict(model, x, ctx=masked_context(model, x, actions, frames))
    for name, mask in (("action", actions), ("image", frames)):
        assert torch.equal(changed[name], expected[name])
        assert not expected[name][~mask].any() and expected[name][mask].all()


def make_codec(**options: Any) -> FrameActionCodec:
    settings: dict[str, Any] = {
        "action_size": 2, "camera": "corner", "frames": 2, "vectors": {"state": 5}, "horizon": 3, "history": 2,
        "actions": "identity", "states": "identity",
    }
    return FrameActionCodec(**{**settings, **options})


def make_batch(labelled: list[bool], size: tuple[int, int] = (8, 12), frames: int = 2) -> TrajectoryBatch:
    count, generator = len(labelled), torch.Generator().manual_seed(3)
    draw = partial(torch.randint, 0, 256, generator=generator, dtype=torch.uint8)
    return TrajectoryBatch(
        {"state": torch.randn(count, 2, 5, generator=generator), "corner": draw((count, 2, *size, 3))},
        torch.ones(count, 2, dtype=torch.bool), torch.randn(count, 3, 2, generator=generator),
        torch.tensor(labelled)[:, None].expand(-1, 3).clone(), ["go"] * count, [""] * count,
        future={"corner": draw((count, frames, *size, 3))}, future_mask=torch.ones(count, frames, dtype=torch.bool),
    )


def make_system(codec: FrameActionCodec, model: PAD, image_shape: tuple[int, ...], **options: Any) -> DiffusionSystem:
    axes: dict[str, Any] = {"current_image": partial(ChannelAxis, shape=image_shape)}
    for name, size in codec.vectors.items():
        axes[name] = partial(ChannelAxis, shape=(codec.history, size))
    process = Process(DDPMSchedule(), X0Prediction())
    return DiffusionSystem(codec, model, process, DDIM(10), Conditioner(model.width, axes), **options)


def test_video_without_actions_gives_the_action_branch_no_gradient() -> None:
    """Proof 2: exactly zero for embedding and head of actions; not so as soon as one sample has actions."""
    model = randomised()
    system = make_system(make_codec(), model, (2, 3, 8, 12))
    branch = {
        name: parameter for name, parameter in model.named_parameters() if "linears.action" in name
    }
    assert len(branch) == 4
    losses = system.losses(make_batch([False, False]), torch.Generator().manual_seed(0))
    losses["loss"].backward()
    assert losses["action"] == 0 and losses["image"] > 0
    for parameter in branch.values():
        assert parameter.grad is None or not parameter.grad.any()
    silent = [
        name for name, p in model.named_parameters() if name not in branch and (p.grad is None or not p.grad.any())
    ]
    assert not silent
    system.losses(make_batch([False, True]), torch.Generator().manual_seed(0))["loss"].backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in branch.values())


def test_depth_that_is_missing_gives_its_branch_no_gradient() -> None:
    model, x = randomised(depth_patch=4), make_state(depth=True)
    layout = Layout({"depth": (2, 2, 1, 8, 12)}, {"depth": torch.zeros(2, 2, dtype=torch.bool)})
    output = predict(model, x, ctx=model.context(layout))
    sum(value.square().sum() for value in output.values()).backward()  # type: ignore[union-attr]
    for name, parameter in model.named_parameters():
        if "linears.depth" in name:
            assert parameter.grad is None or not parameter.grad.any(), name


# --- codec and axes


def test_frames_and_actions_become_a_state_and_come_back() -> None:
    codec, batch = make_codec(), make_batch([True, False])
    batch.future_mask[1, 1] = False  # type: ignore[index]
    state, layout = codec.encode(batch, torch.Generator())
    assert state["image"].shape == (2, 2, 3, 8, 12) and state["image"].abs().max() <= 1
    assert not state["image"][1, 1].any() and not state["action"][1].any()
    assert layout.masks["image"] is batch.future_mask and layout.labels["current_image"].shape == (2, 2, 3, 8, 12)
    np.testing.assert_array_equal(codec.decode_frames(state)[0], batch.future["corner"][0])
    np.testing.assert_array_equal(to_bytes(to_signed(batch.observations["corner"])), batch.observations["corner"])
    np.testing.assert_array_equal(codec.decode(state, layout)[0], batch.actions[0])
    seen = {"state": np.zeros(5, np.float32), "corner": batch.observations["corner"][0, 0].numpy()}
    asked = codec.layout(expand_requests([{"observation": seen}]))
    assert asked.shapes == {"action": (1, 3, 2), "image": (1, 2, 3, 8, 12)}
    chunk = make_system(codec, randomised(), (2, 3, 8, 12)).generate(expand_requests([{"observation": seen}]))[0].item
    assert chunk.shape == (3, 2) and np.isfinite(chunk).all()


def test_frames_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="gives 2 future frames of 'corner' and the codec predicts 4"):
        make_codec(frames=4).encode(make_batch([True]), torch.Generator())
    with pytest.raises(DataError, match=r"float32 are no 8-bit RGB"):
        to_signed(torch.zeros(1, 8, 8, 3))
    with pytest.raises(ConfigurationError, match="guess_from to 0"):
        make_codec().normalise_actions([], torch.device("cpu"))


def test_an_instruction_is_the_mean_of_its_words_and_starts_at_zero() -> None:
    words, encoded = InstructionVectorAxis(WIDTH, 10), InstructionVectorAxis(WIDTH, 0, features=4)
    labels, features = torch.tensor([[3, 5, 0], [0, 0, 0]]), torch.randn(2, 3, 4)
    features[0, 2], features[1] = torch.nan, torch.nan
    assert not words(labels).any() and not encoded(features).any()
    randomise(words)
    randomise(encoded)
    assert words.table is not None and encoded.projection is not None
    torch.testing.assert_close(words(labels), torch.stack([words.table.weight[[2, 4]].mean(0), words.null]))
    mean = encoded.projection(features[0, :2]).mean(0)
    torch.testing.assert_close(encoded(features), torch.stack([mean, encoded.null]))
    for axis in (words, encoded):
        told_nothing = axis(axis.unknown(3, torch.device("cpu")))
        assert torch.equal(told_nothing, axis.null.expand(3, WIDTH))
    with pytest.raises(ConfigurationError, match="buckets 3 and features 4"):
        InstructionVectorAxis(WIDTH, 3, 4)


# --- the warm start


def make_image_model(**options: Any) -> DiT:
    settings: dict[str, Any] = {"width": WIDTH, "depth": 2, "mixer": partial(Attention, heads=2), **options}
    model = DiT(PatchEmbedding, partial(PatchHead, out_channels=8), **settings)
    randomise(model)
    return model


def test_right_after_the_warm_start_every_frame_is_denoised_as_the_image_was() -> None:
    """Proof 3: k copies of one noised latent give the image model's noise for each, whatever was seen or done."""
    torch.manual_seed(0)
    source = make_image_model(time=partial(TimeEmbedding, include_base=True))
    model = PAD(WIDTH, 2, 2, time=partial(TimeEmbedding, include_base=True))
    warm_start(model, source)
    latent, t = torch.randn(2, 4, 8, 8), torch.tensor([0.1, 0.9])
    expected = source({"image": latent}, t, Condition(), Context())["image"][:, :4]
    told = InstructionVectorAxis(WIDTH)(torch.tensor([[1, 2], [3, 0]]))
    channels = {"state": torch.randn(2, 1, 4), "current_image": torch.randn(2, 1, 4, 8, 8)}
    x = {"action": torch.randn(2, 3, 4), "image": latent[:, None].expand(-1, 3, -1, -1, -1)}
    frames = model(x, t, Condition({"instruction": told}, {}, channels), Context())["image"]
    for frame in frames.unbind(dim=1):
        torch.testing.assert_close(frame, expected, rtol=0, atol=1e-5)
    assert expected.abs().max() > 0.1


def test_a_source_that_does_not_fit_is_refused() -> None:
    model = PAD(WIDTH, 2, 2)
    with pytest.raises(CheckpointError, match=r"blocks 3 \(model: 2\).*time embedding .*True"):
        warm_start(model, make_image_model(depth=3, time=partial(TimeEmbedding, include_base=True)))
    fields = {"latent": 3}
    words = DiT(partial(TokenEmbedding, fields=fields), partial(TokenHead, fields=fields), 64, 1)
    with pytest.raises(CheckpointError, match="TokenEmbedding and TokenHead: the source is no image model"):
        warm_start(model, words)


# --- what frames teach about actions


SIDE, STEPS = 16, 400


def moving_dots(count: int, seed: int, labelled: bool) -> TrajectoryBatch:
    """Clips of a dot before still noise: two frames seen, two to come; the action is its velocity / 1.5 pixels."""
    rng = np.random.default_rng(seed)
    velocity = rng.uniform(-1.5, 1.5, (count, 1, 2))
    start = rng.uniform(5.0, SIDE - 6.0, (count, 1, 2))
    places = start + velocity * np.arange(-1, 3)[None, :, None]
    grid = np.arange(SIDE)
    reach = np.exp(-((grid - places[..., :1]) ** 2) / 3)[..., :, None] * np.exp(
        -((grid - places[..., 1:]) ** 2) / 3
    )[..., None, :]
    ground = rng.uniform(0.0, 0.5, (count, 1, SIDE, SIDE))
    shades = ground + (1 - ground) * reach
    frames = torch.from_numpy((255 * shades).round().astype(np.uint8))[..., None].expand(-1, -1, -1, -1, 3)
    mask = torch.full((count, 1), labelled)
    return TrajectoryBatch(
        {"corner": frames[:, :2]}, torch.ones(count, 2, dtype=torch.bool),
        torch.from_numpy(velocity / 1.5).float(), mask, [""] * count, [""] * count, future={"corner": frames[:, 2:]},
    )


class BlindCodec(FrameActionCodec):
    """The same without a future: frames to come are zero, and with no loss for them the model keeps them so."""

    def encode(self, batch: TrajectoryBatch, generator: torch.Generator) -> tuple[State, Layout]:
        state, layout = super().encode(batch, generator)
        return {**state, "image": torch.zeros_like(state["image"])}, layout


def choose(batch: TrajectoryBatch, indices: Tensor) -> TrajectoryBatch:
    return replace(
        batch, observations={k: v[indices] for k, v in batch.observations.items()}, actions=batch.actions[indices],
        observation_mask=batch.observation_mask[indices], action_mask=batch.action_mask[indices],
        future={k: v[indices] for k, v in batch.future.items()}, instructions=[""] * len(indices),
        tasks=[""] * len(indices),
    )


def measure(codec: type[FrameActionCodec], sources: list[TrajectoryBatch], image_weight: float) -> tuple[float, float]:
    """Errors on clips of their own after training on equal parts of `sources`.

    Returns:
        root mean square error of the sampled velocities; mean square error of the sampled frames, relative to that of
        the last frame seen.
    """
    torch.manual_seed(0)
    plain: dict[str, Any] = {"camera": "corner", "frames": 2, "horizon": 1, "history": 2, "actions": "identity"}
    model = PAD(64, 3, 2, frames=2, channels=3, patch=4, horizon=1, action_size=2, state_size=0, history=2)
    weights = {"image": LossWeight(image_weight)}
    system = make_system(codec(2, **plain), model, (2, 3, SIDE, SIDE), loss_weights=weights)
    optimizer, generator = torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=0.0), torch.Generator()
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1.0, 2 - 2 * step / STEPS)
        share = 64 // len(sources)
        parts = [choose(part, torch.randint(0, len(part), (share,), generator=generator)) for part in sources]
        optimizer.zero_grad()
        system.losses(collate(parts), generator)["loss"].backward()
        optimizer.step()
    held_out = moving_dots(200, seed=9, labelled=True)
    histories = [{"corner": frames.numpy()} for frames in held_out.observations["corner"]]
    layout = system.eval().codec.observe(histories, [""] * 200, range(200))  # type: ignore[operator, union-attr]
    state = system.sample_state(layout)
    error = np.sqrt(np.mean((np.stack(system.codec.decode(state, layout)) - held_out.actions.numpy()) ** 2))
    truth, last = to_signed(held_out.future["corner"]), to_signed(held_out.observations["corner"][:, 1:])
    return float(error), float((state["image"] - truth).square().mean() / (last - truth).square().mean())


@pytest.mark.slow
def test_frames_to_come_teach_actions() -> None:
    """Proof 4: with 100 labelled clips and 2,000 without actions, the error is clearly below that without frames."""
    labelled, video = moving_dots(100, 0, True), moving_dots(2000, 1, False)
    joint, frames = measure(FrameActionCodec, [labelled, video], 10.0)
    alone, _ = measure(BlindCodec, [labelled], 0.0)
    assert joint < 0.75 * alone and joint < 0.25
    assert frames < 0.7, "the frames are nearer to those to come than the last one seen is"
