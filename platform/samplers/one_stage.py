"""Samplers of one denoiser call a step: Euler, DDIM, ancestral and DPM-Solver++ 2M, each on any process.

Shape legend: N steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from ..errors import ConfigurationError
from ..processes import Process, Schedule
from ..state import State
from .grids import Grid, StepGrid
from .sampler import Coefficients, Denoise, DrawNoise, LinearSampler, SamplerState, first_order, spread_of


class Euler(LinearSampler):
    """Euler's method on the probability-flow equation: first order, deterministic.

    Integrated in the straight clock (`first_order`), where it is exact for any schedule if the estimate stands still.
    On EDM it is the Euler step of arXiv:2206.00364, on the linear flow that of flow matching.
    """

    def coefficients(self, alpha: Tensor, sigma: Tensor, schedule: Schedule) -> Coefficients:
        """Carry and estimate alone."""
        carry, estimate = first_order(alpha, sigma)
        zeros = torch.zeros_like(carry)
        return Coefficients(carry, estimate, zeros, zeros)


class DDIM(LinearSampler):
    """Denoising diffusion implicit sampling (arXiv:2010.02502, equations 12 and 16), on any process.

    Args:
        steps: see `Sampler`.
        grid: see `Sampler`.
        eta: share of the ancestral noise; 0 is deterministic and equals `Euler`, 1 equals `Ancestral`.
    """

    def __init__(self, steps: int = 50, grid: Grid | None = None, eta: float = 0.0) -> None:
        super().__init__(steps, grid)
        if not 0 <= eta <= 1:
            raise ValueError(f"eta {eta} must be in [0, 1]: 0 is deterministic, 1 ancestral")
        self.eta = eta
        self.is_stochastic = eta > 0

    def coefficients(self, alpha: Tensor, sigma: Tensor, schedule: Schedule) -> Coefficients:
        """X' = alpha' x0 + sqrt(sigma'^2 - noise^2) eps + noise z."""
        noise = self.eta * ancestral_noise(alpha, sigma)
        carry = (sigma[1:] ** 2 - noise**2).clamp(min=0).sqrt() / sigma[:-1]
        return Coefficients(carry, alpha[1:] - carry * alpha[:-1], torch.zeros_like(carry), noise)


class Ancestral(LinearSampler):
    """Draws x' from the process's own posterior given x and the estimate (DDPM, arXiv:2006.11239, equations 6-7).

    With alpha = 1 this is the "Euler ancestral" sampler of the EDM family.

    Args:
        steps: see `Sampler`.
        grid: see `Sampler`.
        variance: "posterior", right for data without spread (DDPM's beta tilde, "fixed small"), or "forward", right
            for data of unit variance (DDPM's beta, "fixed large"); the two bounds of the reverse variance.
    """

    is_stochastic = True

    def __init__(
        self,
        steps: int = 50,
        grid: Grid | None = None,
        variance: Literal["posterior", "forward"] = "posterior",
    ) -> None:
        super().__init__(steps, grid)
        if variance not in ("posterior", "forward"):
            raise ValueError(f"variance {variance!r} is neither 'posterior' nor 'forward'")
        self.variance = variance

    def coefficients(self, alpha: Tensor, sigma: Tensor, schedule: Schedule) -> Coefficients:
        """Posterior mean; its standard deviation or that of the forward step."""
        forward = forward_noise(alpha, sigma)
        carry = alpha[:-1] / alpha[1:] * (sigma[1:] / sigma[:-1]) ** 2
        noise = ancestral_noise(alpha, sigma) if self.variance == "posterior" else forward
        return Coefficients(carry, alpha[1:] * (forward / sigma[:-1]) ** 2, torch.zeros_like(carry), noise)


class LearntAncestral(Ancestral):
    """Ancestral sampling with the variance that the network has learnt (arXiv:2102.09672, equation 15).

    It lies between the two bounds of `Ancestral`, value by value; for `LearntVarianceProcess` alone.

    Args:
        steps: see `Sampler`; DiT takes 250 of its 1000.
        grid: see `Sampler`; default `StepGrid`, of 1000 levels.
    """

    def __init__(self, steps: int = 250, grid: Grid | None = None) -> None:
        super().__init__(steps, grid or StepGrid(), "posterior")

    def init(self, grid: Tensor, processes: Mapping[str, Process], x: State, draw: DrawNoise | None) -> SamplerState:
        """The posterior's coefficients as the steps, those with the forward noise beside them."""
        S = super().init(grid, processes, x, draw)
        widest = Ancestral(self.steps, self.grid, "forward").init(grid, processes, x, draw)
        return replace(S, predictor=widest.steps)

    def step(self, denoise: Denoise, x: State, i: int, S: SamplerState) -> tuple[State, SamplerState]:
        """The posterior's mean and noise of the learnt variance.

        Raises:
            ConfigurationError: if the network has learnt none.
        """
        estimate = denoise(x, S.times[i])
        fresh = S.draw() if S.draw is not None else {}
        result = {}
        for name, table in S.steps.items():
            spread = estimate.get(spread_of(name))
            if spread is None:
                raise ConfigurationError(
                    f"field {name!r} has no learnt variance: take polydit.platform.processes.LearntVarianceProcess, or "
                    "sample by polydit.platform.samplers.Ancestral"
                )
            low, high = table.noise[i], S.predictor[name].noise[i]
            noise = low * (high / low) ** ((spread + 1) / 2).to(low.dtype)
            value = table.carry[i] * x[name] + table.estimate[i] * estimate[name]
            result[name] = value + noise * fresh[name].to(value.dtype)
        return result, replace(S, previous=estimate)


class DPMSolverPP2M(LinearSampler):
    """DPM-Solver++ 2M (arXiv:2211.01095, algorithm 2): second order, one call a step, deterministic.

    Steps in log(alpha / sigma) with the estimate extrapolated through the last one. The first step, steps from or
    after alpha = 0 and the closing step are of first order, there being nothing finite to extrapolate with.
    """

    def coefficients(self, alpha: Tensor, sigma: Tensor, schedule: Schedule) -> Coefficients:
        """First-order step with x0 replaced by x0 + (x0 - previous x0) h / (2 h_previous)."""
        carry, estimate = first_order(alpha, sigma)
        h = (alpha.log() - sigma.log()).diff()
        half = torch.zeros_like(h)
        half[1:] = 0.5 * h[1:] / h[:-1]
        half = torch.where(h.isfinite() & half.isfinite(), half, 0.0)
        return Coefficients(carry, estimate * (1 + half), -estimate * half, torch.zeros_like(carry))


def forward_noise(alpha: Tensor, sigma: Tensor) -> Tensor:
    """Standard deviation [N - 1] of x given x' = x at i + 1 under the forward process.

    Its square is sigma^2 - (alpha / alpha')^2 sigma'^2.
    """
    return (sigma[:-1] ** 2 - (alpha[:-1] / alpha[1:] * sigma[1:]) ** 2).clamp(min=0).sqrt()


def ancestral_noise(alpha: Tensor, sigma: Tensor) -> Tensor:
    """Standard deviation [N - 1] of x' given x and x0 under the forward process."""
    return sigma[1:] / sigma[:-1] * forward_noise(alpha, sigma)
