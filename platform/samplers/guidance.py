"""Guidance: a function that denoises under a condition becomes one that denoises towards it.

Shape legend: B batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..conditioning import Conditioner
from ..context import StackPolicy
from ..state import Condition, State


class ConditionalDenoise(Protocol):
    """Evaluates the denoiser under several conditions at once."""

    def __call__(
        self, x: State, t: Tensor, conditions: Sequence[Condition], stack_policies: tuple[StackPolicy, ...] = ()
    ) -> list[State]:
        """One clean estimate of x_t per condition, in one batch.

        Args:
            x: fields [B, ...] at time `t` (0-dim).
            t: noise level.
            conditions: what each estimate is told.
            stack_policies: how the stack of blocks runs for these estimates, inside what the context asks for.
        """
        ...


@dataclass(frozen=True)
class Guided:
    """What guidance needs of one batch.

    Args:
        denoise: evaluates the denoiser under several conditions at once.
        condition: what was asked for.
        conditioner: makes the nulls.
        told: axes that this batch was told something about; guiding along others would change nothing.
    """

    denoise: ConditionalDenoise
    condition: Condition
    conditioner: Conditioner | None
    told: Collection[str]


class Guidance(ABC):
    """Combines estimates under several conditions into one."""

    @abstractmethod
    def estimate(self, x: State, t: Tensor, guided: Guided) -> State:
        """Guided clean estimate of x_t at time t (0-dim)."""


class NoGuidance(Guidance):
    """The estimate under the condition as it is."""

    def estimate(self, x: State, t: Tensor, guided: Guided) -> State:
        """One evaluation."""
        return guided.denoise(x, t, [guided.condition])[0]


class ClassifierFreeGuidance(Guidance):
    """Classifier-free guidance with one weight per axis (Ho & Salimans 2022; nested as in Brooks et al. 2023, eq. 3).

    With axes a_1 ... a_k told one after the other, x̂ = x̂(∅) + Σ_j w_j (x̂(a_1..a_j) - x̂(a_1..a_{j-1})): all weights
    one is the conditional estimate exactly, one axis is the usual formula. Axes without a weight are told throughout.

    Args:
        weights: axis -> w, 1 neutral, 0 ignores the axis, above 1 overshoots towards it.
        interval: times [low, high] in which to guide (Kynkäänniemi et al. 2024); outside, the conditional estimate
            alone is computed.
        channels: how many channels, the first of [B, C, ...], are guided; the others are those of the conditional
            estimate. 3 of the latent's 4 is what DiT's released code does. None: all.
    """

    def __init__(
        self, weights: dict[str, float], interval: tuple[float, float] = (0.0, 1.0), channels: int | None = None
    ) -> None:
        if channels is not None and channels < 1:
            raise ValueError(f"channels {channels} must be at least 1; null guides all")
        self.weights = weights
        self.interval = check_interval(interval)
        self.channels = channels

    def estimate(self, x: State, t: Tensor, guided: Guided) -> State:
        """One evaluation per guided axis and one more, in one batch."""
        axes = [axis for axis, weight in self.weights.items() if axis in guided.told and weight != 1.0]
        if not axes or guided.conditioner is None or not is_within(t, self.interval):
            return guided.denoise(x, t, [guided.condition])[0]
        conditions = [guided.conditioner.null(guided.condition, axes[j:]) for j in range(len(axes))]
        estimates = guided.denoise(x, t, [*conditions, guided.condition])
        result = dict(estimates[0])
        for axis, before, after in zip(axes, estimates[:-1], estimates[1:], strict=True):
            for name in result:
                result[name] = result[name] + self.weights[axis] * (after[name] - before[name])
        if self.channels is None:
            return result
        count, told = self.channels, estimates[-1]
        return {name: torch.cat([value[:, :count], told[name][:, count:]], dim=1) for name, value in result.items()}


def check_interval(interval: tuple[float, float]) -> tuple[float, float]:
    """The interval (low, high) of times in which to guide.

    Raises:
        ValueError: if it is not 0 <= low < high <= 1.
    """
    low, high = interval
    if not 0.0 <= low < high <= 1.0:
        raise ValueError(f"a guidance interval is 0 <= low < high <= 1, not {tuple(interval)}")
    return low, high


def is_within(t: Tensor, interval: tuple[float, float]) -> bool:
    """Whether time t (0-dim) lies in an interval."""
    # Reading t stalls a GPU, so it is read only where an interval asks for it.
    low, high = interval
    return (low <= 0.0 and high >= 1.0) or low <= float(t) <= high
