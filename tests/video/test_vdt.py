"""VDT as published, and the proofs that its mask modelling does what it says."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from polydit.data.video.clips import Clip
from polydit.data.video.samples import ClipAnswer
from polydit.domains.video.codec import ClipCodec
from polydit.domains.video.masks import MaskMixture
from polydit.domains.video.vdt import PUBLISHED_SIZES, VDT, published_vdt
from polydit.platform.context import Context
from polydit.platform.errors import ConfigurationError, UserError
from polydit.platform.mixers import Attention
from polydit.platform.requests import Request
from polydit.platform.state import Condition

from .conftest import CELL, FRAMES, SIZE, make_batch, make_system


@pytest.mark.parametrize("name", ["VDT-S/2", "VDT-L/2"])
def test_published_sizes(name: str) -> None:
    with torch.device("meta"):
        model = published_vdt(name)
    depth, width, _ = PUBLISHED_SIZES[name[4]]
    # attention twice and a further map (9 D²), feed-forward (8), modulation (6); biases and the affine norm beside them
    block = 23 * width**2 + 22 * width
    patches = (16 + 1) * width + (width + 1) * 16
    head = 2 * (width**2 + width)
    time = (256 + 1) * width + (width + 1) * width
    assert sum(parameter.numel() for parameter in model.parameters()) == depth * block + patches + head + time
    assert (model.depth, model.width) == (depth, width)


def test_there_are_no_other_sizes() -> None:
    with pytest.raises(ConfigurationError, match="VDT-S/2, VDT-L/2"):
        published_vdt("VDT-B/2")


def test_factorised_attention_costs_what_it_says() -> None:
    """F S (F + S) pairs of tokens instead of (F S)²."""
    frames, places, width = 16, 64, 128
    model = VDT(width, 1, frames, mixer=partial(Attention, heads=2))
    block = model.blocks[0]
    pairs = 4 * width * frames * places * (frames + places)
    dense = 4 * width * (frames * places) ** 2
    linear = 2 * frames * places * (17 * width**2)
    assert block.cost(frames * places) == pairs + linear
    assert pairs / dense == (frames + places) / (frames * places)


def test_given_pixels_come_back_as_they_were() -> None:
    system, batch = make_system(), make_batch()
    for sample in system.reconstruct(batch):
        item = sample.item
        assert item.truth is not None
        assert np.array_equal(item.clip.frames[item.given], item.truth.frames[item.given])
        assert item.given.any() == (item.task != "unconditional")
        assert not np.array_equal(item.clip.frames[~item.given], item.truth.frames[~item.given])


def test_what_the_model_says_of_given_parts_counts_for_nothing() -> None:
    system, batch = make_system(masks=MaskMixture(("predict",), 0.0), questions=("predict",)), make_batch()

    class Wrong(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner
            self.context, self.streams = inner.context, inner.streams

        def forward(self, x_t: Any, t: Any, cond: Any, ctx: Any) -> Any:
            video = self.inner(x_t, t, cond, ctx)["video"]
            return {"video": torch.cat([video[:, : FRAMES // 2] * 0 + 1e3, video[:, FRAMES // 2 :]], dim=1)}

    losses = []
    for denoiser in (system.denoiser, Wrong(system.denoiser)):
        system.denoiser = denoiser
        losses.append(system.losses(batch, torch.Generator().manual_seed(0))["loss"].item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_all_masked_is_unconditional_training() -> None:
    """With nothing given neither input nor loss differs from those of a codec that knows no masks."""
    system, batch = make_system(masks=MaskMixture(("unconditional",), 0.0), questions=("unconditional",)), make_batch()
    masked = system.losses(batch, torch.Generator().manual_seed(0))["loss"]
    system.codec.shows_known = False
    state, layout = system.codec.encode(batch, torch.Generator().manual_seed(0))
    assert layout.loss_masks["video"].all()
    plain = system.losses(batch, torch.Generator().manual_seed(0))["loss"]
    assert torch.equal(masked, plain) and state["video"].abs().max() <= 1


def test_requests_for_every_task() -> None:
    system = make_system()
    frames = np.random.default_rng(0).integers(0, 256, (FRAMES, SIZE, SIZE, 3), dtype=np.uint8)
    source = Clip(frames, 12.5, name="mine")
    wishes = [{"task": task, "clip": source} for task in ("predict", "backward", "interpolate", "animate", "complete")]
    wishes += [{"task": "predict", "clip": source, "given": [0, -1]}, {"task": "unconditional"}]
    samples = system.generate([Request(seed, wish) for seed, wish in enumerate(wishes)])
    whole = [int(sample.item.given_frames.sum()) for sample in samples]
    assert whole == [4, 4, 2, 1, 0, 2, 0]
    completed = samples[4].item
    assert isinstance(completed, ClipAnswer) and completed.given.mean() == 0.75
    for sample in samples[:-1]:
        assert np.array_equal(sample.item.clip.frames[sample.item.given], frames[sample.item.given])
    alone = system.generate([Request(2, wishes[2])])[0]
    assert np.array_equal(alone.item.clip.frames, samples[2].item.clip.frames)
    other = system.generate([Request(9, wishes[2])])[0]
    assert not np.array_equal(alone.item.clip.frames, other.item.clip.frames)
    with pytest.raises(UserError, match="no task 'sound'"):
        system.generate([Request(0, {"task": "sound", "clip": source})])


def test_codec_refuses_what_does_not_fit() -> None:
    with pytest.raises(ConfigurationError, match="cells of 5 pixels must divide"):
        ClipCodec(8, 16, cell=5)
    with pytest.raises(ConfigurationError, match="of what is trained"):
        ClipCodec(8, 16, masks=MaskMixture(("predict",), 0.0), questions=("interpolate",))
    with pytest.raises(ConfigurationError, match="give data and codec the same"):
        ClipCodec(4, SIZE, cell=CELL, questions=("predict",)).encode(make_batch(), torch.Generator())


class Halves(nn.Module):
    """An autoencoder of images that takes means of four pixels, times ten."""

    channels, factor = 3, 2

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        return 10 * nn.functional.avg_pool2d(images, 2)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return nn.functional.interpolate(latents / 10, scale_factor=2)


def test_latents_of_frames() -> None:
    codec = ClipCodec(FRAMES, SIZE, cell=CELL, autoencoder=Halves())

    class Module:
        def train_dataloader(self) -> list[Any]:
            return [make_batch()]

    codec.prepare(Module())
    state, layout = codec.encode(make_batch(), torch.Generator().manual_seed(0))
    assert state["video"].shape == (6, FRAMES, 3, SIZE // 2, SIZE // 2)
    assert float(state["video"].std()) == pytest.approx(1, rel=0.01)
    assert layout.loss_masks["video"].shape == (6, FRAMES, 1, SIZE // 2, SIZE // 2)
    question = codec.question(make_batch())
    samples = codec.compare(make_batch(), [codec.encode(make_batch(), torch.Generator())[0]], question)
    item = samples[0].item
    assert np.array_equal(item.clip.frames[item.given], item.truth.frames[item.given])
    blurred = nn.functional.avg_pool2d(make_batch().frames[0].float(), 2)
    made = torch.from_numpy(item.clip.frames[~item.given_frames][:, ::2, ::2]).permute(0, 3, 1, 2).float()
    assert (made - blurred[torch.from_numpy(~item.given_frames)]).abs().max() <= 1


def test_temporal_part_off_makes_frames_strangers() -> None:
    system = make_system()
    for block in system.denoiser.blocks:
        nn.init.zeros_(block.temporal_linear.weight)
        nn.init.zeros_(block.temporal_linear.bias)
    clip = torch.randn(1, FRAMES, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    changed = clip.clone()
    changed[:, 0] = 0
    first, second = (
        system.denoiser({"video": x}, torch.tensor([0.5]), Condition(), Context())["video"] for x in (clip, changed)
    )
    assert torch.equal(first[:, 1:], second[:, 1:]) and not torch.equal(first[:, 0], second[:, 0])
