"""DiT-MoE, Switch-DiT and FiTv2 in the battery."""

from __future__ import annotations

from functools import partial

from polydit.platform.denoisers import (
    DiT,
    PatchEmbedding,
    PatchHead,
    SinCosPosition,
    SwitchBlock,
    TokenEmbedding,
    TokenHead,
)
from polydit.platform.feedforwards import MixtureOfExperts, SwiGLU, TokenRouter
from polydit.platform.mixers import Attention

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

BACKBONES = [
    denoiser_entry("dit-moe", partial(Tokens, feedforward=DiTMoE), 86_787, token_case, max(LENGTHS)),
    denoiser_entry("dit-moe/images", partial(Images, feedforward=DiTMoE), 88_064, image_case, 8, padded=False),
    denoiser_entry("switch-dit", partial(Tokens, block=SwitchBlock), 56_073, token_case, max(LENGTHS)),
    denoiser_entry(
        "switch-dit/images", partial(Images, block=partial(SwitchBlock, experts=2)), 55_172, image_case, 8, padded=False
    ),
]
