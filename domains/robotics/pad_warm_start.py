"""PAD from an image model: weights of a diffusion transformer that was trained on single latent images.

Shape legend: D width, K frames, C channels, P patch size.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from polydit.platform.denoisers import DiT, PatchEmbedding, PatchHead
from polydit.platform.errors import CheckpointError

from .pad import PAD
from .pad_parts import JointEmbedding


@torch.no_grad()
def warm_start(model: PAD, source: DiT) -> None:
    """Give `model` the weights of `source`, in place, so that it at first denoises each of its frames as that did.

    Each of the K frames gets a K-th of the source's patch weights, so that K copies of one noised image become the
    token that the image became; the frames seen get zeros, and every frame gets the source's outputs (of noise alone,
    where it also learnt a variance). Blocks, time embedding and modulation are copied; what the source has not,
    actions, depth and their modulation, stays as it is. The instruction's axis must start at zero too, as
    `InstructionVectorAxis` does; the label table of a class-conditional source is not used.

    Args:
        model: to be changed.
        source: of the same width, depth, patch, channels and time embedding, such as `dit_from_diffusers` gives.

    Raises:
        CheckpointError: if the source is another kind of model or of another size, naming what differs.
    """
    _check(model, source)
    pictures = cast(JointEmbedding, model.embedding).pictures["image"]
    K, C, P = pictures.frames, pictures.channels, pictures.patch
    into, given = model.state_dict(), source.state_dict()
    for name, value in given.items():
        if name.startswith(("blocks.", "time.")):
            into[name].copy_(value)
    frame = given["embedding.linear.weight"] / K
    into["embedding.linears.image.weight"].copy_(
        torch.cat([frame] * K + [torch.zeros_like(frame)] * pictures.history, dim=1)
    )
    into["embedding.linears.image.bias"].copy_(given["embedding.linear.bias"])
    for kind in ("weight", "bias"):
        rows: Tensor = given[f"head.linear.{kind}"].unflatten(0, (P * P, -1))[:, :C]
        into[f"head.linears.image.{kind}"].copy_(torch.cat([rows] * K, dim=1).flatten(0, 1))
        known = given[f"modulation.linear.{kind}"]
        into[f"modulation.linear.{kind}"][: len(known)].copy_(known)


def _check(model: PAD, source: DiT) -> None:
    embedding, head = source.embedding, source.head
    if not (isinstance(embedding, PatchEmbedding) and isinstance(head, PatchHead)):
        raise CheckpointError(f"{type(embedding).__name__} and {type(head).__name__}: the source is no image model")
    pictures = cast(JointEmbedding, model.embedding).pictures["image"]
    channels = embedding.linear.in_features // embedding.patch**2
    time, own = source.time, model.time
    ours = {
        "width": model.width, "blocks": model.depth, "patch": pictures.patch, "channels": pictures.channels,
        "time embedding": (own.frequencies, own.base, own.scale, own.include_base),
    }
    theirs = {
        "width": source.width, "blocks": source.depth, "patch": embedding.patch, "channels": channels,
        "time embedding": (time.frequencies, time.base, time.scale, time.include_base),
    }
    different = {name: (theirs[name], value) for name, value in ours.items() if theirs[name] != value}
    if different:
        told = ", ".join(f"{name} {given} (model: {wanted})" for name, (given, wanted) in different.items())
        raise CheckpointError(f"the source does not fit: {told}. Build the model with the source's settings")
