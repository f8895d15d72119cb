"""Transformer blocks: pre-norm, plain or modulated.

Shape legend: B batch, N tokens, D width.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..context import Context
from ..feedforwards import MLP, FeedForward
from ..mixers import Attention, TokenMixer
from ..norms import LayerNorm
from ..state import Streams


@dataclass(frozen=True, kw_only=True)
class BlockParts:
    """Builders of the parts of one block, each given the width.

    Args:
        mixer: token mixer.
        feedforward: feed-forward.
        norm: norm, given the width and whether it is affine.
        cross_attention: mixer that reads the condition's tokens, between mixer and feed-forward; None: no such part.
    """

    mixer: Callable[[int], TokenMixer] = Attention
    feedforward: Callable[[int], FeedForward] = MLP
    norm: Callable[[int, bool], nn.Module] = LayerNorm
    cross_attention: Callable[[int], TokenMixer] | None = None


class DenoiserBlock(nn.Module):
    """One step of a stack; built as ``Block(width, parts, name, **options)``.

    It runs its parts through ``ctx.call`` and taps its output under its name. Streams it does not know pass through.

    Attributes:
        chunks: how many modulation vectors it asks for; 0 for none.
    """

    chunks: int

    @abstractmethod
    def forward(self, h: Streams, modulation: Sequence[Tensor], ctx: Context) -> Streams:
        """Next streams; `modulation` holds this block's vectors, [B, 1, D] or [B, N, D] each."""

    @abstractmethod
    def cost(self, tokens: int, condition_tokens: int = 0) -> int:
        """Floating-point operations of one forward pass of one sample, two per multiply-add, products only."""


class TransformerBlock(DenoiserBlock):
    """Pre-norm block without modulation: x + mixer(norm(x)), then cross-attention if any, then the feed-forward alike.

    Args:
        width: D; supplied by the stack.
        parts: builders of its parts; supplied by the stack.
        name: prefix of its parts' names in ``ctx.call``; supplied by the stack.
    """

    chunks = 0

    def __init__(self, width: int, parts: BlockParts, name: str) -> None:
        super().__init__()
        modulated = self.chunks > 0
        self.name = name
        self.mixer_norm = parts.norm(width, not modulated)
        self.mixer = parts.mixer(width)
        self.feedforward_norm = parts.norm(width, not modulated)
        self.feedforward = parts.feedforward(width)
        self.cross_norm = parts.norm(width, True) if parts.cross_attention else None
        self.cross_attention = parts.cross_attention(width) if parts.cross_attention else None

    def forward(self, h: Streams, modulation: Sequence[Tensor], ctx: Context) -> Streams:
        """Streams with ``x`` advanced by one block."""
        x = h["x"]
        x = x + self.mix(self.mixer_norm(x), ctx)
        x = self.cross(x, ctx)
        x = x + self.feed(self.feedforward_norm(x), ctx)
        return {**h, "x": ctx.tap(self.name, x)}

    def mix(self, x: Tensor, ctx: Context) -> Tensor:
        """The mixer's output for its normed input [B, N, D]."""
        return ctx.call(f"{self.name}.mixer", lambda value: self.mixer(value, ctx), x)

    def feed(self, x: Tensor, ctx: Context) -> Tensor:
        """The feed-forward's output for its normed input [B, N, D]."""
        return ctx.call(f"{self.name}.feedforward", lambda value: self.feedforward(value, ctx), x)

    def cross(self, x: Tensor, ctx: Context) -> Tensor:
        """`x` [B, N, D] plus what it reads from the condition's tokens, if the block has cross-attention."""
        attention = self.cross_attention
        if attention is None or self.cross_norm is None:
            return x
        return x + ctx.call(f"{self.name}.cross_attention", lambda value: attention(value, ctx), self.cross_norm(x))

    def cost(self, tokens: int, condition_tokens: int = 0) -> int:
        """Sum over the parts."""
        cross = self.cross_attention.cost(tokens, condition_tokens) if self.cross_attention is not None else 0
        return self.mixer.cost(tokens, condition_tokens) + self.feedforward.cost(tokens) + cross


class DiTBlock(TransformerBlock):
    """Block under adaLN-Zero (arXiv 2212.09748, figure 3): shift, scale, gate for mixer and feed-forward, six vectors.

    Cross-attention, if any, is neither shifted nor gated: its output projection starts at zero instead.

    Args:
        width: D; supplied by the stack.
        parts: builders of its parts; supplied by the stack.
        name: prefix of its parts' names in ``ctx.call``; supplied by the stack.
    """

    chunks = 6

    def forward(self, h: Streams, modulation: Sequence[Tensor], ctx: Context) -> Streams:
        """Streams with ``x`` advanced by one block."""
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = modulation
        x = h["x"]
        x = torch.addcmul(x, gate_1, self.mix(modulate(self.mixer_norm(x), shift_1, scale_1), ctx))
        x = self.cross(x, ctx)
        x = torch.addcmul(x, gate_2, self.feed(modulate(self.feedforward_norm(x), shift_2, scale_2), ctx))
        return {**h, "x": ctx.tap(self.name, x)}


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """``x * (1 + scale) + shift``."""
    return torch.addcmul(shift, x, 1 + scale)
