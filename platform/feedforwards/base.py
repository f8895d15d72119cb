"""What a feed-forward is.

Shape legend: B batch, N tokens, D width.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

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

    @classmethod
    def fuse(
        cls, parts: Sequence[FeedForward], weights: Sequence[float], twin: FeedForward | None = None
    ) -> FeedForward | None:
        """One feed-forward that computes the sum of the outputs of `parts`, weighted; without dropout or gradient.

        Args:
            parts: feed-forwards of this class and of one configuration.
            weights: one for each.
            twin: what this gave for the same parts and other weights; what does not depend on these is shared with it.

        Returns:
            None if this kind of feed-forward cannot be fused; they must then run one by one.
        """
        return None
