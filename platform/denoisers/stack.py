"""Stacks of blocks: how they are built, and how they run.

Shape legend: B batch, N tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

from torch import Tensor, nn

from ..context import Context
from ..errors import ConfigurationError
from ..feedforwards import MLP, FeedForward
from ..mixers import Attention, TokenMixer
from ..norms import LayerNorm
from ..state import Streams
from .blocks import BlockParts, DenoiserBlock, TransformerBlock
from .initialisation import initialise_weights

BlockFactory = Callable[[int, BlockParts, str], DenoiserBlock]


def build_blocks(width: int, depth: int, parts: BlockParts, block: BlockFactory, name: str) -> nn.ModuleList:
    """`depth` blocks named ``{name}.0`` and on.

    Raises:
        ConfigurationError: if width or depth is not positive.
    """
    if width < 1 or depth < 1:
        raise ConfigurationError(f"a stack of width {width} and depth {depth} is empty: both must be at least 1")
    return nn.ModuleList([block(width, parts, f"{name}.{index}") for index in range(depth)])


def run_blocks(
    h: Streams, blocks: nn.ModuleList, modulations: Sequence[Sequence[Tensor]], ctx: Context
) -> Streams:
    """Streams after `blocks`, each with its modulation, under the context's stack policies."""
    bound = [
        partial(block, modulation=modulation, ctx=ctx) for block, modulation in zip(blocks, modulations, strict=True)
    ]
    return ctx.run(h, bound)


def blocks_cost(blocks: nn.ModuleList, tokens: int, condition_tokens: int = 0) -> int:
    """Operations of one forward pass of one sample through `blocks`."""
    return sum(cast(DenoiserBlock, block).cost(tokens, condition_tokens) for block in blocks)


class TransformerStack(nn.Module):
    """Plain pre-norm transformer with a final norm, for encoders and decoders.

    Args:
        width: D.
        depth: number of blocks.
        mixer: builds the token mixer from the width; None: `Attention`.
        feedforward: builds the feed-forward from the width; None: `MLP`.
        norm: builds a norm from the width and whether it is affine.
        name: prefix of the blocks' names in ``ctx.call`` and taps; tells two stacks of one model apart.
    """

    def __init__(
        self,
        width: int = 512,
        depth: int = 8,
        mixer: Callable[[int], TokenMixer] | None = None,
        feedforward: Callable[[int], FeedForward] | None = None,
        norm: Callable[[int, bool], nn.Module] = LayerNorm,
        name: str = "blocks",
    ) -> None:
        super().__init__()
        self.width = width
        parts = BlockParts(mixer=mixer or Attention, feedforward=feedforward or MLP, norm=norm)
        self.blocks = build_blocks(width, depth, parts, TransformerBlock, name)
        self.norm = norm(width, True)
        initialise_weights(self)

    def forward(self, h: Tensor, ctx: Context) -> Tensor:
        """Tokens [B, N, D] after the stack; `ctx` holds the mask and positions of the stream ``x``."""
        streams = run_blocks({"x": h}, self.blocks, [()] * len(self.blocks), ctx)
        return self.norm(streams["x"])

    def cost(self, tokens: int) -> int:
        """Floating-point operations of one forward pass of one sample, two per multiply-add, products only."""
        return blocks_cost(self.blocks, tokens)
