"""VDT in the battery.

Shape legend: B clips, F frames, C channels, Y, X rows and columns.
"""

from __future__ import annotations

from functools import partial

import torch

from polydit.domains.video.vdt import VDT
from polydit.platform.mixers import Attention, RotaryPosition
from polydit.platform.state import Condition, Layout

from .entry import WIDTH, Case, denoiser_entry

FRAMES, TOKENS = 4, 16


def clip_case(padding: int, tube: int = 1) -> Case:
    """Three clips of four times `tube` frames of 8 pixels, with a label; clips are never padded."""
    draw = partial(torch.randn, generator=torch.Generator().manual_seed(11))
    video = draw(3, FRAMES * tube, 3, 8, 8)
    label = Condition({"label": draw(3, WIDTH)})
    return Case({"video": video}, torch.tensor([0.1, 0.5, 0.9]), label, Layout({"video": tuple(video.shape)}))


Tiny = partial(VDT, WIDTH, 2, FRAMES, 3, 4, mixer=partial(Attention, heads=2))

VIDEO = [
    denoiser_entry("vdt", Tiny, 63_056, clip_case, TOKENS, padded=False, start="identity", compiler="eager"),
    denoiser_entry(
        "vdt/patches of two frames", partial(VDT, WIDTH, 2, 2 * FRAMES, 3, 4, 2, mixer=partial(Attention, heads=2)),
        66_176, partial(clip_case, tube=2), TOKENS, padded=False, start="identity",
    ),
    denoiser_entry(
        "vdt/rotary", partial(
            VDT, WIDTH, 2, FRAMES, 3, 4,
            mixer=partial(Attention, heads=2, rotary=partial(RotaryPosition, axes=(8, 8))),
            temporal=partial(Attention, heads=2, rotary=RotaryPosition),
        ), 63_056, clip_case, TOKENS, padded=False, start="identity",
    ),
]
