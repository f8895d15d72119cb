"""Schedules: how much data and how much noise a sample holds at time t, x_t = alpha(t) x_0 + sigma(t) eps.

Shape legend: every function takes t of any shape and float type on any device and returns the same.

t = 0 is data and t = 1 is noise. Where a schedule is singular (the slope of sigma at t = 0 of a variance-preserving
one, the log-SNR at either end of the linear flow) it returns the infinity that it is.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

Clock = Literal["ratio", "flow"]
"""What a solver of second order integrates in: "ratio" sigma / alpha, or "flow" sigma / (alpha + sigma)."""


class Schedule(ABC):
    """Closed forms of alpha and sigma, their slopes, and the log signal-to-noise ratio that names a noise level.

    Args:
        clock: the clock of this schedule's published solvers (see `Clock`); `Heun` follows it.
    """

    clock: Clock = "ratio"

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Scale of the data at t."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Standard deviation of the noise at t."""

    @abstractmethod
    def alpha_slope(self, t: Tensor) -> Tensor:
        """Derivative of alpha by t."""

    @abstractmethod
    def sigma_slope(self, t: Tensor) -> Tensor:
        """Derivative of sigma by t."""

    @abstractmethod
    def time_from_log_snr(self, log_snr: Tensor) -> Tensor:
        """Time whose log-SNR this is; outside [0, 1] or clamped to it where the schedule does not reach that level."""

    def log_snr(self, t: Tensor) -> Tensor:
        """Log signal-to-noise ratio log(alpha^2 / sigma^2), falling in t."""
        return 2 * (self.alpha(t).log() - self.sigma(t).log())


class LinearFlowSchedule(Schedule):
    """Straight path alpha = 1 - t, sigma = t of flow matching and rectified flow (arXiv:2210.02747, 2209.03003)."""

    clock: Clock = "flow"

    def alpha(self, t: Tensor) -> Tensor:
        """1 - t."""
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        """The time itself."""
        return t.clone()

    def alpha_slope(self, t: Tensor) -> Tensor:
        """Minus one."""
        return -torch.ones_like(t)

    def sigma_slope(self, t: Tensor) -> Tensor:
        """One."""
        return torch.ones_like(t)

    def time_from_log_snr(self, log_snr: Tensor) -> Tensor:
        """Inverse of 2 log((1 - t) / t)."""
        return torch.sigmoid(-log_snr / 2)


class VariancePreservingSchedule(Schedule):
    """Schedules with alpha^2 + sigma^2 = 1, given by alpha and, so that nothing cancels, by sigma^2."""

    @abstractmethod
    def variance(self, t: Tensor) -> Tensor:
        """sigma^2 at t, accurate where alpha is near one."""

    def sigma(self, t: Tensor) -> Tensor:
        """Square root of the variance."""
        return self.variance(t).clamp(min=0).sqrt()

    def sigma_slope(self, t: Tensor) -> Tensor:
        """-alpha alpha' / sigma, from alpha^2 + sigma^2 = 1; infinite where sigma is zero and alpha falls."""
        return -self.alpha(t) * self.alpha_slope(t) / self.sigma(t)


class VPLinearSchedule(VariancePreservingSchedule):
    """Variance-preserving diffusion with noise rate beta(t) linear in t (arXiv:2011.13456, equation 32).

    Args:
        beta_min: noise rate at t = 0.
        beta_max: noise rate at t = 1; alpha(1) = exp(-(beta_min + beta_max) / 4).
    """

    def __init__(self, *, beta_min: float = 0.1, beta_max: float = 20.0) -> None:
        if not 0 < beta_min <= beta_max:
            raise ValueError(
                f"beta_min {beta_min} and beta_max {beta_max} must be 0 < beta_min <= beta_max, e.g. 0.1 and 20"
            )
        self.beta_min = beta_min
        self.beta_max = beta_max

    def _integral(self, t: Tensor) -> Tensor:
        """Integral of beta from 0 to t, which is -log alpha^2."""
        return t * (self.beta_min + (self.beta_max - self.beta_min) * t / 2)

    def alpha(self, t: Tensor) -> Tensor:
        """Exponential of minus half the integrated rate."""
        return torch.exp(-self._integral(t) / 2)

    def variance(self, t: Tensor) -> Tensor:
        """One minus alpha^2, by expm1."""
        return -torch.expm1(-self._integral(t))

    def alpha_slope(self, t: Tensor) -> Tensor:
        """-beta(t) alpha / 2."""
        return -(self.beta_min + (self.beta_max - self.beta_min) * t) / 2 * self.alpha(t)

    def time_from_log_snr(self, log_snr: Tensor) -> Tensor:
        """Positive root of the quadratic integral(t) = -log alpha^2 = softplus(-log_snr)."""
        target = softplus(-log_snr, threshold=60)
        rise = self.beta_max - self.beta_min
        return 2 * target / (self.beta_min + torch.sqrt(self.beta_min**2 + 2 * rise * target))


class VPCosineSchedule(VariancePreservingSchedule):
    """Variance-preserving diffusion along a cosine (arXiv:2102.09672, equation 17); alpha(1) is exactly zero.

    Args:
        offset: shift s of the angle, which keeps the first noise levels from being too small. 0: sigma = sin(pi t / 2).
    """

    def __init__(self, *, offset: float = 0.008) -> None:
        if not 0 <= offset < 1:
            raise ValueError(f"offset {offset} must be in [0, 1); the published value is 0.008")
        self.offset = offset
        self._rate = math.pi / 2 / (1 + offset)
        self._start = offset * self._rate

    def alpha(self, t: Tensor) -> Tensor:
        """Cosine of the angle over its value at t = 0, written as a sine so that it ends at exactly zero."""
        return torch.sin((1 - t) * self._rate) / math.cos(self._start)

    def variance(self, t: Tensor) -> Tensor:
        """(cos^2 a - cos^2 b) / cos^2 a = sin(b - a) sin(b + a) / cos^2 a with a, b the angles at 0 and t."""
        angle = t * self._rate
        return torch.sin(angle) * torch.sin(angle + 2 * self._start) / math.cos(self._start) ** 2

    def alpha_slope(self, t: Tensor) -> Tensor:
        """Derivative of the cosine."""
        return -self._rate * torch.sin(t * self._rate + self._start) / math.cos(self._start)

    def time_from_log_snr(self, log_snr: Tensor) -> Tensor:
        """Arc cosine of alpha, taken as an arc tangent, which stays accurate at both ends."""
        cosine = torch.sigmoid(log_snr).sqrt() * math.cos(self._start)
        # sin^2 b = 1 - cos^2 b = sigma^2 cos^2 a + sin^2 a
        sine = (torch.sigmoid(-log_snr) * math.cos(self._start) ** 2 + math.sin(self._start) ** 2).sqrt()
        return (torch.atan2(sine, cosine) - self._start) / self._rate


class VPPolynomialSchedule(VariancePreservingSchedule):
    """Variance-preserving diffusion with alpha^2 = (1 - 2 p) (1 - t^power)^2 + p (arXiv:2203.17003, appendix B).

    The published table also limits the ratio of neighbouring alpha^2 to 0.001, which moves only its last entry.

    Args:
        power: exponent; 2 is the published "polynomial_2".
        precision: p, what keeps sigma(0)^2 and alpha(1)^2 above zero.
    """

    def __init__(self, *, power: float = 2.0, precision: float = 1e-5) -> None:
        if power <= 0:
            raise ValueError(f"power {power} must be positive; the published value is 2")
        if not 0 < precision < 0.5:
            raise ValueError(f"precision {precision} must be in (0, 0.5); the published value is 1e-5")
        self.power = power
        self.precision = precision

    def alpha(self, t: Tensor) -> Tensor:
        """Square root of the polynomial."""
        return ((1 - 2 * self.precision) * (1 - t**self.power) ** 2 + self.precision).sqrt()

    def variance(self, t: Tensor) -> Tensor:
        """One minus alpha^2, p + (1 - 2 p) u (2 - u) with u = t^power."""
        u = t**self.power
        return self.precision + (1 - 2 * self.precision) * u * (2 - u)

    def alpha_slope(self, t: Tensor) -> Tensor:
        """Derivative of the square root."""
        inner = (1 - t**self.power) * self.power * t ** (self.power - 1)
        return -(1 - 2 * self.precision) * inner / self.alpha(t)

    def time_from_log_snr(self, log_snr: Tensor) -> Tensor:
        """Inverse of the polynomial, clamped to the levels that it reaches."""
        scale = 1 - 2 * self.precision
        rise = ((torch.sigmoid(-log_snr) - self.precision) / scale).clamp(0, 1)  # u (2 - u)
        fall = ((torch.sigmoid(log_snr) - self.precision) / scale).clamp(0, 1)  # (1 - u)^2
        return (rise / (1 + fall.sqrt())) ** (1 / self.power)


class EDMSchedule(Schedule):
    """Variance-exploding diffusion, alpha = 1, time uniform in sigma^(1/rho) (arXiv:2206.00364, equation 5).

    Args:
        sigma_min: noise at t = 0; what a sampler's closing estimate removes.
        sigma_max: noise at t = 1.
        rho: how strongly a uniform grid in t crowds at low noise.
    """

    def __init__(self, *, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> None:
        if not 0 < sigma_min < sigma_max:
            raise ValueError(
                f"sigma_min {sigma_min} and sigma_max {sigma_max} must be 0 < sigma_min < sigma_max, e.g. 0.002 and 80"
            )
        if rho <= 0:
            raise ValueError(f"rho {rho} must be positive; the published value is 7")
        self.sigma_min = sigma_min
        self.sigma_max = sigma_max
        self.rho = rho
        self._low = sigma_min ** (1 / rho)
        self._span = sigma_max ** (1 / rho) - self._low

    def alpha(self, t: Tensor) -> Tensor:
        """One."""
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        """(low + t (high - low))^rho with the rho-th roots of the two ends."""
        return (self._low + t * self._span) ** self.rho

    def alpha_slope(self, t: Tensor) -> Tensor:
        """Zero."""
        return torch.zeros_like(t)

    def sigma_slope(self, t: Tensor) -> Tensor:
        """Derivative of the power."""
        return self.rho * self._span * (self._low + t * self._span) ** (self.rho - 1)

    def time_from_log_snr(self, log_snr: Tensor) -> Tensor:
        """Inverse of the power; sigma outside [sigma_min, sigma_max] gives t outside [0, 1]."""
        return (torch.exp(-log_snr / (2 * self.rho)) - self._low) / self._span
