"""What a feed-forward is.

Shape legend: B batch, N tokens, D width.
"""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor, nn

from ..context import Context


class FeedForward(nn.Module):
    """Transforms every token by itself; built as ``FeedForward(width, **options)``."""

    @abstractmethod
    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        """Transformed tokens [B, N, D] of `x` [B, N, D]; side losses are left with ``ctx.add_loss``."""

    @abstractmethod
    def cost(self, tokens: int) -> int:
        """Floating-point operations of one forward pass of one sample, two per multiply-add, products only."""
