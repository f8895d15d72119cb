"""Delta-DiT: what a run of blocks adds to the stream is kept and added again (arXiv 2406.01125).

Shape legend: B batch, N tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..context import BoundBlock, Context, RunBlocks
from ..errors import ConfigurationError
from ..state import Streams
from .step_cache import EachStack, FullSteps, Policies, StepCache, check_positive, is_last


class DeltaDiT(StepCache):
    """Skips rear blocks while outlines form and front blocks while details do, in all but one step of `interval`.

    At a computed step it keeps Delta = F(h) - h of the skipped blocks F; in between h + Delta stands for F(h), with the
    present h, so that what the sampler has moved since is not lost even where the front blocks are skipped. One tensor
    is kept for a stream, whatever the depth.

    Args:
        blocks: N_c, number of blocks to skip; 0 skips none and changes no bit.
        interval: N, steps from one computed step to the next; 1: all are computed.
        boundary: share of the walk's steps, from its start, that form outlines. A step is computed where
            what is skipped changes.
        finish: whether the last step is computed too, which is not published; see `TaylorSeer`.

    Raises:
        ConfigurationError: if an option is out of range.
    """

    def __init__(self, blocks: int, interval: int = 2, boundary: float = 0.6, finish: bool = True) -> None:
        check_positive(interval=interval)
        if blocks < 0:
            raise ConfigurationError(f"blocks {blocks} is a number of blocks to skip: give 0 or more")
        if not 0 <= boundary <= 1:
            raise ConfigurationError(f"boundary {boundary} is a share of the steps: give 0 to 1")
        self.blocks, self.interval, self.boundary, self.finish = blocks, interval, boundary, finish

    def begin(self) -> Policies:
        """One policy around every stack."""
        return Policies(stack=(EachStack(lambda: KeepDelta(self)),))


class KeepDelta:
    """Policy of one stack in one branch of one walk.

    Args:
        options: of the cache.
    """

    def __init__(self, options: DeltaDiT) -> None:
        self.options = options
        self.full_steps = FullSteps(options.interval)
        self.delta: Streams = {}
        self.rear: bool | None = None

    @torch.compiler.disable(recursive=False)
    def run(self, h: Streams, blocks: Sequence[BoundBlock], proceed: RunBlocks, ctx: Context) -> Streams:
        """Streams after the stack.

        Raises:
            ConfigurationError: if there are fewer blocks than are to be skipped.
        """
        count = self.options.blocks
        if count == 0:
            return proceed(h, blocks)
        assert ctx.step is not None
        if count > len(blocks):
            raise ConfigurationError(f"{count} blocks cannot be skipped in a stack of {len(blocks)}: lower `blocks`")
        rear = ctx.steps is not None and ctx.step < self.options.boundary * ctx.steps
        start = len(blocks) - count if rear else 0
        h = proceed(h, blocks[:start])
        changed = rear != self.rear or any(h[name].shape != delta.shape for name, delta in self.delta.items())
        if self.full_steps.enter(ctx.step, changed or (self.options.finish and is_last(ctx))):
            after = proceed(h, blocks[start : start + count])
            self.delta, self.rear = {name: value - h[name] for name, value in after.items()}, rear
        else:
            after = {name: h[name] + delta for name, delta in self.delta.items()}
        return proceed(after, blocks[start + count :])
