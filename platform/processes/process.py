"""The process: the noising law of one field, made of four independent choices and a prior.

Shape legend: B batch, N tokens; t is 0-dim, [B] or, per token, [B, N].
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ..state import expand_time, masked_mean
from .predictions import EpsPrediction, PreconditionedPrediction, Prediction, VelocityPrediction, X0Prediction
from .priors import GaussianPrior, Prior
from .schedules import EDMSchedule, LinearFlowSchedule, Schedule
from .tabulated import DDPMSchedule
from .time_sampling import LogitNormalTime, LogNormalSigma, TimeSampling, UniformTime
from .weightings import EDMWeighting, UniformWeighting, Weighting

Quantity = Literal["x0", "eps", "velocity"]
"""What a network's output can be read as."""

_QUANTITIES: dict[str, Prediction] = {"x0": X0Prediction(), "eps": EpsPrediction(), "velocity": VelocityPrediction()}


class Process:
    """x_t = alpha(t) x_0 + sigma(t) eps, what a network learns of it, and at which noise levels.

    Args:
        schedule: alpha and sigma.
        prediction: what the network is asked for.
        weighting: weight of the squared error at each t; default `UniformWeighting`.
        time_sampling: at which t to train; default `UniformTime` on [0, 1].
        prior: what noise is made of; default `GaussianPrior`.
    """

    def __init__(
        self,
        schedule: Schedule,
        prediction: Prediction,
        weighting: Weighting | None = None,
        time_sampling: TimeSampling | None = None,
        prior: Prior | None = None,
    ) -> None:
        self.schedule = schedule
        self.prediction = prediction
        self.weighting = weighting or UniformWeighting()
        self.time_sampling = time_sampling or UniformTime()
        self.prior = prior or GaussianPrior()

    @classmethod
    def ddpm(cls, steps: int = 1000) -> Process:
        """DDPM (arXiv:2006.11239): linear betas, eps, unweighted; continuous in t between its `steps` levels."""
        return cls(DDPMSchedule(steps=steps), EpsPrediction())

    @classmethod
    def edm(cls, sigma_data: float = 0.5) -> Process:
        """EDM (arXiv:2206.00364, table 1) for data of this standard deviation."""
        return cls(
            EDMSchedule(), PreconditionedPrediction(sigma_data=sigma_data), EDMWeighting(sigma_data=sigma_data),
            LogNormalSigma(),
        )

    @classmethod
    def flow_matching(cls) -> Process:
        """Conditional flow matching on the straight path (arXiv:2210.02747): velocity, uniform times."""
        return cls(LinearFlowSchedule(), VelocityPrediction())

    @classmethod
    def rectified_flow(cls) -> Process:
        """Rectified flow with logit-normal times (arXiv:2403.03206)."""
        return cls(LinearFlowSchedule(), VelocityPrediction(), time_sampling=LogitNormalTime())

    def sample_time(
        self, batch_size: int, generator: torch.Generator, device: torch.device | str = "cpu"
    ) -> Tensor:
        """Training times [B], float32."""
        return self.time_sampling.sample(batch_size, self.schedule, generator, device)

    def corrupt(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t [B, ...] from clean data and noise of the prior."""
        return expand_time(self.schedule.alpha(t), x0) * x0 + expand_time(self.schedule.sigma(t), x0) * noise

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the network should predict at t."""
        of_data, of_noise = self.prediction.coefficients(self.schedule, t)
        return expand_time(of_data, x0) * x0 + expand_time(of_noise, x0) * noise

    def weight(self, t: Tensor) -> Tensor:
        """Weight of the squared error of the network's output, shaped as t."""
        return self.weighting.weight(self.schedule, self.prediction, t)

    def input_scale(self, t: Tensor) -> Tensor:
        """Factor on x_t before the network, shaped as t; one but for `PreconditionedPrediction`."""
        return self.prediction.input_scale(self.schedule, t)

    def noise_label(self, t: Tensor) -> Tensor:
        """What tells weights trained elsewhere the noise level, shaped as t; t itself but for EDM's networks."""
        return self.prediction.noise_label(self.schedule, t)

    def convert(self, prediction: Tensor, x_t: Tensor, t: Tensor, to: Quantity = "x0") -> Tensor:
        """The network's output as clean estimate, noise or velocity.

        Args:
            prediction: [B, ...] output of the network for x_t (scaled by `input_scale`) at t.
            x_t: [B, ...] unscaled.
            t: 0-dim, [B] or [B, N].
            to: the quantity wanted. Not finite where the output does not determine it: x0 from eps where alpha is
                zero, eps or velocity from x0 where sigma is zero.
        """
        wanted = _QUANTITIES[to]
        if type(wanted) is type(self.prediction):
            return prediction
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        p, q = self.prediction.coefficients(self.schedule, t)
        p_wanted, q_wanted = wanted.coefficients(self.schedule, t)
        determinant = alpha * q - sigma * p
        of_output = (alpha * q_wanted - sigma * p_wanted) / determinant
        of_input = (p_wanted * q - q_wanted * p) / determinant
        return expand_time(of_output, x_t) * prediction + expand_time(of_input, x_t) * x_t

    def spread(self, prediction: Tensor, x_t: Tensor) -> Tensor | None:
        """What the network says of the variance of its steps, shaped as x_t; None, the default: nothing."""
        return None

    def loss(self, prediction: Tensor, x0: Tensor, noise: Tensor, t: Tensor, mask: Tensor | None = None) -> Tensor:
        """Weighted mean squared error, a scalar; `mask`, [B, N] bool or with more axes, says over what."""
        error = prediction.to(x0.dtype) - self.target(x0, noise, t)
        return masked_mean(expand_time(self.weight(t), error) * error.square(), mask)
