"""TaylorSeer: the outputs of all parts of all blocks foretold by Taylor series (arXiv 2503.06923).

Shape legend: B batch, N tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Size, Tensor

from ..context import Context
from .ladder import Ladder, Weights, check_ladder
from .step_cache import FullSteps, Numbering, Policies, StepCache, check_positive, is_last


class TaylorSeer(StepCache):
    """Computes the parts of all blocks at one step in `interval`, and foretells their outputs in between.

    What is kept is each part's output before its gate: shifts, scales and gates belong to the step and are computed at
    every one. That is ``order + 1`` tensors [B, N, D] for every part of every block. Order 0 reuses the last output, as
    FORA does (arXiv 2407.01425).

    Args:
        interval: N, steps from one computed step to the next; 1: all are computed, and no bit changes. Published for
            DiT-XL/2 over 50 steps: 4, with order 4 and first_enhance 2.
        order: m of the series.
        first_enhance: number of computed steps to begin with. Where the first steps change much more than later ones,
            too few let their slope be taken for that of the steps that follow.
        weights: ``taylor`` as published; ``newton`` is exact on polynomials of degree `order`, see `Ladder`.
        finish: whether the last step is computed too, which is not published. Its estimate is the sample, so that no
            later step mends what a forecast got wrong there.

    Raises:
        ConfigurationError: if an option is out of range.
    """

    def __init__(
        self, interval: int = 3, order: int = 1, first_enhance: int = 4, weights: Weights = "taylor",
        finish: bool = True,
    ) -> None:
        check_positive(interval=interval, first_enhance=first_enhance)
        check_ladder(order, weights)
        self.interval, self.order, self.first_enhance, self.weights = interval, order, first_enhance, weights
        self.finish = finish

    def begin(self) -> Policies:
        """One policy for all parts."""
        return Policies(module=(ForecastParts(self),))


class ForecastParts:
    """Module policy of one branch of one walk.

    A part whose input changes its shape is computed and starts anew: what was kept is of other samples.

    Args:
        options: of the cache.
    """

    def __init__(self, options: TaylorSeer) -> None:
        self.options = options
        self.full_steps = FullSteps(options.interval, options.first_enhance)
        self.ladders: dict[tuple[str, int], tuple[Size, Ladder]] = {}
        self._numbering = Numbering()

    @torch.compiler.disable(recursive=False)  # its choices differ by step; what it runs is compiled
    def call(self, name: str, function: Callable[[Tensor], Tensor], h: Tensor, ctx: Context) -> Tensor:
        """The part's output, computed or foretold."""
        if ctx.step is None:
            return function(h)
        full = self.full_steps.enter(ctx.step, self.options.finish and is_last(ctx))
        part = name, self._numbering.next(name, ctx.step)
        shape, ladder = self.ladders.get(part, (None, None))
        if ladder is None or shape != h.shape:
            ladder = Ladder(self.options.order, self.options.weights)
            self.ladders[part] = h.shape, ladder
        elif not full:
            return ladder.forecast(ctx.step)
        output = function(h)
        ladder.update(output, ctx.step)
        return output
