"""Predictions: what a network is asked for, and the way from its output to clean data, noise or velocity.

Shape legend: t of any shape; every coefficient has the shape of t.

Every prediction is linear in the pair (x_0, eps) at fixed t, output = p x_0 + q eps, and x_t = alpha x_0 + sigma eps is
the second equation, so that one two-by-two solution converts any of them into any other.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from .schedules import Schedule


class Prediction(ABC):
    """A target that is linear in clean data and noise."""

    @abstractmethod
    def coefficients(self, schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
        """(p, q) of the target p x_0 + q eps."""

    @abstractmethod
    def gain(self, schedule: Schedule, t: Tensor) -> Tensor:
        """|d x_0 / d output| at fixed x_t: how an error of the output becomes an error of the clean estimate."""

    def input_scale(self, schedule: Schedule, t: Tensor) -> Tensor:
        """Factor on x_t before the network (c_in)."""
        return torch.ones_like(t)

    def noise_label(self, schedule: Schedule, t: Tensor) -> Tensor:
        """How weights of this kind are told the noise level (c_noise)."""
        return t


class EpsPrediction(Prediction):
    """The noise eps (arXiv:2006.11239). It says nothing of x_0 where alpha is zero: sample from below that time."""

    def coefficients(self, schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
        """(0, 1)."""
        return torch.zeros_like(t), torch.ones_like(t)

    def gain(self, schedule: Schedule, t: Tensor) -> Tensor:
        """Sigma / alpha."""
        return schedule.sigma(t) / schedule.alpha(t)


class X0Prediction(Prediction):
    """The clean data x_0."""

    def coefficients(self, schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
        """(1, 0)."""
        return torch.ones_like(t), torch.zeros_like(t)

    def gain(self, schedule: Schedule, t: Tensor) -> Tensor:
        """One."""
        return torch.ones_like(t)


class VPrediction(Prediction):
    """The mixture v = alpha eps - sigma x_0 (arXiv:2202.00512), finite at both ends of every schedule."""

    def coefficients(self, schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
        """(-sigma, alpha)."""
        return -schedule.sigma(t), schedule.alpha(t)

    def gain(self, schedule: Schedule, t: Tensor) -> Tensor:
        """Sigma / (alpha^2 + sigma^2)."""
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        return sigma / (alpha**2 + sigma**2)


class VelocityPrediction(Prediction):
    """The velocity dx_t/dt = alpha' x_0 + sigma' eps (arXiv:2210.02747); eps - x_0 on the linear flow.

    On variance-preserving schedules sigma' is infinite at t = 0: sample times from above 0.
    """

    def coefficients(self, schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
        """The slopes (alpha', sigma')."""
        return schedule.alpha_slope(t), schedule.sigma_slope(t)

    def gain(self, schedule: Schedule, t: Tensor) -> Tensor:
        """Sigma / (alpha sigma' - sigma alpha')."""
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        return sigma / (alpha * schedule.sigma_slope(t) - sigma * schedule.alpha_slope(t))


class PreconditionedPrediction(Prediction):
    """EDM's network F, x_0 = c_skip x_t + c_out F(c_in x_t, c_noise) (arXiv:2206.00364, table 1), for any schedule.

    Their formulas hold for alpha = 1; here x_t / alpha stands for x and sigma / alpha for sigma. With
    r^2 = alpha^2 sigma_data^2 + sigma^2 this leaves

        c_in = 1 / r,  c_out = sigma sigma_data / r,  c_skip = alpha sigma_data^2 / r^2

    and a target of unit variance, (sigma / sigma_data x_0 - alpha sigma_data eps) / r.

    Args:
        sigma_data: standard deviation of the data.
    """

    def __init__(self, *, sigma_data: float = 0.5) -> None:
        if sigma_data <= 0:
            raise ValueError(f"sigma_data {sigma_data} must be positive: it is the standard deviation of the data")
        self.sigma_data = sigma_data

    def _root(self, schedule: Schedule, t: Tensor) -> Tensor:
        return torch.hypot(schedule.alpha(t) * self.sigma_data, schedule.sigma(t))

    def coefficients(self, schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
        """(sigma / sigma_data, -alpha sigma_data) / r."""
        root = self._root(schedule, t)
        return schedule.sigma(t) / (self.sigma_data * root), -schedule.alpha(t) * self.sigma_data / root

    def gain(self, schedule: Schedule, t: Tensor) -> Tensor:
        """The factor c_out."""
        return schedule.sigma(t) * self.sigma_data / self._root(schedule, t)

    def input_scale(self, schedule: Schedule, t: Tensor) -> Tensor:
        """The factor c_in."""
        return 1 / self._root(schedule, t)

    def noise_label(self, schedule: Schedule, t: Tensor) -> Tensor:
        """The label c_noise = ln(sigma / alpha) / 4."""
        return -schedule.log_snr(t) / 8
