"""Every plug-in, one entry each.

To add one: a line here, with the class, its options and its number of parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from polydit.domains.chemistry.adit import AtomAutoencoder
from polydit.domains.chemistry.adit.autoencoder import CoordinateChannels
from polydit.domains.chemistry.adit.fractional import PlainCode
from polydit.domains.chemistry.augmentation import CanonicalPose
from polydit.platform.denoisers import (
    AdaLNSingle,
    DiT,
    LearntPosition,
    PatchEmbedding,
    PatchHead,
    RMSNorm,
    SinCosPosition,
    TimeEmbedding,
    TokenEmbedding,
    TokenHead,
    TransformerBlock,
    TransformerStack,
)
from polydit.platform.feedforwards import MLP, MixtureOfExperts, NoiseRouter, SwiGLU, TokenNoiseRouter, TokenRouter
from polydit.platform.mixers import (
    Attention,
    CrossAttention,
    DistanceBias,
    GeometricAttention,
    RotaryPosition,
    WrittenAttention,
)

from .audio_video import AUDIO_VIDEO
from .backbones import BACKBONES
from .caches import under_caches
from .chemistry import GFMDIFF, atom_case, run_autoencoder, unpad_atoms
from .entry import CONDITION_TOKENS, LENGTHS, WIDTH, Entry, Outputs, denoiser_entry, image_case, stack_case, token_case
from .experts import EXPERT_POLICIES, seeded
from .pathology import PATHOLOGY
from .policies import POLICIES
from .pose import POSE
from .video import VIDEO
from .vision import VISION

TOKENS = max(LENGTHS)
Embed = partial(TokenEmbedding, fields={"latent": 3}, channels={"self_condition": 3}, position=SinCosPosition)
Attend = partial(Attention, heads=2)
Experts = partial(MixtureOfExperts, experts=3, expert=partial(MLP, ratio=2.0))
TWO_FIELDS = {"place": 3, "kind": 2}


def tiny(**options: Any) -> Callable[[], DiT]:
    """Builder of a DiT of width 32 and two blocks, with these parts instead of the default ones."""
    head = partial(TokenHead, fields={"latent": 3})
    parts: dict[str, Any] = {"width": WIDTH, "depth": 2, "embedding": Embed, "head": head, "mixer": Attend}
    return partial(DiT, **{**parts, **options})


def of_tokens(
    name: str, parameters: int, *, condition_tokens: int = 0, case: Any = token_case, **options: Any
) -> Entry:
    """Entry of a tiny DiT on sets of tokens; what `denoiser_entry` does not know goes to the DiT."""
    known = {key: options.pop(key) for key in ("start", "compiler") if key in options}
    return denoiser_entry(name, tiny(**options), parameters, case, TOKENS, condition_tokens=condition_tokens, **known)


def stack_operations(model: nn.Module) -> tuple[int, int]:
    """Counted and claimed operations of a plain stack."""
    x, ctx = stack_case(0)
    ctx.attention = WrittenAttention()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x, ctx)
    return counter.get_total_flops(), x.shape[0] * model.cost(x.shape[1])


def unpad_stack(outputs: Outputs, padding: int) -> Outputs:
    """Real tokens of a plain stack, whose padded tokens are not cleared."""
    mask = token_case(0).layout.masks["latent"]
    return {"x": outputs["x"][:, : outputs["x"].shape[1] - padding] * mask[..., None]}


ENTRIES = [
    of_tokens("dit", 49_539, compiler="inductor"),
    # mixers
    of_tokens("attention/norm of heads", 49_603, mixer=partial(Attend, qk_norm="head")),
    of_tokens("attention/norm of width", 49_667, mixer=partial(Attend, qk_norm="width")),
    of_tokens("attention/causal", 49_539, mixer=partial(Attend, causal=True)),
    of_tokens("attention/no bias", 49_283, mixer=partial(Attend, bias=False)),
    of_tokens("attention/rotary", 49_539, mixer=partial(Attend, rotary=RotaryPosition)),
    of_tokens(
        "attention/rotary in space", 49_539,
        mixer=partial(Attend, rotary=partial(RotaryPosition, axes=(6, 4, 4), base=10.0)),
        embedding=partial(Embed, position=None), case=partial(token_case, axes=3), compiler="eager",
    ),
    of_tokens(
        "attention/biased by distance", 49_603, mixer=partial(Attend, pair_bias=DistanceBias),
        embedding=partial(Embed, points="latent", point_unit=1.5), compiler="eager",
    ),
    of_tokens(
        "attention/geometric", 54_723, mixer=partial(GeometricAttention, heads=2),
        embedding=partial(Embed, points="latent", point_unit=1.5), compiler="eager",
    ),
    of_tokens(
        "attention/geometric with estimate", 59_907, mixer=partial(GeometricAttention, heads=2, estimate=True),
        embedding=partial(Embed, points="latent", point_unit=1.5, estimate="self_condition"), compiler="eager",
    ),
    of_tokens(
        "cross-attention", 58_179, cross_attention=partial(CrossAttention, heads=2, axes=("text",), qk_norm="head"),
        condition_tokens=CONDITION_TOKENS, compiler="eager",
    ),
    # conditions in context
    of_tokens("in context/with modulation", 49_539, in_context=("text",), condition_tokens=CONDITION_TOKENS),
    of_tokens(
        "in context/instead of modulation", 35_075, in_context=("time", "label", "text"), block=TransformerBlock,
        head=partial(TokenHead, fields={"latent": 3}, modulated=False), condition_tokens=CONDITION_TOKENS + 2,
        start="zero", compiler="eager",
    ),
    of_tokens(
        "in context/rotary", 49_539, in_context=("label",), mixer=partial(Attend, rotary=RotaryPosition),
        condition_tokens=1,
    ),
    # feed-forwards
    of_tokens("mlp/gelu", 49_539, feedforward=partial(MLP, activation="gelu")),
    of_tokens("mlp/silu", 41_219, feedforward=partial(MLP, activation="silu", ratio=2.0)),
    of_tokens("mlp/relu", 49_219, feedforward=partial(MLP, activation="relu", bias=False)),
    of_tokens("swiglu", 49_731, feedforward=SwiGLU),
    of_tokens("experts/token router", 58_179, feedforward=partial(Experts, router=TokenRouter)),
    of_tokens(
        "experts/token and noise router", 83_715,
        feedforward=partial(Experts, router=TokenNoiseRouter, expert=SwiGLU),
    ),
    seeded(of_tokens("experts/noise router", 62_601, feedforward=partial(Experts, router=NoiseRouter))),
    of_tokens("experts/shared", 66_563, feedforward=partial(Experts, shared=1)),
    # modulation, norms, time
    of_tokens("adaln-single", 41_539, modulation=AdaLNSingle),
    of_tokens("rms norm", 49_539, norm=RMSNorm),
    of_tokens("time/unscaled", 49_539, time=partial(TimeEmbedding, scale=1.0)),
    # positions
    of_tokens("position/none", 49_539, embedding=partial(Embed, position=None)),
    of_tokens("position/learnt", 50_051, embedding=partial(Embed, position=partial(LearntPosition, count=16))),
    of_tokens(
        "position/atom index", 49_539,
        embedding=partial(Embed, position=partial(SinCosPosition, base=2048, scale=math.pi)),
    ),
    of_tokens("position/plane", 49_539, case=partial(token_case, axes=2)),
    # fields, conditions and levels of other shapes
    of_tokens(
        "two fields with levels of their own", 57_861, embedding=partial(Embed, fields=TWO_FIELDS),
        head=partial(TokenHead, fields=TWO_FIELDS), time=partial(TimeEmbedding, fields=tuple(TWO_FIELDS)),
        case=partial(token_case, fields=TWO_FIELDS, times=True),
    ),
    replace(of_tokens("level and label per token", 49_539, case=partial(token_case, per_token=True)), operations=None),
    denoiser_entry(
        "patches", tiny(embedding=PatchEmbedding, head=partial(PatchHead, out_channels=8)), 50_816, image_case, 8,
        padded=False,
    ),
    denoiser_entry(
        "patches/rotary",
        tiny(
            embedding=PatchEmbedding, head=PatchHead, mixer=partial(Attend, rotary=partial(RotaryPosition, axes=(8, 8)))
        ),
        50_288, image_case, 8, padded=False,
    ),
    *POLICIES,
    *PATHOLOGY,
    *EXPERT_POLICIES,
    *BACKBONES,
    # without a denoiser around it
    Entry(
        name="transformer stack", build=partial(TransformerStack, WIDTH, 2, Attend), inputs=stack_case,
        run=lambda model, inputs: {"x": model(*inputs)}, parameters=25_472, unpad=unpad_stack,
        operations=stack_operations,
    ),
    Entry(
        name="adit autoencoder", build=partial(AtomAutoencoder, WIDTH, 1, 2, 4, encode_cell=True), inputs=atom_case,
        run=run_autoencoder, parameters=36_548, unpad=unpad_atoms,
    ),
    Entry(
        name="adit autoencoder/published", build=partial(AtomAutoencoder, WIDTH, 1, 2, 4, fractional=PlainCode()),
        inputs=atom_case, run=run_autoencoder, parameters=35_108, unpad=unpad_atoms,
    ),
    Entry(
        name="adit autoencoder/coordinates in the latent",
        build=partial(
            AtomAutoencoder, WIDTH, 1, 2, 6, mixer=partial(GeometricAttention, heads=2),
            coordinates=CoordinateChannels(), pose=CanonicalPose(),
        ),
        inputs=atom_case, run=run_autoencoder, parameters=40_676, unpad=unpad_atoms,
    ),
    *GFMDIFF,
    *POSE,
    *VISION,
    *VIDEO,
    *AUDIO_VIDEO,
]

ENTRIES = under_caches(ENTRIES)
