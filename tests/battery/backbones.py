"""DiT-MoE, Switch-DiT and FiTv2 in the battery."""

from __future__ import annotations

from functools import partial
from typing import Any

from polydit.platform.denoisers import (
    AdaLNLoRA,
    DiT,
    PatchEmbedding,
    PatchHead,
    SinCosPosition,
    SwitchBlock,
    TokenEmbedding,
    TokenHead,
)
from polydit.platform.feedforwards import MixtureOfExperts, SwiGLU, TokenRouter
from polydit.platform.mixers import Attention, RotaryPosition, YaRNRotary

from .entry import LENGTHS, WIDTH, denoiser_entry, image_case, token_case

Attend = partial(Attention, heads=2)
Tokens = partial(
    DiT, partial(TokenEmbedding, fields={"latent": 3}, channels={"self_condition": 3}, position=SinCosPosition),
    partial(TokenHead, fields={"latent": 3}), WIDTH, 2, Attend,
)
Images = partial(DiT, PatchEmbedding, partial(PatchHead, out_channels=8), WIDTH, 2, Attend)
DiTMoE = partial(
    MixtureOfExperts, experts=3, top_k=2, expert=partial(SwiGLU, ratio=2.0),
    router=partial(TokenRouter, renormalised=False), shared=1, shared_expert=SwiGLU,
)


def turning(**options: Any) -> Any:
    """Builder of FiTv2's attention."""
    return partial(Attention, heads=2, qk_norm="layer", rotary=partial(RotaryPosition, axes=(8, 8), **options))


FiT = partial(
    DiT, partial(TokenEmbedding, fields={"latent": 3}, channels={"self_condition": 3}),
    partial(TokenHead, fields={"latent": 3}), WIDTH, 2, mixer=turning(),
    feedforward=partial(SwiGLU, ratio=8 / 3, multiple=1, bias=True), modulation=AdaLNLoRA,
)

BACKBONES = [
    denoiser_entry("dit-moe", partial(Tokens, feedforward=DiTMoE), 86_787, token_case, max(LENGTHS)),
    denoiser_entry("dit-moe/images", partial(Images, feedforward=DiTMoE), 88_064, image_case, 8, padded=False),
    denoiser_entry("fit", FiT, 47_207, partial(token_case, axes=2), max(LENGTHS), compiler="eager"),
    denoiser_entry(
        "fit/stretched", partial(FiT, mixer=turning(scaling=YaRNRotary((2.0, 1.5), (8, 8)))), 47_207,
        partial(token_case, axes=2), max(LENGTHS),
    ),
    denoiser_entry("switch-dit", partial(Tokens, block=SwitchBlock), 56_073, token_case, max(LENGTHS)),
    denoiser_entry(
        "switch-dit/images", partial(Images, block=partial(SwitchBlock, experts=2)), 55_172, image_case, 8, padded=False
    ),
]
