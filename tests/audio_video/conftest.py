"""Two tiny towers with weights that are nowhere zero, and clips with sound for them.

Shape legend: B clips, F frames, h, w height and width in pixels, S samples.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from polydit.data.video.clips import ClipBatch, ClipFacts
from polydit.domains.audio_video.bridgedit import BridgeDiT
from polydit.domains.audio_video.codec import SoundClipCodec
from polydit.domains.audio_video.mel import GriffinLim, MelSpectrogram
from polydit.platform.denoisers import DiT, TokenEmbedding, TokenHead
from polydit.platform.denoisers.frames import FactorisedBlock, FrameEmbedding, FrameHead
from polydit.platform.mixers import Attention
from polydit.platform.processes import Process
from polydit.platform.samplers import Euler
from polydit.platform.systems.diffusion import DiffusionSystem

FRAMES, SIZE, BANDS = 4, 8, 8


@pytest.fixture(autouse=True)
def packages() -> None:
    """Needed by nearly every test here."""
    for name in ("librosa", "soundfile", "av", "PIL"):
        pytest.importorskip(name, reason="the extra 'audio' is not installed")


def make_towers(width: int = 32, sound_width: int = 16, depth: int = 3, tube: int = 1) -> tuple[DiT, DiT]:
    """One for frames and one for sound."""
    video = DiT(
        partial(FrameEmbedding, in_channels=3, patch=4, tube=tube),
        partial(FrameHead, out_channels=3, patch=4, tube=tube), width, depth, partial(Attention, heads=2),
        block=partial(FactorisedBlock, frames=FRAMES // tube), name="video.blocks",
    )
    sound = DiT(
        partial(TokenEmbedding, fields={"sound": BANDS}), partial(TokenHead, fields={"sound": BANDS}), sound_width,
        depth, partial(Attention, heads=2), name="sound.blocks",
    )
    return video, sound


def make_model(seed: int = 0, bridges: bool = True, tube: int = 1, **options: Any) -> BridgeDiT:
    """Random weights throughout, in the bridges only if `bridges`."""
    torch.manual_seed(seed)
    model = BridgeDiT(*make_towers(tube=tube), heads=2, **options)
    for name, parameter in model.named_parameters():
        if bridges or not name.startswith("bridges"):
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


def make_codec(**options: Any) -> SoundClipCodec:
    """Half a second at 8 frames and 2,000 samples a second."""
    mel = MelSpectrogram(2000, BANDS, 50, 100, vocoder=GriffinLim(4))
    return SoundClipCodec(FRAMES, SIZE, 8.0, mel, **options)


def make_system(steps: int = 3, codec: dict[str, Any] | None = None, **options: Any) -> DiffusionSystem:
    model, made = make_model(**options), make_codec(**(codec or {}))
    return DiffusionSystem(made, model, Process.flow_matching(), Euler(steps)).eval()


def make_batch(size: int = 4, seed: int = 0) -> ClipBatch:
    """Noise seen and heard."""
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randint(0, 256, (size, FRAMES, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator)
    sound = 0.1 * torch.randn(size, 1000, generator=generator)
    facts = [ClipFacts(f"clip{number}", f"group{number}", np.array([0.1, 0.3]), 2) for number in range(size)]
    return ClipBatch(frames, sound, torch.arange(size), facts, 8.0, 2000)
