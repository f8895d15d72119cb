"""What a token mixer is, and what may bias its attention.

Shape legend: B batch, N tokens, D width, H heads.
"""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor, nn

from ..context import Context


class TokenMixer(nn.Module):
    """Lets the tokens of one stream exchange information; built as ``Mixer(width, **options)``."""

    @abstractmethod
    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        """Mixed tokens [B, N, D] of `x` [B, N, D]; masks, positions and conditions are read from `ctx`."""

    @abstractmethod
    def cost(self, tokens: int, condition_tokens: int = 0) -> int:
        """Floating-point operations of one forward pass of one sample, two per multiply-add, products only."""


class PairBias(nn.Module):
    """What attention logits gain by what a pair of tokens is; built as ``Bias(heads, **options)``."""

    @abstractmethod
    def forward(self, x: Tensor, ctx: Context, stream: str) -> Tensor:
        """[B, H, N, N], or with axes of 1, for the tokens `x` [B, N, D] of a stream."""

    @abstractmethod
    def cost(self, tokens: int) -> int:
        """Floating-point operations of one forward pass of one sample, two per multiply-add, products only."""
