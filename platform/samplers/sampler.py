"""The sampling loop, and what its samplers share: a sampler sees only a function that estimates clean data.

Shape legend: B batch, N steps; every coefficient is a 0-dim tensor.

One step of every solver here is linear in what it has seen: x' = carry x + estimate x0(x, t) + second x0(elsewhere)
+ noise z. All coefficients are made before the loop, in float64, from alpha and sigma of the grid's times; the loop
itself never asks the device for a number.

Ends. The last call of a sampler, at the last time of the grid, is the closing step to the data: its output is the
clean estimate there, which is what any first-order solver gives for a step to sigma = 0. So nothing divides by the
sigma of t = 0, and `steps` counts the times of the grid. Where alpha is zero (t = 1 of the linear flow) the
coefficients have finite limits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..processes import EpsPrediction, Process, Schedule
from ..state import State, expand_time
from .grids import Grid, UniformGrid

Denoise = Callable[[State, Tensor], State]
"""(x_t, t 0-dim) -> clean estimate of every field; under `spread_of` the learnt variance where there is one."""

DrawNoise = Callable[[], State]
"""Fresh unit noise of every field, made by its prior and zero where padded."""


@dataclass(frozen=True)
class Coefficients:
    """Weights of one field's N - 1 steps, each [N - 1].

    Args:
        carry: of x.
        estimate: of the clean estimate at (x, t).
        second: of another clean estimate: the last step's (multistep) or that at the step's far end (Heun).
        noise: of fresh unit noise.
    """

    carry: Tensor
    estimate: Tensor
    second: Tensor
    noise: Tensor

    def to(self, like: Tensor) -> Coefficients:
        """Copy on the device of `like`; float32 unless `like` is float64."""
        dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
        carry, estimate, second, noise = (
            value.to(like.device, dtype) for value in (self.carry, self.estimate, self.second, self.noise)
        )
        return Coefficients(carry, estimate, second, noise)


@dataclass(frozen=True)
class SamplerState:
    """What a sampler carries beside x; the S of ``step``.

    Args:
        times: [N] on the device of x.
        steps: field -> coefficients of each step.
        second_look: [N - 1], whether the step uses `Coefficients.second` in any field.
        draw: fresh noise; None for a deterministic sampler.
        predictor: field -> coefficients of the first half of a two-stage step, or others that a sampler needs beside
            `steps`; empty for most.
        previous: clean estimates of the step before; empty at first and for samplers without memory.
    """

    times: Tensor
    steps: dict[str, Coefficients]
    second_look: tuple[bool, ...]
    draw: DrawNoise | None = None
    predictor: dict[str, Coefficients] = field(default_factory=dict)
    previous: State = field(default_factory=dict)


class Sampler(ABC):
    """Walks from noise to data over a grid of times.

    Args:
        steps: grid times N, N - 1 steps and the closing estimate; one-stage samplers call the denoiser N times.
        grid: places the times; default `UniformGrid`.
    """

    is_stochastic: bool = False

    def __init__(self, steps: int = 50, grid: Grid | None = None) -> None:
        if steps < 1:
            raise ValueError(f"a sampler takes at least 1 step, not {steps}")
        self.steps = steps
        self.grid = grid or UniformGrid()

    @abstractmethod
    def coefficients(self, alpha: Tensor, sigma: Tensor, schedule: Schedule) -> Coefficients:
        """Weights of the steps between the levels alpha, sigma [N] (float64, along the walk) of a field."""

    @abstractmethod
    def step(self, denoise: Denoise, x: State, i: int, S: SamplerState) -> tuple[State, SamplerState]:
        """X at time i + 1 from x at time i."""

    def times(self, processes: Mapping[str, Process], start: int = 0) -> Tensor:
        """Times [N - start] of the grid from number `start` on, in float64 on the CPU, checked.

        Raises:
            ValueError: if there is no number `start`, or if they do not fall, leave [0, 1], or begin where an eps
                prediction says nothing of the data.
        """
        if not 0 <= start < self.steps:
            raise ValueError(f"start {start} must be one of the {self.steps} levels, 0 to {self.steps - 1}")
        times = self.grid.times(self.steps, {name: process.schedule for name, process in sorted(processes.items())})
        if times.min() < 0 or times.max() > 1 or (times.diff() >= 0).any():
            raise ValueError(
                f"the grid's {len(times)} times, {float(times[0])} to {float(times[-1])}, must fall within [0, 1]: "
                "take fewer steps, or noise levels that the schedule reaches"
            )
        for name, process in processes.items():
            if isinstance(process.prediction, EpsPrediction) and process.schedule.alpha(times[0]) <= 0:
                raise ValueError(
                    f"field {name!r} predicts eps, which at t={float(times[0])} says nothing of the data (alpha is 0): "
                    "set the grid's t_max to 0.999 or predict v"
                )
        return times[start:]

    def init(self, grid: Tensor, processes: Mapping[str, Process], x: State, draw: DrawNoise | None) -> SamplerState:
        """Coefficients for these times [N], on the device of `x`."""
        tables = {
            name: self.coefficients(process.schedule.alpha(grid), process.schedule.sigma(grid), process.schedule)
            for name, process in processes.items()
        }
        second = torch.stack([table.second != 0 for table in tables.values()]).any(0)
        first = next(iter(x.values()))
        times = grid.to(first.device, torch.float64 if first.dtype == torch.float64 else torch.float32)
        steps = {name: table.to(x[name]) for name, table in tables.items()}
        return SamplerState(times, steps, tuple(second.tolist()), draw)

    def sample(
        self,
        denoise: Denoise,
        noise: State,
        processes: Mapping[str, Process],
        draw: DrawNoise | None = None,
        masks: Mapping[str, Tensor] | None = None,
        callback: Callable[[int, State], None] | None = None,
    ) -> State:
        """Data from unit noise of the prior.

        Args:
            denoise: clean estimates from (x, t); t is 0-dim, on the device of x.
            noise: field -> [B, ...] unit noise; it is scaled to the grid's first level.
            processes: field -> process, the same fields as `noise`.
            draw: fresh noise for each step; needed by stochastic samplers.
            masks: field -> [B, N] bool; padded tokens are kept at zero.
            callback: called with (i, x) before the denoiser sees x at time i.

        Returns:
            field -> [B, ...] clean data.
        """
        first = self.times(processes)[:1]
        x = {name: value * processes[name].schedule.sigma(first)[0].item() for name, value in noise.items()}
        return self.walk(denoise, x, processes, draw, masks, callback)

    def walk(
        self,
        denoise: Denoise,
        x: State,
        processes: Mapping[str, Process],
        draw: DrawNoise | None = None,
        masks: Mapping[str, Tensor] | None = None,
        callback: Callable[[int, State], None] | None = None,
        close: bool = True,
        start: int = 0,
    ) -> State:
        """Data from x, which stands at level `start` of the grid; other arguments as in `sample`.

        Args:
            close: False stops at the last level of the grid, without the closing estimate.
            start: how many of the grid's first levels are left out, when x is less noisy than these.
        """
        if self.is_stochastic and draw is None:
            raise ValueError(f"{type(self).__name__} adds noise at every step: pass draw, or take Euler")
        grid = self.times(processes, start)
        return self._run(denoise, x, self.init(grid, processes, x, draw), masks, callback, close)

    def invert(
        self,
        denoise: Denoise,
        x: State,
        processes: Mapping[str, Process],
        masks: Mapping[str, Tensor] | None = None,
        callback: Callable[[int, State], None] | None = None,
    ) -> State:
        """The state at the grid's first level whose walk leads to `x`: the same steps over the reversed grid.

        Args:
            x: field -> [B, ...] at the grid's last level, which must be above sigma = 0 (where a clean estimate says
                nothing of the noise): clean data may be given if that level is small, e.g. ``t_min=0.001,
                include_end=True``.
        """
        if self.is_stochastic:
            raise ValueError(f"{type(self).__name__} adds noise and cannot be inverted: take Euler or Heun")
        grid = self.times(processes).flip(0)
        for name, process in processes.items():
            if process.schedule.sigma(grid[0]) <= 0:
                raise ValueError(
                    f"field {name!r} has no noise at t={float(grid[0])}: invert from t_min above 0, e.g. 0.001"
                )
        return self._run(denoise, x, self.init(grid, processes, x, None), masks, callback, close=False)

    def _run(
        self,
        denoise: Denoise,
        x: State,
        S: SamplerState,
        masks: Mapping[str, Tensor] | None,
        callback: Callable[[int, State], None] | None,
        close: bool,
    ) -> State:
        last = len(S.times) - 1
        for i in range(last + 1):
            if callback is not None:
                callback(i, x)
            if i < last:
                x, S = self.step(denoise, x, i, S)
            elif close:
                estimate = denoise(x, S.times[i])
                x = {name: estimate[name] for name in x}
            x = _mask(x, masks)
        return x


class LinearSampler(Sampler):
    """Samplers of one denoiser call a step: x' = carry x + estimate x0 + second (x0 of the step before) + noise z."""

    def step(self, denoise: Denoise, x: State, i: int, S: SamplerState) -> tuple[State, SamplerState]:
        """One linear step; the estimate is kept for the next."""
        estimate = denoise(x, S.times[i])
        fresh = S.draw() if self.is_stochastic and S.draw is not None else {}
        result = {}
        for name, table in S.steps.items():
            value = table.carry[i] * x[name] + table.estimate[i] * estimate[name]
            if S.second_look[i]:
                value = value + table.second[i] * S.previous[name]
            if fresh:
                value = value + table.noise[i] * fresh[name].to(value.dtype)
            result[name] = value
        return result, replace(S, previous=estimate)


def spread_of(field: str) -> str:
    """The name under which a denoiser says what it has learnt of the variance of a field's step, if anything."""
    return f"{field}/spread"


def first_order(alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """(carry, estimate) [N - 1] of the step x' = alpha' x0 + sigma' eps with eps = (x - alpha x0) / sigma.

    This is Euler's step in every clock in which x_t / (alpha + k sigma) moves on a straight line for fixed x0 and eps:
    sigma / alpha of EDM, t of the linear flow; and the DDIM step (arXiv:2010.02502, equation 12).
    """
    carry = sigma[1:] / sigma[:-1]
    return carry, alpha[1:] - carry * alpha[:-1]


def _mask(x: State, masks: Mapping[str, Tensor] | None) -> State:
    if not masks:
        return x
    return {
        name: value * expand_time(masks[name], value).to(value.dtype) if name in masks else value
        for name, value in x.items()
    }
