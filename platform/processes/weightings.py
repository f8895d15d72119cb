"""Weightings: how much the squared error at each noise level counts.

Shape legend: t of any shape; weights have the shape of t.

Papers state weights for different errors. Here each weighting but `UniformWeighting` is stated for the squared error of
the clean estimate and turned into the weight of the squared error of what the network predicts, so that a weighting
means the same under every prediction.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from .predictions import Prediction
from .schedules import Schedule


class Weighting(ABC):
    """Weight of the squared error of the network's output."""

    @abstractmethod
    def weight(self, schedule: Schedule, prediction: Prediction, t: Tensor) -> Tensor:
        """Weight at t."""


class UniformWeighting(Weighting):
    """One, on whatever the network predicts: DDPM's simple loss with eps, flow matching with velocity."""

    def weight(self, schedule: Schedule, prediction: Prediction, t: Tensor) -> Tensor:
        """One."""
        return torch.ones_like(t)


class CleanWeighting(Weighting):
    """Weightings stated for the squared error of the clean estimate."""

    @abstractmethod
    def clean_weight(self, schedule: Schedule, t: Tensor) -> Tensor:
        """Weight of |x_0 - estimate|^2 at t."""

    def weight(self, schedule: Schedule, prediction: Prediction, t: Tensor) -> Tensor:
        """The clean weight times the square of the prediction's gain."""
        return self.clean_weight(schedule, t) * prediction.gain(schedule, t) ** 2


class CleanUniformWeighting(CleanWeighting):
    """One on the clean estimate, whatever the network predicts."""

    def clean_weight(self, schedule: Schedule, t: Tensor) -> Tensor:
        """One."""
        return torch.ones_like(t)


class SNRWeighting(CleanWeighting):
    """The signal-to-noise ratio limited to [low, high]; unlimited it weighs every error of eps alike.

    With ``high=5`` this is min-SNR-5 (arXiv:2303.09556, equation 9); with ``low=1`` truncated SNR (arXiv:2202.00512).

    Args:
        low: smallest weight.
        high: largest weight.
        offset: added to the ratio; 1 with v prediction weighs every error of v alike ("SNR + 1").
    """

    def __init__(self, *, low: float = 0.0, high: float = float("inf"), offset: float = 0.0) -> None:
        if not 0 <= low < high:
            raise ValueError(f"low {low} and high {high} must be 0 <= low < high")
        self.low = low
        self.high = high
        self.offset = offset

    def clean_weight(self, schedule: Schedule, t: Tensor) -> Tensor:
        """The limited ratio."""
        return (schedule.log_snr(t).exp() + self.offset).clamp(self.low, self.high)


class EDMWeighting(CleanWeighting):
    """1 / sigma^2 + 1 / sigma_data^2, which weighs every error of EDM's network alike (arXiv:2206.00364, table 1).

    Args:
        sigma_data: standard deviation of the data, as in `PreconditionedPrediction`.
    """

    def __init__(self, *, sigma_data: float = 0.5) -> None:
        if sigma_data <= 0:
            raise ValueError(f"sigma_data {sigma_data} must be positive: it is the standard deviation of the data")
        self.sigma_data = sigma_data

    def clean_weight(self, schedule: Schedule, t: Tensor) -> Tensor:
        """SNR + 1 / sigma_data^2."""
        return schedule.log_snr(t).exp() + 1 / self.sigma_data**2


class ClippedWeighting(CleanWeighting):
    """1 / max(sigma, floor)^2: the linear flow's velocity error seen at the clean estimate, limited near the data.

    With the linear flow and ``floor=0.1`` this is 1 / (1 - min(t_data, 0.9))^2 of ADiT (arXiv:2503.03965).

    Args:
        floor: sigma below which the weight grows no further; the largest weight is 1 / floor^2.
    """

    def __init__(self, *, floor: float = 0.1) -> None:
        if floor <= 0:
            raise ValueError(f"floor {floor} must be positive; the published value is 0.1")
        self.floor = floor

    def clean_weight(self, schedule: Schedule, t: Tensor) -> Tensor:
        """The limited inverse square."""
        return schedule.sigma(t).clamp(min=self.floor) ** -2


class SigmoidWeighting(CleanWeighting):
    """Sigmoid in log-SNR on the error of eps, sigmoid(bias - log SNR) (arXiv:2303.00848, 2410.19324).

    Args:
        bias: log-SNR at which the weight is half its largest; 2 favours noisier levels than 0.
    """

    def __init__(self, *, bias: float = 0.0) -> None:
        self.bias = bias

    def clean_weight(self, schedule: Schedule, t: Tensor) -> Tensor:
        """sigmoid(bias - l) exp(l) = exp(bias) sigmoid(l - bias), which does not overflow."""
        return math.exp(self.bias) * torch.sigmoid(schedule.log_snr(t) - self.bias)
