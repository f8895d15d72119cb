"""A tiny VDT with weights that are nowhere zero, and clips for it.

Shape legend: B clips, F frames, h, w height and width in pixels.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from polydit.data.video.clips import ClipBatch, ClipFacts
from polydit.domains.video.codec import ClipCodec
from polydit.domains.video.vdt import VDT
from polydit.platform.mixers import Attention
from polydit.platform.processes import LinearFlowSchedule, Process, X0Prediction
from polydit.platform.samplers import Euler
from polydit.platform.systems.diffusion import DiffusionSystem

FRAMES, SIZE, CELL = 8, 16, 4


@pytest.fixture(autouse=True)
def packages() -> None:
    """Needed by nearly every test here."""
    for name in ("av", "PIL", "skimage"):
        pytest.importorskip(name, reason="the extra 'video' is not installed")


def make_system(steps: int = 3, **options: Any) -> DiffusionSystem:
    """Untrained, with random weights throughout."""
    torch.manual_seed(0)
    codec = ClipCodec(FRAMES, SIZE, 12.5, CELL, **options)
    denoiser = VDT(32, 2, FRAMES, 3, 4, mixer=partial(Attention, heads=2))
    system = DiffusionSystem(codec, denoiser, Process(LinearFlowSchedule(), X0Prediction()), Euler(steps))
    for parameter in system.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return system.eval()


def make_batch(size: int = 6, seed: int = 0) -> ClipBatch:
    """Noise."""
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randint(0, 256, (size, FRAMES, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator)
    facts = [ClipFacts(f"clip{number}", f"group{number}", None, 2) for number in range(size)]
    return ClipBatch(frames, None, torch.arange(size), facts, 12.5)
