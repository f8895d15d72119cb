"""Parameters and cost of every published DiT and SiT, counted without memory for the weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from polydit.platform.denoisers.sizes import PUBLISHED_SIZES, published_dit

CLASSES = 1000

PARAMETERS = {
    "DiT-S/2": 32_865_056, "DiT-B/2": 130_315_808, "DiT-L/2": 457_840_672, "DiT-XL/2": 674_834_720,
    "SiT-S/2": 32_858_896, "SiT-B/2": 130_303_504, "SiT-L/2": 457_824_272, "SiT-XL/2": 674_816_272,
}  # trainable weights of the public models, label table included; a SiT predicts no variance

MULTIPLY_ADDS = {
    "S/8": 0.36, "S/4": 1.41, "S/2": 6.06, "B/8": 1.42, "B/4": 5.56, "B/2": 23.01, "L/8": 5.01, "L/4": 19.70,
    "L/2": 80.71, "XL/8": 7.39, "XL/4": 29.05, "XL/2": 118.64,
}  # thousand millions at 256 x 256 pixels (arXiv 2212.09748, table 4), there called GFLOPs


def build(name: str) -> nn.ModuleList:
    """A model and its label table, on no device."""
    kind, _, size = name.partition("-")
    with torch.device("meta"):
        model = published_dit(f"DiT-{size}", learn_variance=kind == "DiT")
        return nn.ModuleList([model, nn.Embedding(CLASSES + 1, model.width)])


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_those_of_the_public_models(name: str) -> None:
    assert sum(p.numel() for p in build(name).parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("patch", [2, 4, 8])
@pytest.mark.parametrize("size", PUBLISHED_SIZES)
@pytest.mark.parametrize("kind", ["DiT", "SiT"])
def test_parameters_follow_the_closed_form(kind: str, size: str, patch: int) -> None:
    depth, width, _ = PUBLISHED_SIZES[size]
    outputs = patch**2 * 4 * (2 if kind == "DiT" else 1)
    expected = (
        depth * (18 * width**2 + 15 * width)  # blocks with their modulation
        + (4 * patch**2 + 1) * width  # patches in
        + (2 * width**2 + 2 * width) + (width + 1) * outputs  # the head's modulation, patches out
        + (256 + 1) * width + (width + 1) * width  # noise level
        + (CLASSES + 1) * width
    )
    assert sum(p.numel() for p in build(f"{kind}-{size}/{patch}").parameters()) == expected


@pytest.mark.parametrize("name", MULTIPLY_ADDS)
def test_cost_is_that_of_the_publication(name: str) -> None:
    with torch.device("meta"):
        model = published_dit(f"DiT-{name}")
    tokens = (32 // int(name[-1])) ** 2
    assert model.cost(tokens) / 2e9 == pytest.approx(MULTIPLY_ADDS[name], abs=0.006 + 2e-4 * MULTIPLY_ADDS[name])
    depth, width = len(model.blocks), model.width
    blocks = depth * (12 * tokens * width**2 + 2 * tokens**2 * width + 6 * width**2)
    assert blocks < model.cost(tokens) / 2 < 1.04 * blocks
