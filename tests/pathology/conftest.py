"""A tiny StainDiffuser with weights that are nowhere zero, and a batch for it.

Shape legend: B images, s side of a tile.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from polydit.data.pathology.tiles import TileBatch
from polydit.domains.pathology.codec import StainCodec
from polydit.domains.pathology.denoiser import StainDiffuser
from polydit.domains.pathology.tissue import TissueAxis
from polydit.platform.conditioning import Conditioner
from polydit.platform.mixers import Attention
from polydit.platform.processes import LinearFlowSchedule, Process, X0Prediction
from polydit.platform.samplers import Euler
from polydit.platform.systems.diffusion import DiffusionSystem

WIDTH, TILE, PATCH = 32, 16, 4
Mixer = partial(Attention, heads=2)


@pytest.fixture(autouse=True)
def colour_deconvolution() -> None:
    """Needed by nearly every test here."""
    pytest.importorskip("skimage", reason="the extra 'pathology' is not installed")


def make_system(steps: int = 3, overlap: float = 0.5, chunk: int = 64, **options: Any) -> DiffusionSystem:
    """Untrained, with random weights throughout and a brown threshold."""
    torch.manual_seed(0)
    shared: dict[str, Any] = {"tile": TILE, "patch": PATCH, "mixer": Mixer, "overlap": overlap, "chunk": chunk}
    codec = StainCodec(TILE, max_pixels=10_000)
    process = Process(LinearFlowSchedule(), X0Prediction())
    system = DiffusionSystem(
        codec, StainDiffuser(WIDTH, 2, **shared, **options), process, Euler(steps),
        Conditioner(WIDTH, {"tissue": partial(TissueAxis, depth=2, **shared)}), separate_times=True,
    )
    for parameter in system.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    codec.threshold.fill_(0.05)
    return system.eval()


def make_batch(size: int = 3, seed: int = 0) -> TileBatch:
    """Noise."""
    generator = torch.Generator().manual_seed(seed)
    draw = partial(torch.randint, 0, 256, dtype=torch.uint8, generator=generator)
    names = [f"tile{number}" for number in range(size)]
    return TileBatch(
        draw((size, 3, TILE, TILE)), draw((size, 3, TILE, TILE)), draw((size, 1, TILE, TILE)) > 200, names,
        [f"slide{number % 2}" for number in range(size)], torch.arange(size),
    )
