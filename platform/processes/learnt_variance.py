"""Diffusion whose network learns the variance of its steps beside their mean.

Shape legend: B batch, C channels, T steps of the table; ... further axes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..errors import ConfigurationError
from ..state import expand_time, masked_mean
from .predictions import EpsPrediction, Prediction
from .process import Process, Quantity
from .tabulated import DDPMSchedule, TabulatedSchedule
from .time_sampling import StepTime
from .weightings import Weighting

BIN = 1 / 255
"""Half the width of one of 256 grey levels, for data in [-1, 1]."""


class LearntVarianceProcess(Process):
    """Discrete diffusion with a hybrid objective (arXiv:2102.09672, equations 14 to 16), as DiT is published.

    The network gives twice the channels of its field, [B, 2 C, ...], or [B, N, 2 C] of tokens. The first half is what
    the prediction says. The second, v in about [-1, 1], places the logarithm of each value's variance between those of
    the posterior (-1) and of the forward step (1). The loss is that of the first half, and the variational bound in
    bits per value for the second; the bound does not touch the first, which is detached there.

    Args:
        schedule: table of steps; default `DDPMSchedule`.
        prediction: of the first half; default `EpsPrediction`.
        weighting: of its squared error.
        bound_weight: of the variational bound; 1 in DiT, and T / 1000 in the paper's own code.

    Raises:
        ConfigurationError: if the weight is negative.
    """

    schedule: TabulatedSchedule

    def __init__(
        self,
        schedule: TabulatedSchedule | None = None,
        prediction: Prediction | None = None,
        weighting: Weighting | None = None,
        bound_weight: float = 1.0,
    ) -> None:
        table = schedule or DDPMSchedule()
        super().__init__(table, prediction or EpsPrediction(), weighting, StepTime(steps=table.steps))
        if bound_weight < 0:
            raise ConfigurationError(f"bound_weight {bound_weight} must not be negative; DiT takes 1")
        self.bound_weight = bound_weight

    def convert(self, prediction: Tensor, x_t: Tensor, t: Tensor, to: Quantity = "x0") -> Tensor:
        """The first half of the network's output as clean estimate, noise or velocity."""
        return super().convert(self._halves(prediction, x_t)[0], x_t, t, to)

    def spread(self, prediction: Tensor, x_t: Tensor) -> Tensor:
        """The second half of the network's output, shaped as the field."""
        return self._halves(prediction, x_t)[1]

    def loss(self, prediction: Tensor, x0: Tensor, noise: Tensor, t: Tensor, mask: Tensor | None = None) -> Tensor:
        """Weighted squared error of the first half and the weighted bound of the second, a scalar."""
        mean, spread = self._halves(prediction, x0)
        bound = self.bound(mean.detach().to(x0.dtype), spread.to(x0.dtype), x0, noise, t)
        return super().loss(mean, x0, noise, t, mask) + self.bound_weight * masked_mean(bound, mask)

    def bound(self, mean: Tensor, spread: Tensor, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Term of the variational bound at step t for every value, [B, C, ...], in bits.

        The divergence of the true posterior q(x_{t-1} | x_t, x_0) from the model's step; at the first step, which ends
        in data, the negative log-likelihood of the data's grey level instead.

        Args:
            mean: [B, C, ...] first half of the output.
            spread: [B, C, ...] second half.
            x0, noise: [B, C, ...].
            t: [B], whole steps of the table.
        """
        x_t = self.corrupt(x0, noise, t)
        tables = self.schedule.posterior(t)
        of_x0, of_x_t, low, high = (expand_time(table.to(x0.dtype), x0) for table in tables)
        log_variance = low + (spread + 1) / 2 * (high - low)
        estimate = of_x0 * super().convert(mean, x_t, t, to="x0") + of_x_t * x_t
        true_mean = of_x0 * x0 + of_x_t * x_t
        divergence = 0.5 * (
            log_variance - low - 1 + (low - log_variance).exp()
            + (true_mean - estimate).square() * (-log_variance).exp()
        )
        last = expand_time(t <= 0, x0)
        surprise = -log_likelihood_of_level(x0, estimate, 0.5 * log_variance)
        return torch.where(last, surprise, divergence) / math.log(2)

    @staticmethod
    def _halves(prediction: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        # images have their channels first and tokens last: the axis that is twice as long
        axes = [a for a in range(1, like.ndim) if prediction.shape[a] == 2 * like.shape[a]]
        if not axes:
            channels, given = like.shape[1], prediction.shape[1]
            raise ConfigurationError(
                f"the network gives {given} channels for a field of {channels}, and a learnt variance needs "
                f"{2 * channels}: set the head's out_channels (of tokens, its fields) to that, or take "
                "polydit.platform.processes.Process"
            )
        mean, spread = prediction.chunk(2, dim=axes[0])
        return mean, spread


def log_likelihood_of_level(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Log-probability that a normal number falls into the grey level of x, one of 256 (arXiv:2006.11239, equation 13).

    Levels lie in [-1, 1]; the outermost extend to infinity.
    """
    inverse = (-log_std).exp()
    above, below = (x - mean + BIN) * inverse, (x - mean - BIN) * inverse
    upper, lower = torch.special.ndtr(above), torch.special.ndtr(below)
    inside = (upper - lower).clamp(min=1e-12).log()
    return torch.where(
        x < -0.999, torch.special.log_ndtr(above), torch.where(x > 0.999, torch.special.log_ndtr(-below), inside)
    )
