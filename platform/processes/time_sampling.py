"""Time sampling: at which noise levels a network is trained.

Shape legend: B batch.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from .schedules import Schedule


class TimeSampling(ABC):
    """A distribution over t in [0, 1], given by its quantile function.

    Args:
        stratified: one time from each of B equal slices of probability, in random order, instead of B independent
            times; the loss of a batch then varies less.
    """

    def __init__(self, *, stratified: bool = False) -> None:
        self.stratified = stratified

    @abstractmethod
    def quantile(self, probability: Tensor, schedule: Schedule) -> Tensor:
        """Time below which this probability lies."""

    def sample(
        self, batch_size: int, schedule: Schedule, generator: torch.Generator, device: torch.device | str = "cpu"
    ) -> Tensor:
        """Times [B] in float32, drawn on the generator's device and moved to `device`."""
        probability = torch.rand(batch_size, generator=generator, device=generator.device)
        if self.stratified:
            # In random order, because batches sorted by length would tie a sample's size to its noise level.
            order = torch.randperm(batch_size, generator=generator, device=generator.device)
            probability = (order + probability) / batch_size
        # Never exactly 0 or 1, where normal quantiles and some weights are infinite.
        probability = probability.clamp(2**-25, 1 - 2**-24)
        return self.quantile(probability, schedule).clamp(0, 1).to(device)


class UniformTime(TimeSampling):
    """Every time between `low` and `high` alike.

    Args:
        low: least noisy time.
        high: noisiest time.
        stratified: see `TimeSampling`.
    """

    def __init__(self, *, low: float = 0.0, high: float = 1.0, stratified: bool = False) -> None:
        super().__init__(stratified=stratified)
        if not 0 <= low < high <= 1:
            raise ValueError(f"low {low} and high {high} must be 0 <= low < high <= 1")
        self.low = low
        self.high = high

    def quantile(self, probability: Tensor, schedule: Schedule) -> Tensor:
        """Straight line from low to high."""
        return self.low + (self.high - self.low) * probability


class StepTime(TimeSampling):
    """The steps of a discrete process, all alike: t = k / (T - 1) for k = 0..T-1, where `TabulatedSchedule` has them.

    For networks that are told the number of the step, and trained at whole ones only.

    Args:
        steps: T.
        stratified: see `TimeSampling`.
    """

    def __init__(self, *, steps: int, stratified: bool = False) -> None:
        super().__init__(stratified=stratified)
        if steps < 2:
            raise ValueError(f"steps {steps} must be at least 2: one step has no noisier one")
        self.steps = steps

    def quantile(self, probability: Tensor, schedule: Schedule) -> Tensor:
        """The step in whose part of [0, 1] the probability lies."""
        return (self.steps * probability).floor().clamp(max=self.steps - 1) / (self.steps - 1)


class LogitNormalTime(TimeSampling):
    """Sigmoid of a normal number: middling noise levels most (arXiv:2403.03206, equation 19).

    Args:
        mean: above 0 favours noisier times.
        std: spread; below 1 the ends are rarely seen.
        stratified: see `TimeSampling`.
    """

    def __init__(self, *, mean: float = 0.0, std: float = 1.0, stratified: bool = False) -> None:
        super().__init__(stratified=stratified)
        _check_std(std)
        self.mean = mean
        self.std = std

    def quantile(self, probability: Tensor, schedule: Schedule) -> Tensor:
        """Sigmoid of the normal quantile."""
        return torch.sigmoid(self.mean + self.std * torch.special.ndtri(probability))


class LogNormalSigma(TimeSampling):
    """Normal ln(sigma / alpha), limited to the schedule's levels (arXiv:2206.00364, table 1).

    Args:
        mean: mean of ln(sigma / alpha).
        std: its standard deviation.
        stratified: see `TimeSampling`.
    """

    def __init__(self, *, mean: float = -1.2, std: float = 1.2, stratified: bool = False) -> None:
        super().__init__(stratified=stratified)
        _check_std(std)
        self.mean = mean
        self.std = std

    def quantile(self, probability: Tensor, schedule: Schedule) -> Tensor:
        """Time of the normal quantile's noise level."""
        return schedule.time_from_log_snr(-2 * (self.mean + self.std * torch.special.ndtri(probability)))


class LogLogisticSigma(TimeSampling):
    """Logistic ln(sigma / alpha), truncated to the schedule's levels; its tails are heavier than the normal's.

    MoDE (arXiv 2412.12953) trains with ``location=ln(0.5)`` and ``scale=0.5`` on sigma in [0.001, 80]. Truncated, so
    that no level has a weight of its own at the ends; `LogNormalSigma` moves what lies beyond to the ends instead.

    Args:
        location: mean of ln(sigma / alpha) without truncation.
        scale: of the logistic distribution; its standard deviation is pi / sqrt(3) times this.
        stratified: see `TimeSampling`.
    """

    def __init__(self, *, location: float = math.log(0.5), scale: float = 0.5, stratified: bool = False) -> None:
        super().__init__(stratified=stratified)
        _check_std(scale)
        self.location = location
        self.scale = scale

    def quantile(self, probability: Tensor, schedule: Schedule) -> Tensor:
        """Time of the truncated logistic quantile's noise level."""
        ends = -schedule.log_snr(torch.tensor([0.0, 1.0], dtype=torch.float64)) / 2
        low, high = torch.sigmoid((ends - self.location) / self.scale).tolist()
        # In float64: the last quantiles before 1 are too coarse in float32.
        within = torch.logit(low + (high - low) * probability.double())
        return schedule.time_from_log_snr(-2 * (self.location + self.scale * within)).to(probability.dtype)


def _check_std(std: float) -> None:
    if std <= 0:
        raise ValueError(f"std {std} must be positive")
