"""Digits, a tiny model of them with weights that are nowhere zero, and a batch.

Shape legend: B images, C channels, h, w height and width.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from polydit.data.vision.builtin import ArraySet
from polydit.data.vision.datamodule import ImageDataModule
from polydit.data.vision.decoding import Decoder
from polydit.data.vision.pictures import ImageBatch, ImageSet, ImageSource
from polydit.domains.vision.codec import ImageCodec
from polydit.platform.conditioning import CategoricalAxis, Conditioner
from polydit.platform.denoisers import DiT, PatchEmbedding, PatchHead
from polydit.platform.mixers import Attention
from polydit.platform.processes import Process
from polydit.platform.samplers import Euler
from polydit.platform.systems.diffusion import DiffusionSystem

WIDTH, SIZE = 32, 8


@pytest.fixture(autouse=True)
def pillow() -> None:
    """Needed by nearly every test here."""
    pytest.importorskip("PIL", reason="the extra 'vision' is not installed")


class Stripes(ImageSource):
    """Three classes of noisy grey images: rows, columns and checks, each with a brightness of its own.

    Args:
        count: images.
        side: their height and width.
    """

    def __init__(self, count: int = 120, side: int = SIZE) -> None:
        self.count, self.side = count, side

    def open(self) -> ImageSet:
        generator = np.random.default_rng(0)
        y, x = np.mgrid[: self.side, : self.side]
        patterns = np.stack([y % 2, x % 2, (y + x) % 2])
        labels = np.arange(self.count) % 3
        level = generator.uniform(80, 200, (self.count, 1, 1))
        noise = generator.normal(0, 12, (self.count, self.side, self.side))
        images = (patterns[labels] * level + noise + 20).clip(0, 255).astype(np.uint8)
        return ArraySet(images, labels, ("row", "column", "check"), "stripe")


def make_data(**options: Any) -> ImageDataModule:
    """Stripes in a data module."""
    chosen: dict[str, Any] = {
        "sources": [Stripes()], "size": SIZE, "decoder": Decoder(channels=1), "batch_size": 16, **options,
    }
    return ImageDataModule(**chosen)


def make_system(
    codec: ImageCodec | None = None, channels: int = 1, out: int | None = None, **options: Any
) -> DiffusionSystem:
    """Untrained, with random weights throughout."""
    torch.manual_seed(0)
    codec = codec or ImageCodec(SIZE, 1, 3)
    denoiser = DiT(
        partial(PatchEmbedding, in_channels=channels), partial(PatchHead, out_channels=out or channels), WIDTH, 2,
        partial(Attention, heads=2),
    )
    chosen: dict[str, Any] = {"process": Process.flow_matching(), "sampler": Euler(3), **options}
    system = DiffusionSystem(
        codec, denoiser, conditioner=Conditioner(WIDTH, {"class": partial(CategoricalAxis, num_classes=3)}), **chosen
    )
    for parameter in system.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return system.eval()


def make_batch(size: int = 4, channels: int = 1, side: int = SIZE, seed: int = 0) -> ImageBatch:
    """Noise."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (size, channels, side, side), dtype=torch.uint8, generator=generator)
    return ImageBatch(images, torch.arange(size) % 3, torch.arange(size), [f"image {i}" for i in range(size)])
