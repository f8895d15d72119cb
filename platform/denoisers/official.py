"""Weights of the published DiT, in the layout of its own checkpoints (facebookresearch/DiT), key by key and both ways.

Shape legend: L layers, D width, C channels, P patch size, N tokens.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import cast

import torch
from safetensors.torch import load_file
from torch import Tensor

from ..errors import CheckpointError, ConfigurationError
from ..mixers import Attention
from .dit import DiT
from .patch_tokens import number_patches
from .patches import PatchEmbedding, PatchHead
from .positions import SinCosPosition
from .sizes import PUBLISHED_SIZES

OUTER = {
    "x_embedder.proj": "embedding.linear",
    "t_embedder.mlp.0": "time.expand",
    "t_embedder.mlp.2": "time.contract",
    "final_layer.linear": "head.linear",
}
"""Their module -> ours, each with a weight and a bias."""

INNER = {"attn.qkv": "mixer.qkv", "attn.proj": "mixer.output", "mlp.fc1": "feedforward.expand",
         "mlp.fc2": "feedforward.contract"}  # fmt: skip
"""The same, within ``blocks.{i}``."""

TABLE, POSITIONS, KINDS = "y_embedder.embedding_table.weight", "pos_embed", ("weight", "bias")


def read_official(path: str | Path) -> dict[str, Tensor]:
    """Weights of a published file, ``.pt`` or ``.safetensors``; of a training checkpoint, its moving average.

    Raises:
        CheckpointError: if there is no such file, or it holds anything but weights.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path} does not exist: give the path of a .pt or .safetensors file")
    if path.suffix == ".safetensors":
        return load_file(path)
    try:
        # training checkpoints keep their options, which are plain values
        with torch.serialization.safe_globals([Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{path} is no file of weights alone ({error}): only such files are read") from error
    weights = content.get("ema", content.get("model", content)) if isinstance(content, dict) else content
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise CheckpointError(f"{path} holds no state dict, nor one under 'ema' or 'model': it is no checkpoint of DiT")
    return weights


def dit_from_official(weights: Mapping[str, Tensor], heads: int | None = None) -> tuple[DiT, Tensor]:
    """A `DiT` that computes what the published model of these weights computes.

    Its field is ``image``, its step k is the time t = k / 1000, and its class enters as a condition vector, a row of
    the returned table. Patch size, width, depth and channels are those of the weights.

    Args:
        weights: state dict of the published model.
        heads: number of heads, which the weights do not tell; None: that of the published size of the same width and
            depth.

    Returns:
        the denoiser, and the label table [classes + 1, D] whose last row is the null label.

    Raises:
        CheckpointError: if weights are missing, left over, of other shapes, or positions are not the published ones.
        ConfigurationError: if `heads` is needed.
    """
    for key in (TABLE, POSITIONS, "x_embedder.proj.weight", "final_layer.linear.weight"):
        if key not in weights:
            raise CheckpointError(f"weights have no {key!r}: this is not the layout of the published DiT")
    width, channels, patch, _ = weights["x_embedder.proj.weight"].shape
    depth = 1 + max((int(key.split(".")[1]) for key in weights if key.startswith("blocks.")), default=-1)
    out_channels = len(weights["final_layer.linear.weight"]) // patch**2
    model = DiT(
        embedding=partial(PatchEmbedding, in_channels=channels, patch=patch),
        head=partial(PatchHead, out_channels=out_channels, patch=patch),
        width=width,
        depth=depth,
        mixer=partial(Attention, heads=heads or published_heads(depth, width)),
    )
    check_positions(weights[POSITIONS], width)
    names = name_weights(depth)
    theirs = {*names, *(key for group in modulation_keys(depth).values() for key in group), TABLE, POSITIONS}
    if theirs != set(weights):
        missing, unexpected = sorted(theirs - set(weights)), sorted(set(weights) - theirs)
        raise CheckpointError(f"weights lack {missing} and leave over {unexpected}: this is not the published DiT")
    state = {ours: weights[key] for key, ours in names.items()}
    state["embedding.linear.weight"] = state["embedding.linear.weight"].flatten(1)
    state |= {ours: torch.cat([weights[key] for key in keys]) for ours, keys in modulation_keys(depth).items()}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(f"weights do not fit a DiT of width {width} and depth {depth}: {error}") from error
    return model, weights[TABLE]


def dit_to_official(model: DiT, table: Tensor, grid: tuple[int, int]) -> dict[str, Tensor]:
    """State dict of the published layout, which its code loads.

    Args:
        model: as `dit_from_official` or `polydit.platform.denoisers.sizes.published_dit` makes it.
        table: [classes + 1, D] of labels, the last the null.
        grid: rows and columns of patches, whose positions the layout holds too.

    Raises:
        ConfigurationError: if the model has parts that the published one has not.
    """
    state, names = model.state_dict(), name_weights(model.depth)
    keys = modulation_keys(model.depth)
    if set(state) != {*names.values(), *keys}:
        wrong = sorted(set(state) ^ {*names.values(), *keys})
        raise ConfigurationError(f"{wrong} are not of the published architecture, whose layout has no place for others")
    embedding = cast(PatchEmbedding, model.embedding)
    result = {key: state[ours] for key, ours in names.items()}
    patches = result["x_embedder.proj.weight"].unflatten(1, (-1, embedding.patch, embedding.patch))
    result["x_embedder.proj.weight"] = patches
    for ours, parts in keys.items():
        sizes = [6 * model.width] * model.depth + [2 * model.width]
        result |= dict(zip(parts, state[ours].split(sizes), strict=True))
    return {**result, TABLE: table, POSITIONS: published_positions(grid, model.width).to(table)}


def name_weights(depth: int) -> dict[str, str]:
    """Their key -> ours, where a weight stands for a weight."""
    blocks = range(depth)
    modules = OUTER | {f"blocks.{i}.{theirs}": f"blocks.{i}.{ours}" for i in blocks for theirs, ours in INNER.items()}
    return {f"{theirs}.{kind}": f"{ours}.{kind}" for theirs, ours in modules.items() for kind in KINDS}


def modulation_keys(depth: int) -> dict[str, list[str]]:
    """Our joint modulation -> the parts that theirs is in, each block's and the head's."""
    modules = [*(f"blocks.{i}" for i in range(depth)), "final_layer"]
    return {f"modulation.linear.{kind}": [f"{name}.adaLN_modulation.1.{kind}" for name in modules] for kind in KINDS}


def published_heads(depth: int, width: int) -> int:
    """Heads of the published size of this depth and width.

    Raises:
        ConfigurationError: if there is none.
    """
    for size in PUBLISHED_SIZES.values():
        if size[:2] == (depth, width):
            return size[2]
    raise ConfigurationError(f"no published size has depth {depth} and width {width}: set `heads`")


def published_positions(grid: tuple[int, int], width: int) -> Tensor:
    """[1, N, D] sines and cosines of column, then row."""
    positions = number_patches(grid)[None, :, 1:]
    return SinCosPosition(width, axes=(1, 0))(torch.zeros(1, positions.shape[1], width), positions)


def check_positions(found: Tensor, width: int) -> None:
    """Refuse positions that are not those of a square grid, which is how the published ones are.

    Raises:
        CheckpointError: if they differ.
    """
    side = round(found.shape[1] ** 0.5)
    expected = published_positions((side, side), width)
    if found.shape != expected.shape or not torch.allclose(found.float().cpu(), expected, atol=1e-3):
        raise CheckpointError(
            f"{POSITIONS} {tuple(found.shape)} is not the fixed table of a square grid, which `DiT` computes itself: "
            "these weights are of another model"
        )
