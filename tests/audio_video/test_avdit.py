"""AV-DiT: a frozen transformer of images, untouched by all that learns beside it."""

from __future__ import annotations

import hashlib
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from polydit.domains.audio_video.avdit import AVDiT
from polydit.platform.context import Context
from polydit.platform.denoisers import DiT, PatchEmbedding, PatchHead, TokenEmbedding, TokenHead
from polydit.platform.denoisers.frames import FactorisedBlock, FrameEmbedding, FrameHead
from polydit.platform.errors import ConfigurationError
from polydit.platform.mixers import Attention, RotaryPosition, TokenMixer
from polydit.platform.processes import Process
from polydit.platform.samplers import Euler
from polydit.platform.state import Condition, State
from polydit.platform.systems.diffusion import DiffusionSystem

from .conftest import BANDS, FRAMES, SIZE, make_batch, make_codec

STEPS, WIDTH = 20, 32
T = torch.tensor([0.2, 0.7])


def make_backbone(single_frames: bool = True, **options: Any) -> DiT:
    """Random weights throughout."""
    torch.manual_seed(0)
    embedding: Any = FrameEmbedding if single_frames else PatchEmbedding
    head: Any = FrameHead if single_frames else PatchHead
    shared: dict[str, Any] = {"mixer": partial(Attention, heads=2), **options}
    backbone = DiT(
        partial(embedding, in_channels=3, patch=4), partial(head, out_channels=3, patch=4), WIDTH, 2, **shared
    )
    for parameter in backbone.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return backbone


def make(learnt: bool = True, backbone: DiT | None = None, **options: Any) -> AVDiT:
    shared: dict[str, Any] = {"bands": BANDS, "rank": 4, "heads": 2, "frames": FRAMES, "steps": STEPS, **options}
    model = AVDiT(make_backbone() if backbone is None else backbone, **shared)
    if learnt:
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


def draw_state(seed: int = 0) -> State:
    generator = torch.Generator().manual_seed(seed)
    return {
        "video": torch.randn(2, FRAMES, 3, SIZE, SIZE, generator=generator),
        "sound": torch.randn(2, STEPS, BANDS, generator=generator),
    }


def run(model: AVDiT, state: State, delay: float = 0.0) -> State:
    """Frames and sound that begin together, or the sound `delay` seconds later."""
    seconds = {
        "video": (torch.arange(FRAMES) / 8.0)[None], "sound": (torch.arange(STEPS) / 40.0 + delay).expand(2, -1),
    }
    return model(state, T, Condition(), Context(positions=seconds))


def digest(model: AVDiT) -> str:
    parts = [value.numpy().tobytes() for value in model.backbone.state_dict().values()]
    return hashlib.sha256(b"".join(parts)).hexdigest()


@pytest.mark.parametrize("single_frames", [True, False])
def test_before_training_frames_are_those_of_the_image_model(single_frames: bool) -> None:
    backbone = make_backbone(single_frames)
    model, state = make(learnt=False, backbone=backbone), draw_state()
    frames = state["video"].flatten(0, 1)
    field, images = ("video", frames[:, None]) if single_frames else ("image", frames)
    wanted = backbone({field: images}, T.repeat_interleave(FRAMES), Condition(), Context())[field]
    made = run(model, state)
    assert torch.equal(made["video"].flatten(0, 1), wanted.reshape(frames.shape))
    assert not made["sound"].any()


def test_training_changes_no_bit_of_the_backbone() -> None:
    model = make(learnt=False)
    system = DiffusionSystem(make_codec(), model, Process.flow_matching(), Euler(2))
    optimizer = torch.optim.SGD([parameter for parameter in system.parameters() if parameter.requires_grad], 0.1)
    before = digest(model)
    system.train()
    for seed in range(3):
        optimizer.zero_grad()
        system.losses(make_batch(seed=seed), torch.Generator().manual_seed(seed))["loss"].backward()
        optimizer.step()
    assert digest(model) == before and not model.backbone.training
    assert model.additions[0].gates["video"].abs().max() > 0
    assert not any(name.startswith("backbone") for name, value in model.named_parameters() if value.requires_grad)


def test_temporal_attention_knows_the_order_of_frames() -> None:
    model, state, order = make(fusion=False), draw_state(), [2, 0, 3, 1]
    shuffled = {**state, "video": state["video"][:, order]}
    assert not torch.allclose(run(model, state)["video"][:, order], run(model, shuffled)["video"], atol=1e-4)
    for additions in model.additions:
        additions.initialise()
    torch.testing.assert_close(
        run(model, state)["video"][:, order], run(model, shuffled)["video"], atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("field", ["video", "sound"])
def test_fusion_alone_lets_frames_and_sound_meet(field: str) -> None:
    state = draw_state()
    other = {**state, field: draw_state(1)[field]}
    for fusion in (True, False):
        model = make(fusion=fusion)
        before, after = run(model, state), run(model, other)
        changed = {name: not torch.equal(before[name], after[name]) for name in state}
        assert changed == {name: fusion or name == field for name in state}


def test_frames_and_sound_know_where_the_other_stands() -> None:
    state = draw_state()
    for positions in ("seconds", "none"):
        model = make(positions=positions)
        before, after = run(model, state), run(model, state, delay=0.1)
        assert [torch.equal(before[name], after[name]) for name in state] == [positions == "none"] * 2
    with pytest.raises(ConfigurationError, match="in seconds, it has those of \\[\\]"):
        make()(state, T, Condition(), Context())


def test_within_a_frame_and_a_moment_the_frozen_attention_is_as_it_was() -> None:
    state, still = draw_state(), {"video": torch.zeros(2, FRAMES), "sound": torch.zeros(2, STEPS)}
    timed, timeless = make(), make(positions="none")
    timeless.load_state_dict(timed.state_dict(), strict=False)
    wanted = timeless(state, T, Condition(), Context())
    made = timed(state, T, Condition(), Context(positions=still))
    for name, value in wanted.items():
        torch.testing.assert_close(made[name], value, atol=1e-5, rtol=1e-5)


def test_one_bias_serves_a_batch_whose_seconds_are_one_row() -> None:
    model, state = make(), draw_state()
    seconds = {"video": torch.arange(FRAMES) / 8.0, "sound": torch.arange(STEPS) / 40.0}
    expanded = Context(positions={name: value.expand(2, -1) for name, value in seconds.items()})
    copied = Context(positions={name: value.repeat(2, 1) for name, value in seconds.items()})
    for name, value in model(state, T, Condition(), expanded).items():
        torch.testing.assert_close(model(state, T, Condition(), copied)[name], value, atol=1e-5, rtol=1e-5)


def test_few_weights_learn() -> None:
    with torch.device("meta"):
        backbone = DiT(
            partial(PatchEmbedding, in_channels=4), partial(PatchHead, out_channels=4), 1152, 28,
            partial(Attention, heads=16),
        )
        model = AVDiT(backbone, bands=64, rank=16, heads=16)
    learnt = sum(value.numel() for value in model.parameters() if value.requires_grad)
    assert 0.15 < learnt / sum(value.numel() for value in model.parameters()) < 0.25
    assert 150e6 < learnt < 170e6


@pytest.mark.parametrize("options", [
    {"block": partial(FactorisedBlock, frames=1)}, {"in_context": ("time",)},
    {"mixer": partial(Attention, heads=2, rotary=partial(RotaryPosition, axes=(8, 8)))},
])
def test_backbones_that_cannot_serve_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="the backbone"):
        AVDiT(make_backbone(**options))


class MeanMixer(TokenMixer):
    """Every token gets the mean of all."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        return x.mean(dim=1, keepdim=True).expand_as(x)

    def cost(self, tokens: int, condition_tokens: int = 0) -> int:
        return 0


def test_a_bias_by_seconds_needs_attention() -> None:
    backbone = make_backbone(mixer=MeanMixer)
    with pytest.raises(ConfigurationError, match="takes no bias by seconds"):
        make(backbone=backbone)
    run(make(backbone=backbone, positions="none"), draw_state())


def test_a_transformer_of_tokens_is_no_backbone() -> None:
    parts = (partial(part, fields={"x": 3}) for part in (TokenEmbedding, TokenHead))
    tokens = DiT(*parts, 32, 1, partial(Attention, heads=2))
    with pytest.raises(ConfigurationError, match="TokenEmbedding"):
        AVDiT(tokens)
