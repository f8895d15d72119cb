"""Weights of other libraries' diffusion transformers, key by key.

Shape legend: L layers, D width, C channels, P patch size.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..mixers import Attention
from .dit import DiT
from .patches import PatchEmbedding, PatchHead
from .time import TimeEmbedding

SHARED = "norm1.emb."
"""Time and label embedding, of which diffusers keeps a copy in every block."""


def dit_from_diffusers(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> tuple[DiT, Tensor]:
    """A `DiT` that computes what diffusers' ``DiTTransformer2DModel`` computes.

    Its field is ``image``, its step k is the time t = k / 1000, and its class enters as a condition vector, a row of
    the returned table. The second norm of its blocks has ``norm_eps`` there and 1e-6 here, as in the published DiT.

    Args:
        config: the model's ``config``.
        weights: the model's ``state_dict()``.

    Returns:
        the denoiser, and the label table [classes + 1, D] whose last row is the null label.

    Raises:
        ValueError: if the configuration is beyond the published architecture, or weights are missing or left over.
    """
    check_config(config)
    shared, others = split_shared(weights, config["num_layers"])
    table = shared.pop("class_embedder.embedding_table.weight")
    model = build_like(config)
    converted = convert_weights(others, shared, config["num_layers"])
    missing, unexpected = model.load_state_dict(converted, strict=False)
    if missing or unexpected:
        raise ValueError(f"converted weights lack {missing} and leave over {unexpected}: this is not the published DiT")
    return model, table


def check_config(config: Mapping[str, Any]) -> None:
    """Refuse what the converted model could not reproduce.

    Raises:
        ValueError: naming the setting.
    """
    required = {
        "activation_fn": "gelu-approximate",
        "norm_type": "ada_norm_zero",
        "norm_elementwise_affine": False,
        "attention_bias": True,
    }
    for key, value in required.items():
        if config[key] != value:
            raise ValueError(f"{key} is {config[key]!r} and only {value!r}, the published setting, can be converted")


def build_like(config: Mapping[str, Any]) -> DiT:
    """An untrained `DiT` of the shape that diffusers' `config` describes."""
    patch, channels = config["patch_size"], config["in_channels"]
    return DiT(
        embedding=partial(PatchEmbedding, in_channels=channels, patch=patch),
        head=partial(PatchHead, out_channels=config["out_channels"] or channels, patch=patch),
        width=config["num_attention_heads"] * config["attention_head_dim"],
        depth=config["num_layers"],
        mixer=partial(Attention, heads=config["num_attention_heads"]),
        time=partial(TimeEmbedding, include_base=True),
    )


def split_shared(weights: Mapping[str, Tensor], layers: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The embedding that all blocks share, by its own keys, and all other weights.

    Raises:
        ValueError: if a block's copy of the embedding differs from the first block's; this happens after fine-tuning
            in diffusers, where nothing ties them.
    """
    first = f"transformer_blocks.0.{SHARED}"
    shared = {key.removeprefix(first): weight for key, weight in weights.items() if key.startswith(first)}
    for layer in range(1, layers):
        for key, weight in shared.items():
            if not torch.equal(weights[f"transformer_blocks.{layer}.{SHARED}{key}"], weight):
                raise ValueError(
                    f"block {layer} has a {key} of its own: the blocks must share one time and label "
                    "embedding, as in the published weights"
                )
    return shared, {key: weight for key, weight in weights.items() if SHARED not in key}


def convert_weights(weights: Mapping[str, Tensor], shared: Mapping[str, Tensor], layers: int) -> dict[str, Tensor]:
    """State dict of `DiT` from the blocks' weights and the shared time embedding."""
    result = {
        "embedding.linear.weight": weights["pos_embed.proj.weight"].flatten(1),
        "embedding.linear.bias": weights["pos_embed.proj.bias"],
        "head.linear.weight": weights["proj_out_2.weight"],
        "head.linear.bias": weights["proj_out_2.bias"],
    }
    modulations = [f"transformer_blocks.{layer}.norm1.linear" for layer in range(layers)] + ["proj_out_1"]
    for kind in ("weight", "bias"):
        result[f"time.expand.{kind}"] = shared[f"timestep_embedder.linear_1.{kind}"]
        result[f"time.contract.{kind}"] = shared[f"timestep_embedder.linear_2.{kind}"]
        result[f"modulation.linear.{kind}"] = torch.cat([weights[f"{name}.{kind}"] for name in modulations])
        for layer in range(layers):
            source, target = f"transformer_blocks.{layer}", f"blocks.{layer}"
            result[f"{target}.mixer.qkv.{kind}"] = torch.cat(
                [weights[f"{source}.attn1.to_{part}.{kind}"] for part in "qkv"]
            )
            result[f"{target}.mixer.output.{kind}"] = weights[f"{source}.attn1.to_out.0.{kind}"]
            result[f"{target}.feedforward.expand.{kind}"] = weights[f"{source}.ff.net.0.proj.{kind}"]
            result[f"{target}.feedforward.contract.{kind}"] = weights[f"{source}.ff.net.2.{kind}"]
    return result
