"""The diffusion transformer.

Shape legend: B batch, N tokens, P in-context tokens, M condition tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast

from torch import Tensor, nn

from ..context import Context
from ..norms import LayerNorm
from ..state import Condition, State, Streams, Time, Tokens
from .base import Denoiser, Embedding, Head
from .blocks import BlockParts, DenoiserBlock, DiTBlock
from .in_context import drop, gather_tokens, lengthen, prepend, widen
from .initialisation import initialise_weights
from .modulation import AdaLNZero, Modulation, Vectors
from .stack import FeedForwards, Mixers, blocks_cost, build_blocks, choose_parts, run_blocks
from .time import TimeEmbedding


@dataclass(frozen=True)
class Opened:
    """A pass of a `DiT` between two of its blocks.

    Args:
        h: streams, in-context tokens among them.
        modulations: vectors of every block.
        last: vectors of the head.
        context: of the blocks.
        outer: of embedding and head, which know of no in-context tokens.
        extra: the in-context tokens; None: there are none.
    """

    h: Streams
    modulations: Sequence[Vectors]
    last: Vectors
    context: Context
    outer: Context
    extra: Tokens | None = None


class DiT(Denoiser):
    """Diffusion transformer (arXiv 2212.09748) with every part in a slot of its own.

    Fields and condition channels become tokens; the time embedding and the condition's vectors add up and modulate all
    blocks; the head turns tokens into predictions. A part is given as a builder: a class path with the options that are
    its own in YAML, a class or `functools.partial` in Python. The denoiser supplies the width. With the default parts
    the output is exactly zero before training, and every block the identity.

    Args:
        embedding: builds the embedding of fields and channels from the width.
        head: builds the head from the width.
        width: D.
        depth: number of blocks.
        mixer: builds the token mixer from the width, or several builders that the blocks take in turn; None:
            `Attention`.
        feedforward: builds the feed-forward from the width, or several; None: `MLP`.
        cross_attention: builds a mixer that reads the condition's tokens, in every block, or several, as to read one
            group of tokens in even blocks and another in odd ones; None: they are not read so.
        modulation: builds the modulation from the width and the number of vectors that each layer asks for; unused
            where neither blocks nor head ask for any.
        norm: builds a norm from the width and whether it is affine.
        time: builds the time embedding from the width.
        block: builds a block from the width, its parts and its name.
        in_context: names of what joins the sequence as extra tokens, before its own, and leaves it before the head:
            ``time``, vectors (one token each) or token groups of the condition, all of width D.
        name: prefix of the blocks' names in ``ctx.call`` and taps; tells two transformers of one denoiser apart.
    """

    def __init__(
        self,
        embedding: Callable[[int], Embedding],
        head: Callable[[int], Head],
        width: int = 384,
        depth: int = 12,
        mixer: Mixers | None = None,
        feedforward: FeedForwards | None = None,
        cross_attention: Mixers | None = None,
        modulation: Callable[[int, Sequence[int]], Modulation] = AdaLNZero,
        norm: Callable[[int, bool], nn.Module] = LayerNorm,
        time: Callable[[int], TimeEmbedding] = TimeEmbedding,
        block: Callable[[int, BlockParts, str], DenoiserBlock] = DiTBlock,
        in_context: Sequence[str] = (),
        name: str = "blocks",
    ) -> None:
        super().__init__()
        self.width, self.depth, self.in_context = width, depth, tuple(in_context)
        self.embedding = embedding(width)
        self.time = time(width)
        self.blocks = build_blocks(width, choose_parts(depth, mixer, feedforward, norm, cross_attention), block, name)
        self.head = head(width)
        self.chunks = [cast(DenoiserBlock, layer).chunks for layer in self.blocks] + [self.head.chunks]
        self.modulation = modulation(width, self.chunks) if any(self.chunks) else None
        initialise_weights(self)

    @property
    def streams(self) -> dict[str, str]:
        """Stream -> the field whose mask and positions are its own."""
        return self.embedding.streams

    def forward(self, x_t: State, t: Time, cond: Condition, ctx: Context) -> State:
        """Prediction per field, in the type of `x_t`.

        Args:
            x_t: noised fields, as the embedding wants them.
            t: noise level in [0, 1], [B] or [B, N], or one per field.
            cond: the encoded condition.
            ctx: context of this pass. Taps and side losses are left in it; its time, condition and grid positions are
                set for the parts only.
        """
        opened = self.open(x_t, t, cond, ctx)
        return self.close(self.advance(opened, 0, self.depth), x_t)

    def open(self, x_t: State, t: Time, cond: Condition, ctx: Context) -> Opened:
        """What the blocks start from; with `advance` and `close` a pass in segments, as of towers with bridges between.

        Args:
            x_t, t, cond, ctx: as of `forward`.
        """
        time = self.time(t)
        ctx = replace(ctx, condition=cond, time=time, embed_time=self.time, shared={})
        ctx.masks, ctx.grids = self.embedding.masks(x_t, ctx), self.embedding.grids(x_t, ctx)
        ctx.positions, ctx.points = self.embedding.positions(x_t, ctx), self.embedding.points(x_t, ctx)
        h = self.embedding(x_t, cond, ctx)
        modulations = self._modulate(cond.add_to(time).to(time.dtype))
        if not self.in_context:
            return Opened(h, modulations[:-1], modulations[-1], ctx, ctx)
        extra = gather_tokens(self.in_context, cond, time)
        vectors = lengthen(modulations[:-1], extra)
        return Opened(prepend(h, extra), vectors, modulations[-1], widen(ctx, h, extra), ctx, extra)

    def advance(self, opened: Opened, start: int, stop: int) -> Opened:
        """A pass moved on by blocks `start` up to but without `stop`."""
        if start == stop:
            return opened
        h = run_blocks(opened.h, self.blocks[start:stop], opened.modulations[start:stop], opened.context)
        return replace(opened, h=h)

    def close(self, opened: Opened, x_t: State) -> State:
        """Prediction per field of a pass whose blocks have run, in the type of `x_t`."""
        h = opened.h if opened.extra is None else drop(opened.h, opened.extra)
        output = self.head(h, opened.last, x_t, opened.outer)
        return {name: value.to(x_t[name].dtype) for name, value in output.items()}

    def _modulate(self, c: Tensor) -> list[Vectors]:
        if self.modulation is None:
            return [()] * len(self.chunks)
        return self.modulation(c)

    def cost(self, tokens: int, condition_tokens: int = 0) -> int:
        """Floating-point operations of one forward pass of one sample with one condition vector, products only.

        Args:
            tokens: N.
            condition_tokens: M, tokens of the condition: read by cross-attention, or P of them in context.
        """
        inner = tokens + (condition_tokens if self.in_context else 0)
        total = self.time.cost() + blocks_cost(self.blocks, inner, condition_tokens)
        total += self.embedding.cost(tokens) + self.head.cost(tokens)
        return total + (self.modulation.cost() if self.modulation is not None else 0)

