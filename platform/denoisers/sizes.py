"""Published sizes of the diffusion transformer."""

from __future__ import annotations

from functools import partial

from ..errors import ConfigurationError
from ..mixers import Attention
from .dit import DiT
from .patches import PatchEmbedding, PatchHead

PUBLISHED_SIZES = {"S": (12, 384, 6), "B": (12, 768, 12), "L": (24, 1024, 16), "XL": (28, 1152, 16)}
"""Name -> depth, width, heads (arXiv 2212.09748, table 1)."""

PUBLISHED_PATCHES = (2, 4, 8)
"""Patch sizes of the same table."""


def published_dit(name: str, in_channels: int = 4, learn_variance: bool = True) -> DiT:
    """DiT as published, without its class-label table, which is the conditioner's.

    Args:
        name: size and patch, ``"DiT-S/2"`` to ``"DiT-XL/8"``.
        in_channels: channels of the latent image.
        learn_variance: predict as many channels again for the variance.

    Raises:
        ConfigurationError: if there is no such size.
    """
    known = {f"DiT-{size}/{patch}": (size, patch) for size in PUBLISHED_SIZES for patch in PUBLISHED_PATCHES}
    if name not in known:
        raise ConfigurationError(f"no published size {name!r}: choose one of {', '.join(known)}")
    size, patch = known[name]
    depth, width, heads = PUBLISHED_SIZES[size]
    return DiT(
        embedding=partial(PatchEmbedding, in_channels=in_channels, patch=patch),
        head=partial(PatchHead, out_channels=in_channels * (2 if learn_variance else 1), patch=patch),
        width=width,
        depth=depth,
        mixer=partial(Attention, heads=heads),
    )
