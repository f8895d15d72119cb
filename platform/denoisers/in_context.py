"""Conditions as extra tokens that join the sequence before its own and leave it before the head.

Shape legend: B batch, N tokens, P in-context tokens, A position axes, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..context import Context
from ..errors import ConfigurationError
from ..mixers.masks import prepend_visible, real_tokens
from ..state import Condition, Streams, Tokens
from .modulation import Vectors


def gather_tokens(names: Sequence[str], cond: Condition, time: Tensor) -> Tokens:
    """The in-context tokens [B, P, D], and which of them are real.

    Args:
        names: token groups of the condition, vectors of it (one token each), or ``time``.
        cond: the condition.
        time: the time embedding [B, D].

    Raises:
        ConfigurationError: if a name is none of these, or a vector is per token and so no single token.
    """
    groups = []
    for name in names:
        if name in cond.tokens:
            groups.append(cond.tokens[name])
            continue
        if name != "time" and name not in cond.vectors:
            raise ConfigurationError(
                f"in-context {name!r} is neither `time` nor one of the condition's vectors "
                f"{sorted(cond.vectors)} or tokens {sorted(cond.tokens)}: give one, or take it out"
            )
        vector = time if name == "time" else cond.vectors[name]
        if vector.ndim != 2:
            raise ConfigurationError(
                f"in-context {name!r} is a vector per token, of shape {tuple(vector.shape)}, and only one "
                "per sample can be a token of its own: take it out of `in_context`"
            )
        groups.append(Tokens(vector[:, None]))
    features = torch.cat([group.features for group in groups], dim=1)
    return Tokens(features, torch.cat([real_tokens(group) for group in groups], dim=1))


def prepend(h: Streams, extra: Tokens) -> Streams:
    """Streams with `extra` before the tokens of ``x``: [B, P + N, D]."""
    return {**h, "x": torch.cat([extra.features.to(h["x"].dtype), h["x"]], dim=1)}


def drop(h: Streams, extra: Tokens) -> Streams:
    """Streams without the tokens that `prepend` put before ``x``."""
    return {**h, "x": h["x"][:, extra.features.shape[1] :]}


def lengthen(modulations: Sequence[Vectors], extra: Tokens) -> list[Vectors]:
    """Modulation vectors for the longer sequence: per-token ones get zeros for the extra tokens, the rest stay."""
    count = extra.features.shape[1]

    def pad(vector: Tensor) -> Tensor:
        if vector.shape[1] == 1:
            return vector
        return torch.cat([vector.new_zeros(vector.shape[0], count, vector.shape[2]), vector], dim=1)

    return [tuple(pad(vector) for vector in vectors) for vectors in modulations]


def widen(ctx: Context, h: Streams, extra: Tokens) -> Context:
    """Context of the longer sequence: its mask, and its positions with the extra tokens at the origin.

    Args:
        ctx: the context of the sequence without them.
        h: its streams.
        extra: the extra tokens.
    """
    batch, tokens = h["x"].shape[:2]
    masks = {**ctx.masks, "x": prepend_visible(ctx.masks.get("x"), real_tokens(extra), tokens)}
    if "x" not in ctx.positions:
        return replace(ctx, masks=masks)
    own = ctx.positions["x"].expand(batch, *ctx.positions["x"].shape[1:])
    origin = own.new_zeros(batch, extra.features.shape[1], *own.shape[2:])
    return replace(ctx, masks=masks, positions={**ctx.positions, "x": torch.cat([origin, own], dim=1)})
