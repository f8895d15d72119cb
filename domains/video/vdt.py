"""VDT (arXiv 2305.13311): a diffusion transformer of clips whose attention is divided into time and space.

Shape legend: F frames, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from polydit.platform.denoisers import AdaLNZero, DiT, TimeEmbedding
from polydit.platform.denoisers.frames import FactorisedBlock, FrameEmbedding, FrameHead
from polydit.platform.denoisers.modulation import Modulation
from polydit.platform.denoisers.stack import FeedForwards, Mixers
from polydit.platform.errors import ConfigurationError
from polydit.platform.mixers import Attention, TokenMixer

PUBLISHED_SIZES = {"S": (12, 384, 6), "L": (28, 1152, 16)}
"""Name -> depth, width, heads."""

PATCH = 2
"""Of the published sizes, on latents of images."""


class VDT(DiT):
    """Blocks that attend along time at each place, then within each frame, on patches of single frames.

    Published is a loss with learnt variance, twice the output channels; here the output is what the process asks for.

    Args:
        width: D.
        depth: number of blocks.
        frames: F, for counting operations; clips may have other lengths.
        in_channels: of a frame: 3 colours, or those of a latent.
        patch: side of a patch, must divide that of a frame.
        tube: frames that a patch spans; 1 as published, more for fewer tokens.
        mixer: builds the mixer within frames from the width, or several builders that the blocks take in turn; None:
            `Attention`.
        temporal: builds the mixer along time; None: as within frames.
        feedforward: builds the feed-forward from the width, or several; None: `MLP`.
        modulation: builds the modulation.
        time: builds the time embedding from the width.
        field: the field [B, F, C, Y, X].
        name: prefix of the blocks' names.
    """

    def __init__(
        self,
        width: int = 384,
        depth: int = 12,
        frames: int = 16,
        in_channels: int = 3,
        patch: int = 4,
        tube: int = 1,
        mixer: Mixers | None = None,
        temporal: Callable[[int], TokenMixer] | None = None,
        feedforward: FeedForwards | None = None,
        modulation: Callable[[int, Sequence[int]], Modulation] = AdaLNZero,
        time: Callable[[int], TimeEmbedding] = TimeEmbedding,
        field: str = "video",
        name: str = "blocks",
    ) -> None:
        super().__init__(
            partial(FrameEmbedding, field=field, in_channels=in_channels, patch=patch, tube=tube),
            partial(FrameHead, field=field, out_channels=in_channels, patch=patch, tube=tube),
            width, depth, mixer, feedforward, modulation=modulation, time=time,
            block=partial(FactorisedBlock, frames=frames // tube, temporal=temporal), name=name,
        )


def published_vdt(name: str, in_channels: int = 4, frames: int = 16) -> VDT:
    """VDT in a published size.

    Args:
        name: ``"VDT-S/2"`` or ``"VDT-L/2"``.
        in_channels: channels of a frame's latent.
        frames: F.

    Raises:
        ConfigurationError: if there is no such size.
    """
    known = {f"VDT-{size}/{PATCH}": size for size in PUBLISHED_SIZES}
    if name not in known:
        raise ConfigurationError(f"no published size {name!r}: choose one of {', '.join(known)}")
    depth, width, heads = PUBLISHED_SIZES[known[name]]
    return VDT(width, depth, frames, in_channels, PATCH, mixer=partial(Attention, heads=heads))
