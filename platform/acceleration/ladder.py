"""Forecasts of features along the steps of sampling, from differences between the steps at which they were computed."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ..errors import ConfigurationError

Weights = Literal["taylor", "newton"]
"""How differences are summed: as derivatives of a Taylor series (published), or as Newton's interpolation."""


class Ladder:
    """Backward differences of one feature, a rung an order, and its extrapolation to other steps.

    With gap Delta to the previous computed step, TaylorSeer (arXiv 2503.06923, section 3) has D_0 = F and
    D_(j+1) = (D_j - D_j of the previous step) / Delta, and foretells sum_j D_j k^j / j! at distance k. A difference is
    the derivative between two steps, not at the last one, so that already a parabola c s² is missed by c N k.
    ``newton`` divides by the distance to the step that a rung reaches back to and multiplies by distances to those in
    between, which is the polynomial through the last m + 1 computed steps, at whatever gaps.

    Args:
        order: m, rungs above the feature itself; 0 repeats the last feature. Rung j stands after j + 1 computed steps.
        weights: see `Weights`.
    """

    def __init__(self, order: int, weights: Weights = "taylor") -> None:
        self.order, self.weights = order, weights
        self.rungs: list[Tensor] = []
        self.steps: list[int] = []

    @torch.compiler.disable
    def update(self, feature: Tensor, step: int) -> None:
        """Take in a computed feature; one of the step last taken in replaces it, the differences stay."""
        if self.steps and self.steps[0] == step:
            self.rungs[0] = feature
            return
        rungs = [feature]
        for rung, below in enumerate(self.rungs[: self.order]):
            gap = step - self.steps[rung if self.weights == "newton" else 0]
            rungs.append((rungs[rung] - below) / gap)
        self.rungs, self.steps = rungs, [step, *self.steps[: self.order]]

    @torch.compiler.disable
    def forecast(self, step: int) -> Tensor:
        """The feature at `step`, as far as the rungs that stand can tell; needs a feature taken in."""
        result, weight = self.rungs[0], 1.0
        distance = step - self.steps[0]
        for rung, difference in enumerate(self.rungs[1:]):
            weight *= step - self.steps[rung] if self.weights == "newton" else distance / (rung + 1)
            result = result.add(difference, alpha=weight) if rung == 0 else result.add_(difference, alpha=weight)
        return result


def check_ladder(order: int, weights: Weights) -> None:
    """Refuse options that no ladder has.

    Raises:
        ConfigurationError: naming the option.
    """
    if order < 0:
        raise ConfigurationError(f"order {order} of a forecast is below 0, which repeats the last feature: give 0 to 4")
    if weights not in ("taylor", "newton"):
        raise ConfigurationError(f"weights {weights!r} are neither 'taylor' nor 'newton'")
