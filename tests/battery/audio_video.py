"""Towers with bridges in the battery.

Shape legend: B clips, F frames, T steps of sound, M mel bands.
"""

from __future__ import annotations

from functools import partial

import torch

from polydit.domains.audio_video.avdit import AVDiT
from polydit.domains.audio_video.bridgedit import BridgeDiT
from polydit.domains.video.vdt import VDT
from polydit.platform.denoisers import DiT, TokenEmbedding, TokenHead
from polydit.platform.denoisers.frames import FrameEmbedding, FrameHead
from polydit.platform.mixers import Attention
from polydit.platform.state import Condition, Layout

from .entry import WIDTH, Case, denoiser_entry

FRAMES, STEPS, BANDS = 4, 16, 6
"""As many steps of sound as patches of frames, for costs are told one number of tokens."""

TOKENS = 4
"""Patches of a frame."""

Attend = partial(Attention, heads=2)


def sound_clip_case(padding: int) -> Case:
    """Three clips of four frames of 8 pixels with 16 steps of sound; clips are never padded."""
    draw = partial(torch.randn, generator=torch.Generator().manual_seed(12))
    x_t = {"video": draw(3, FRAMES, 3, 8, 8), "sound": draw(3, STEPS, BANDS)}
    seconds = {"video": torch.arange(FRAMES) / 4, "sound": torch.arange(STEPS) / 16}
    layout = Layout(
        {name: tuple(value.shape) for name, value in x_t.items()},
        positions={name: value.float().expand(3, -1) for name, value in seconds.items()},
    )
    return Case(x_t, torch.tensor([0.1, 0.5, 0.9]), Condition(), layout)


def build_bridgedit(**options: object) -> BridgeDiT:
    """Two towers of two blocks."""
    video = VDT(WIDTH, 2, FRAMES, 3, 4, mixer=Attend, name="blocks")
    sound = DiT(
        partial(TokenEmbedding, fields={"sound": BANDS}), partial(TokenHead, fields={"sound": BANDS}), WIDTH, 2, Attend,
        name="sound.blocks",
    )
    return BridgeDiT(video, sound, heads=2, **options)  # type: ignore[arg-type]


def build_avdit() -> AVDiT:
    """A backbone of two blocks on single frames, learning along here, so that every parameter has a gradient."""
    backbone = DiT(
        partial(FrameEmbedding, in_channels=3, patch=4), partial(FrameHead, out_channels=3, patch=4), WIDTH, 2, Attend
    )
    model = AVDiT(backbone, bands=BANDS, rank=4, heads=2, frames=FRAMES, steps=STEPS)
    model.backbone.requires_grad_(True)
    return model


AUDIO_VIDEO = [
    denoiser_entry("avdit", build_avdit, 64_416, sound_clip_case, TOKENS, padded=False, start="zero"),
    denoiser_entry(
        "bridgedit", build_bridgedit, 150_518, sound_clip_case, STEPS, padded=False, start="identity", compiler="eager"
    ),
    denoiser_entry(
        "bridgedit/by token number", partial(build_bridgedit, positions="index"), 150_518, sound_clip_case, STEPS,
        padded=False, start="identity",
    ),
]
