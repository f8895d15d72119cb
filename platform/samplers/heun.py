"""Heun's method: second order from two denoiser calls a step.

Shape legend: N steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from ..processes import Process, Schedule
from ..state import State
from .grids import Grid
from .sampler import Coefficients, Denoise, DrawNoise, Sampler, SamplerState, first_order


class Heun(Sampler):
    """Heun's method on the probability-flow equation: second order, deterministic (arXiv:2206.00364, algorithm 1).

    With k = 0 or 1 and s = alpha + k sigma, y = x / s moves with slope eps - k x0 in the clock sigma / s. k = 0 is the
    clock of EDM, "ratio"; k = 1 that of the linear flow, "flow", where s = 1 and the clock is t. Both are of second
    order on every process and differ in the third; each schedule names the one of its published solvers. Steps that
    begin where the ratio clock is infinite (alpha = 0) or end at sigma = 0 are Euler steps.

    Args:
        steps: grid times N; the denoiser is called 2 (N - 1) + 1 times.
        grid: see `Sampler`.
        clock: "schedule" takes each field's own; "ratio" or "flow" for all.
    """

    def __init__(
        self,
        steps: int = 25,
        grid: Grid | None = None,
        clock: Literal["schedule", "ratio", "flow"] = "schedule",
    ) -> None:
        super().__init__(steps, grid)
        if clock not in ("schedule", "ratio", "flow"):
            raise ValueError(f"clock {clock!r} is none of 'schedule', 'ratio' and 'flow'")
        self.clock = clock

    def coefficients(self, alpha: Tensor, sigma: Tensor, schedule: Schedule) -> Coefficients:
        """X' / s' = x / s + h / 2 (slope + slope'), written out in x and the two estimates."""
        clock = schedule.clock if self.clock == "schedule" else self.clock
        scale = alpha + sigma if clock == "flow" else alpha
        carry, estimate = first_order(alpha, sigma)
        # slope = (x - alpha x0) / sigma - k x0 = (x - s x0) / sigma; slope' is the same at carry x + estimate x0.
        half = 0.5 * (sigma[1:] / scale[1:] - sigma[:-1] / scale[:-1])
        of_x = 1 / scale[:-1] + half * (1 / sigma[:-1] + carry / sigma[1:])
        of_first = half * (estimate / sigma[1:] - scale[:-1] / sigma[:-1])
        of_second = -half * scale[1:] / sigma[1:]
        usable = of_x.isfinite() & of_first.isfinite() & of_second.isfinite()
        return Coefficients(
            torch.where(usable, scale[1:] * of_x, carry),
            torch.where(usable, scale[1:] * of_first, estimate),
            torch.where(usable, scale[1:] * of_second, 0.0),
            torch.zeros_like(carry),
        )

    def init(self, grid: Tensor, processes: Mapping[str, Process], x: State, draw: DrawNoise | None) -> SamplerState:
        """Corrector as the steps, Euler as the predictor."""
        S = super().init(grid, processes, x, draw)
        predictor = {}
        for name, process in processes.items():
            carry, estimate = first_order(process.schedule.alpha(grid), process.schedule.sigma(grid))
            zeros = torch.zeros_like(carry)
            predictor[name] = Coefficients(carry, estimate, zeros, zeros).to(x[name])
        return replace(S, predictor=predictor)

    def step(self, denoise: Denoise, x: State, i: int, S: SamplerState) -> tuple[State, SamplerState]:
        """Euler to the far end, a second look there, and the mean slope."""
        estimate = denoise(x, S.times[i])
        guess = {name: c.carry[i] * x[name] + c.estimate[i] * estimate[name] for name, c in S.predictor.items()}
        if not S.second_look[i]:
            return guess, S
        second = denoise(guess, S.times[i + 1])
        result = {
            name: c.carry[i] * x[name] + c.estimate[i] * estimate[name] + c.second[i] * second[name]
            for name, c in S.steps.items()
        }
        return result, S
