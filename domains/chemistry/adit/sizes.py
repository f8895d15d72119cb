"""ADiT's denoiser in its published sizes (arXiv 2503.03965, README: about 30, 150 and 450 million parameters)."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from polydit.platform.conditioning import Axis, CategoricalAxis, Conditioner
from polydit.platform.denoisers import DiT, SinCosPosition, TimeEmbedding, TokenEmbedding, TokenHead
from polydit.platform.feedforwards import MLP
from polydit.platform.mixers import Attention

SIZES = {"S": (12, 384, 6), "B": (12, 768, 12), "L": (24, 1024, 16)}
"""Name -> depth, width, heads."""


def published_denoiser(size: str, latent_channels: int = 8, time_scale: float = 1000.0) -> DiT:
    """The denoiser of a published size.

    Args:
        size: S, B or L.
        latent_channels: of the autoencoder, 8 or 4.
        time_scale: 1.0 reproduces the released code, whose sinusoid hardly tells neighbouring times apart.

    Raises:
        ValueError: if there is no such size.
    """
    if size not in SIZES:
        raise ValueError(f"no published size {size!r}: choose one of {', '.join(SIZES)}")
    depth, width, heads = SIZES[size]
    fields = {"latent": latent_channels}
    return DiT(
        embedding=partial(
            TokenEmbedding,
            fields=fields,
            channels={"self_condition": latent_channels},
            position=partial(SinCosPosition, base=2048.0, scale=math.pi),
        ),
        head=partial(TokenHead, fields=fields),
        width=width,
        depth=depth,
        mixer=partial(Attention, heads=heads),
        feedforward=partial(MLP, activation="gelu_tanh"),
        time=partial(TimeEmbedding, scale=time_scale),
    )


def published_conditioner(size: str) -> Conditioner:
    """Labels of the published model: domain and space group, each dropped with probability 0.1."""
    axes: dict[str, Callable[[int], Axis]] = {
        "domain": partial(CategoricalAxis, num_classes=2),
        "space_group": partial(CategoricalAxis, num_classes=230),
    }
    return Conditioner(SIZES[size][1], axes)
