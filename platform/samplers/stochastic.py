"""Stochastic sampling of interpolants: noise whose strength is chosen when sampling, whatever the training was.

Shape legend: N steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal, get_args

import torch
from torch import Tensor

from ..processes import Process, Schedule
from ..state import State
from .grids import Grid, UniformGrid
from .sampler import Coefficients, DrawNoise, LinearSampler, SamplerState, first_order

Diffusion = Literal["sigma", "linear", "constant", "sine"]


class EulerMaruyama(LinearSampler):
    """The method of Euler and Maruyama on SiT's stochastic equation (arXiv:2401.08740, equation 5), on any process.

    From noise to data x moves by (D s - v) h + sqrt(2 D h) z, with the velocity v = dx / dt, the score s = (alpha x0 -
    x) / sigma² and any D(t) >= 0: all of them have the same distributions at every time. D = 0 is Euler's method on the
    probability-flow equation. The closing estimate takes the place of the published last step, which adds no noise.

    Args:
        steps: see `Sampler`; 250 in the publication.
        grid: see `Sampler`; default: evenly from 1 to 0.04, as published. Its last time must be above 0.
        diffusion: D, "sigma" (the default there), "linear" in t, "constant", or "sine" sin²(pi t), which adds noise in
            the middle alone.
        strength: factor of D.
    """

    is_stochastic = True

    def __init__(
        self, steps: int = 250, grid: Grid | None = None, diffusion: Diffusion = "sigma", strength: float = 1.0
    ) -> None:
        super().__init__(steps, grid or UniformGrid(t_min=0.04, include_end=True))
        if diffusion not in get_args(Diffusion):
            raise ValueError(f"diffusion {diffusion!r} is none of {', '.join(get_args(Diffusion))}")
        if strength < 0:
            raise ValueError(f"strength {strength} must not be negative; 0 adds no noise")
        self.diffusion, self.strength = diffusion, strength

    def coefficients(self, alpha: Tensor, sigma: Tensor, schedule: Schedule) -> Coefficients:
        """Those of the deterministic walk; `init`, which knows the times, replaces them."""
        carry, estimate = first_order(alpha, sigma)
        zeros = torch.zeros_like(carry)
        return Coefficients(carry, estimate, zeros, zeros)

    def init(self, grid: Tensor, processes: Mapping[str, Process], x: State, draw: DrawNoise | None) -> SamplerState:
        """Weights of x, of the clean estimate and of the noise in every step."""
        S = super().init(grid, processes, x, draw)
        return replace(S, steps={
            name: self._weigh(grid, process.schedule).to(x[name]) for name, process in processes.items()
        })  # fmt: skip

    def _weigh(self, grid: Tensor, schedule: Schedule) -> Coefficients:
        t, h = grid[:-1], -grid.diff()
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        if (sigma <= 0).any():
            raise ValueError("the grid asks where there is no noise, and no score: end it above 0, e.g. t_min: 0.04")
        diffusion = self.strength * self._coefficient(t, sigma)
        slope = schedule.sigma_slope(t) / sigma
        pull = diffusion / sigma**2
        return Coefficients(
            1 - h * (slope + pull), h * (alpha * (slope + pull) - schedule.alpha_slope(t)), torch.zeros_like(t),
            (2 * diffusion * h).sqrt(),
        )

    def _coefficient(self, t: Tensor, sigma: Tensor) -> Tensor:
        if self.diffusion == "sigma":
            return sigma
        if self.diffusion == "linear":
            return t
        return torch.ones_like(t) if self.diffusion == "constant" else torch.sin(math.pi * t) ** 2
