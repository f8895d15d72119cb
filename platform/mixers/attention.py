"""Softmax attention within a stream and from a stream to condition tokens.

Shape legend: B batch, N tokens, M condition tokens, D width, H heads, E = D / H width of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from ..context import Context
from ..errors import ConfigurationError
from ..norms import LayerNorm, RMSNorm
from ..state import MaskSpec
from .base import PairBias, TokenMixer
from .masks import real_tokens
from .rotary import RotaryPosition

QueryKeyNorm = Literal["none", "head", "width", "layer"]
"""Norm of queries and keys: none; RMSNorm over each head's width E, or over the full width D before heads are split; or
LayerNorm without weights over each head's width (FiTv2)."""


class Attention(TokenMixer):
    """Multi-head self-attention over the stream ``x``, under its `MaskSpec`.

    Args:
        width: D; supplied by the stack.
        heads: H, must divide the width; None: one per 64 of the width, as in DiT-S to DiT-L.
        bias: whether the projections have biases.
        qk_norm: norm of queries and keys, which keeps attention logits bounded in long or half-precision training.
        rotary: builds the rotary embedding from the head's width; None: no positions in attention.
        stream: which stream's mask and positions hold here.
        causal: tokens see no later ones, in-context tokens first.
        pair_bias: builds, from the number of heads, what is added to the logits for what pairs of tokens are to each
            other, such as `DistanceBias`; None: nothing.

    Raises:
        ConfigurationError: if the heads do not divide the width.
    """

    def __init__(
        self,
        width: int,
        heads: int | None = None,
        bias: bool = True,
        qk_norm: QueryKeyNorm = "none",
        rotary: Callable[[int], RotaryPosition] | None = None,
        stream: str = "x",
        causal: bool = False,
        pair_bias: Callable[[int], PairBias] | None = None,
    ) -> None:
        super().__init__()
        heads = check_heads(width, heads)
        self.width, self.heads, self.stream, self.causal = width, heads, stream, causal
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.output = nn.Linear(width, width, bias=bias)
        self.norm = HeadNorm(width, heads, qk_norm)
        self.rotary = rotary(width // heads) if rotary else None
        self.pair_bias = pair_bias(heads) if pair_bias else None

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        """Mixed tokens [B, N, D] of `x` [B, N, D]."""
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        q, k = self.norm(q, k)
        mask = ctx.masks.get(self.stream)
        if self.rotary is not None:
            positions, real = ctx.positions.get(self.stream), None if mask is None else mask.keys
            q, k = self.rotary(q, positions, real), self.rotary(k, positions, real)
        if self.causal:
            mask = replace(mask or MaskSpec(), causal=True)
        if self.pair_bias is not None:
            mask = replace(mask or MaskSpec(), bias=self.pair_bias(x, ctx, self.stream))
        mixed = ctx.attend(q, k, split_heads(v, self.heads), mask)
        return self.output(mixed.transpose(1, 2).flatten(2))

    def cost(self, tokens: int, condition_tokens: int = 0) -> int:
        """Operations per sample: four projections (8 N D²), two products of tokens with tokens (4 N² D), the bias."""
        bias = 0 if self.pair_bias is None else self.pair_bias.cost(tokens)
        return 8 * tokens * self.width**2 + 4 * tokens**2 * self.width + bias


class CrossAttention(TokenMixer):
    """Multi-head attention of the stream to the condition's token groups; its output projection starts at zero.

    Args:
        width: D; supplied by the stack.
        heads: H, must divide the width; None: one per 64 of the width.
        axes: names of the token groups to read; empty: all there are.
        bias: whether the projections have biases.
        qk_norm: norm of queries and keys, see `QueryKeyNorm`.

    Raises:
        ConfigurationError: if the heads do not divide the width.
    """

    def __init__(
        self,
        width: int,
        heads: int | None = None,
        axes: Sequence[str] = (),
        bias: bool = True,
        qk_norm: QueryKeyNorm = "none",
    ) -> None:
        super().__init__()
        heads = check_heads(width, heads)
        self.width, self.heads, self.axes = width, heads, tuple(axes)
        self.query = nn.Linear(width, width, bias=bias)
        self.key_value = nn.Linear(width, 2 * width, bias=bias)
        self.output = nn.Linear(width, width, bias=bias)
        self.norm = HeadNorm(width, heads, qk_norm)
        self.initialise()

    def initialise(self) -> None:
        """Zero the output projection, so that a stack given cross-attention starts as it was."""
        nn.init.zeros_(self.output.weight)
        if self.output.bias is not None:
            nn.init.zeros_(self.output.bias)

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        """What the condition adds to each token: [B, N, D] for `x` [B, N, D].

        Raises:
            ConfigurationError: if the condition has no tokens, or lacks a named group.
        """
        features, mask = self._gather(x, ctx)
        k, v = self.key_value(features).chunk(2, dim=-1)
        q, k = self.norm(self.query(x), k)
        mixed = ctx.attend(q, k, split_heads(v, self.heads), mask)
        return self.output(mixed.transpose(1, 2).flatten(2))

    def _gather(self, x: Tensor, ctx: Context) -> tuple[Tensor, MaskSpec | None]:
        groups = ctx.condition.tokens
        missing = [axis for axis in self.axes if axis not in groups]
        if missing or not groups:
            raise ConfigurationError(
                f"cross-attention needs condition tokens {missing or '(any)'} and has {sorted(groups)}: "
                "add a conditioner that gives them, or take the cross-attention out"
            )
        chosen = [groups[axis] for axis in (self.axes or tuple(groups))]
        features = torch.cat([group.features for group in chosen], dim=1).to(x.dtype)
        if all(group.mask is None for group in chosen):
            return features, None
        return features, MaskSpec(keys=torch.cat([real_tokens(group) for group in chosen], dim=1))

    def cost(self, tokens: int, condition_tokens: int = 0) -> int:
        """Operations per sample: 4 N D² + 4 M D² for the projections, 4 N M D for the two products."""
        projections = 4 * (tokens + condition_tokens) * self.width**2
        return projections + 4 * tokens * condition_tokens * self.width


class HeadNorm(nn.Module):
    """Splits queries and keys into heads, normalised before or after the split or not at all.

    Args:
        width: D.
        heads: H.
        kind: see `QueryKeyNorm`.
    """

    def __init__(self, width: int, heads: int, kind: QueryKeyNorm) -> None:
        super().__init__()
        self.heads, self.kind = heads, kind
        if kind != "none":
            size = width if kind == "width" else width // heads
            self.query: nn.Module = LayerNorm(size, False) if kind == "layer" else RMSNorm(size, True)
            self.key: nn.Module = LayerNorm(size, False) if kind == "layer" else RMSNorm(size, True)

    def forward(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Heads [B, H, N, E] of q [B, N, D] and [B, H, M, E] of k [B, M, D]."""
        if self.kind == "width":
            return split_heads(self.query(q), self.heads), split_heads(self.key(k), self.heads)
        q, k = split_heads(q, self.heads), split_heads(k, self.heads)
        if self.kind == "none":
            return q, k
        return self.query(q).to(q.dtype), self.key(k).to(k.dtype)  # autocast runs LayerNorm in full precision


def check_heads(width: int, heads: int | None) -> int:
    """Number of heads, one per 64 of the width if None.

    Raises:
        ConfigurationError: if they do not divide the width.
    """
    if heads is None and width % 64:
        raise ConfigurationError(f"a width of {width} is no multiple of 64, for which the heads are known: set `heads`")
    count = width // 64 if heads is None else heads
    if count < 1 or width % count:
        raise ConfigurationError(f"{count} heads do not divide a width of {width}: set `heads` to a divisor of it")
    return count


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[B, H, N, E] of [B, N, D]."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)
