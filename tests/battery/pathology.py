"""StainDiffuser's denoiser in the battery.

Shape legend: B images, N tokens of a tile.
"""

from __future__ import annotations

from functools import partial

import torch

from polydit.domains.pathology.denoiser import StainDiffuser
from polydit.platform.mixers import Attention
from polydit.platform.state import Condition, Layout, Tokens

from .entry import WIDTH, Case, denoiser_entry

TOKENS = 4


def stain_case(padding: int) -> Case:
    """Three tiles of 8 pixels, stain and mask at noise levels of their own; tiles are never padded."""
    draw = partial(torch.randn, generator=torch.Generator().manual_seed(10))
    x_t = {"stain": draw(3, 3, 8, 8), "mask": draw(3, 1, 8, 8)}
    condition = Condition(tokens={"tissue": Tokens(draw(3, TOKENS, WIDTH))})
    times = {"stain": torch.tensor([0.1, 0.5, 0.9]), "mask": torch.tensor([0.7, 0.2, 0.4])}
    return Case(x_t, times, condition, Layout({name: tuple(value.shape) for name, value in x_t.items()}))


Tiny = partial(StainDiffuser, WIDTH, 2, tile=8, patch=4, mixer=partial(Attention, heads=2))

PATHOLOGY = [
    denoiser_entry(
        "stain diffuser", partial(Tiny, mask_depth=1), 85_856, stain_case, TOKENS, padded=False, start="zero",
        compiler="eager",
    ),
    denoiser_entry(
        "stain diffuser/cross-attention", partial(Tiny, cross_attention=True, heads=2), 121_920, stain_case, TOKENS,
        condition_tokens=TOKENS, padded=False, start="zero",
    ),
]
