"""CG-Taylor: the output of the whole stack foretold, wherever the first block's could have been (arXiv 2508.02240).

Shape legend: B batch, N tokens, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..context import BoundBlock, Context, RunBlocks
from ..errors import ConfigurationError
from ..state import Streams, expand_time
from .ladder import Ladder, check_ladder
from .step_cache import EachStack, Policies, StepCache, check_positive, is_last


class CGTaylor(StepCache):
    """Runs the first block at every step, compares it with its own forecast, and runs the others if that was poor.

    Where the mean error of the forecast is below `threshold` of the block's mean size, over the real tokens of the
    batch, the last block's output is foretold too, and all blocks after the first are skipped. The first and the last
    step are always computed. What is kept does not grow with depth: two features of the stream and their differences.

    Deciding reads one number from the device at every step. The batch decides as one, so that a sample may differ a
    little with its company; where it must not, take `TaylorSeer`.

    Args:
        threshold: tau; 0 computes everything and changes no bit, infinity only the steps that must be.
        first_order: m_1 of the first block's forecast.
        last_order: m_L of the last block's.
        warm_up: number of computed steps to begin with.

    Raises:
        ConfigurationError: if an option is out of range.
    """

    def __init__(
        self, threshold: float = 0.01, first_order: int = 3, last_order: int = 1, warm_up: int = 3
    ) -> None:
        check_positive(warm_up=warm_up)
        for order in (first_order, last_order):
            check_ladder(order, "taylor")
        if not threshold >= 0:
            raise ConfigurationError(f"threshold {threshold} is no relative error: give 0 or more, such as 0.01")
        self.threshold, self.warm_up = threshold, warm_up
        self.first_order, self.last_order = first_order, last_order

    def begin(self) -> Policies:
        """One policy around every stack."""
        return Policies(stack=(EachStack(lambda: ForecastStack(self)),))


class ForecastStack:
    """Policy of one stack in one branch of one walk.

    Args:
        options: of the cache.

    Attributes:
        full: steps that were computed.
        errors: step -> relative error of the first block's forecast, where there was one.
    """

    def __init__(self, options: CGTaylor) -> None:
        self.options = options
        self.first: dict[str, Ladder] = {}
        self.last: dict[str, Ladder] = {}
        self.full: list[int] = []
        self.errors: dict[int, float] = {}

    @torch.compiler.disable(recursive=False)
    def run(self, h: Streams, blocks: Sequence[BoundBlock], proceed: RunBlocks, ctx: Context) -> Streams:
        """Streams after the stack, computed or foretold."""
        assert ctx.step is not None
        step = ctx.step
        after_first = proceed(h, blocks[:1])
        if self._trusts(after_first, step, ctx):
            return forecast(self.last, after_first, step)
        result = proceed(after_first, blocks[1:])
        if not fits(self.last, result):
            self.first, self.last = {}, {}
        update(self.first, after_first, step, self.options.first_order)
        update(self.last, result, step, self.options.last_order)
        self.full.append(step)
        return result

    @torch.compiler.disable
    def _trusts(self, found: Streams, step: int, ctx: Context) -> bool:
        if not self.first or len(self.full) < self.options.warm_up or is_last(ctx) or not fits(self.first, found):
            return False
        self.errors[step] = relative_error(forecast(self.first, found, step), found, ctx)
        return self.errors[step] < self.options.threshold


def relative_error(foretold: Streams, found: Streams, ctx: Context) -> float:
    """Sum of absolute differences over the sum of absolute values, over real tokens of all streams."""
    difference: list[Tensor] = []
    size: list[Tensor] = []
    for name, value in found.items():
        mask = ctx.masks.get(name)
        keys = None if mask is None or mask.keys is None else expand_time(mask.keys, value)
        for sums, entry in ((difference, foretold[name] - value), (size, value)):
            entry = entry.detach().float().abs()
            sums.append((entry if keys is None else entry * keys).sum())
    return float(torch.stack(difference).sum() / torch.stack(size).sum())


@torch.compiler.disable
def fits(ladders: Mapping[str, Ladder], streams: Mapping[str, Tensor]) -> bool:
    """Whether these ladders are of streams of these names and shapes."""
    return {name: ladder.rungs[0].shape for name, ladder in ladders.items()} == {
        name: value.shape for name, value in streams.items()
    }


@torch.compiler.disable
def update(ladders: dict[str, Ladder], streams: Streams, step: int, order: int) -> None:
    """Take in computed streams."""
    for name, value in streams.items():
        ladders.setdefault(name, Ladder(order)).update(value, step)


@torch.compiler.disable
def forecast(ladders: Mapping[str, Ladder], like: Streams, step: int) -> Streams:
    """Foretold streams, by the names of `like`."""
    return {name: ladders[name].forecast(step) for name in like}
