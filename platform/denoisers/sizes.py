"""Published sizes of the diffusion transformer."""

from __future__ import annotations

from functools import partial

from ..errors import ConfigurationError
from ..feedforwards import MixtureOfExperts, SwiGLU, TokenRouter
from ..mixers import Attention, RotaryPosition, RotaryScaling
from .dit import DiT
from .modulation import AdaLNLoRA
from .patches import PatchEmbedding, PatchHead
from .tokens import TokenEmbedding, TokenHead

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


PUBLISHED_EXPERTS = {"S": (8, 16), "B": (8,), "L": (8,), "XL": (8,), "G": (16,)}
"""Size -> numbers of experts (arXiv 2407.11633, table 1), of which each token meets two."""

GIANT = (40, 1408, 16)
"""Depth, width, heads of size G of the same table."""


def published_dit_moe(name: str, in_channels: int = 4, learn_variance: bool = True) -> DiT:
    """DiT-MoE as published (arXiv 2407.11633), without its class-label table, which is the conditioner's.

    Every feed-forward is a mixture of SwiGLU experts of hidden width 4 D, of which a linear router without bias chooses
    two a token, weighted by their probabilities as they are; the two shared experts are one SwiGLU of hidden width 2 D.
    Train with `SideLoss("balance", 0.01)`.

    Args:
        name: size, patch 2 and experts, ``"DiT-MoE-S/2-8E2A"`` to ``"DiT-MoE-G/2-16E2A"``.
        in_channels: channels of the latent image.
        learn_variance: predict as many channels again for the variance.

    Raises:
        ConfigurationError: if there is no such size.
    """
    known = {
        f"DiT-MoE-{size}/2-{experts}E2A": (size, experts)
        for size, counts in PUBLISHED_EXPERTS.items()
        for experts in counts
    }
    if name not in known:
        raise ConfigurationError(f"no published size {name!r}: choose one of {', '.join(known)}")
    size, experts = known[name]
    depth, width, heads = {**PUBLISHED_SIZES, "G": GIANT}[size]
    return DiT(
        embedding=partial(PatchEmbedding, in_channels=in_channels),
        head=partial(PatchHead, out_channels=in_channels * (2 if learn_variance else 1)),
        width=width,
        depth=depth,
        mixer=partial(Attention, heads=heads),
        feedforward=partial(
            MixtureOfExperts, experts=experts, top_k=2, expert=partial(SwiGLU, ratio=4.0),
            router=partial(TokenRouter, renormalised=False), shared=1, shared_expert=partial(SwiGLU, ratio=2.0),
        ),
    )


FIT_SIZES = {"XL": (36, 1152, 16), "3B": (40, 2304, 24)}
"""Name -> depth, width, heads of FiTv2 (arXiv 2410.13925, table 2)."""


def published_fit(name: str, channels: int = 4, patch: int = 2, scaling: RotaryScaling | None = None) -> DiT:
    """FiTv2 as published (arXiv 2410.13925), without its class-label table, which is the conditioner's.

    Its field is ``image``, patches of images of any size and aspect ratio as `pad_images` gives them, with a mask and
    positions [B, N, 2]; half of each head turns by the row and half by the column. Train with the linear flow, velocity
    prediction and logit-normal times.

    Args:
        name: ``"FiTv2-XL/2"`` or ``"FiTv2-3B/2"``.
        channels: C of the latent image.
        patch: P.
        scaling: of the rotary positions, to sample grids larger than those of training.

    Raises:
        ConfigurationError: if there is no such size.
    """
    size = name.removeprefix("FiTv2-").removesuffix("/2")
    if name != f"FiTv2-{size}/2" or size not in FIT_SIZES:
        known = ", ".join(f"FiTv2-{size}/2" for size in FIT_SIZES)
        raise ConfigurationError(f"no published size {name!r}: choose one of {known}")
    depth, width, heads = FIT_SIZES[size]
    fields, share = {"image": channels * patch**2}, width // heads // 2
    return DiT(
        embedding=partial(TokenEmbedding, fields=fields),
        head=partial(TokenHead, fields=fields),
        width=width,
        depth=depth,
        mixer=partial(
            Attention, heads=heads, qk_norm="layer",
            rotary=partial(RotaryPosition, axes=(share, share), scaling=scaling),
        ),
        feedforward=partial(SwiGLU, ratio=8 / 3, multiple=1, bias=True),
        modulation=AdaLNLoRA,
    )
