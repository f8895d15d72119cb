"""Stacks of blocks: how they are built, and how they run.

Shape legend: B batch, N tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

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

Mixers = list[Callable[[int], TokenMixer]] | Callable[[int], TokenMixer]
"""Builder of every block's mixer, or several builders that the blocks take in turn."""

FeedForwards = list[Callable[[int], FeedForward]] | Callable[[int], FeedForward]
"""Builder of every block's feed-forward, or several builders that the blocks take in turn."""


def choose_parts(
    depth: int,
    mixer: Mixers | None = None,
    feedforward: FeedForwards | None = None,
    norm: Callable[[int, bool], nn.Module] = LayerNorm,
    cross_attention: Mixers | None = None,
) -> list[BlockParts]:
    """Builders for each of `depth` blocks; of several for one part, block i takes number i modulo how many they are.

    Raises:
        ConfigurationError: if a part has an empty list of builders.
    """

    def take(name: str, builders: Any, index: int) -> Any:
        if not isinstance(builders, Sequence):
            return builders
        if not builders:
            raise ConfigurationError(f"`{name}` is an empty list: give it at least one builder, or leave it out")
        return builders[index % len(builders)]

    # not `Attention` and `MLP` as defaults: a configuration that names another class would inherit their options
    return [
        BlockParts(
            mixer=take("mixer", mixer, index) or Attention,
            feedforward=take("feedforward", feedforward, index) or MLP,
            norm=norm,
            cross_attention=take("cross_attention", cross_attention, index),
        )
        for index in range(depth)
    ]


def build_blocks(width: int, parts: Sequence[BlockParts], block: BlockFactory, name: str) -> nn.ModuleList:
    """One block for each entry of `parts`, named ``{name}.0`` and on.

    Raises:
        ConfigurationError: if the width is not positive or there is no entry.
    """
    if width < 1 or not parts:
        raise ConfigurationError(f"a stack of width {width} and depth {len(parts)} is empty: both must be at least 1")
    return nn.ModuleList([block(width, entry, f"{name}.{index}") for index, entry in enumerate(parts)])


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
        mixer: builds the token mixer from the width, or several builders that the blocks take in turn; None:
            `Attention`.
        feedforward: builds the feed-forward from the width, or several; None: `MLP`.
        norm: builds a norm from the width and whether it is affine.
        name: prefix of the blocks' names in ``ctx.call`` and taps; tells two stacks of one model apart.
    """

    def __init__(
        self,
        width: int = 512,
        depth: int = 8,
        mixer: Mixers | None = None,
        feedforward: FeedForwards | None = None,
        norm: Callable[[int, bool], nn.Module] = LayerNorm,
        name: str = "blocks",
    ) -> None:
        super().__init__()
        self.width = width
        self.blocks = build_blocks(width, choose_parts(depth, mixer, feedforward, norm), TransformerBlock, name)
        self.norm = norm(width, True)
        initialise_weights(self)

    def forward(self, h: Tensor, ctx: Context) -> Tensor:
        """Tokens [B, N, D] after the stack; `ctx` holds the mask and positions of the stream ``x``."""
        streams = run_blocks({"x": h}, self.blocks, [()] * len(self.blocks), ctx)
        return self.norm(streams["x"])

    def cost(self, tokens: int) -> int:
        """Floating-point operations of one forward pass of one sample, two per multiply-add, products only."""
        return blocks_cost(self.blocks, tokens)
