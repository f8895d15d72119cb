"""Grids: the times at which a sampler asks the denoiser.

Shape legend: N steps. All times are made once in float64 on the CPU, from the noisiest to the cleanest.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..processes import Schedule


class Grid(ABC):
    """Chooses N falling times."""

    @abstractmethod
    def times(self, steps: int, schedules: Mapping[str, Schedule]) -> Tensor:
        """Times [steps] in float64, falling, for fields with these schedules."""


class UniformGrid(Grid):
    """Evenly spaced times.

    ``UniformGrid()`` asks at 1, 1 - 1/N, ..., 1/N: the closing step from 1/N to the data is the sampler's own. With
    ``include_end`` the last time is `t_min` itself: EDM's grid is ``UniformGrid(include_end=True)`` on its schedule,
    and ADiT's (arXiv:2503.03965) ``UniformGrid(t_max=0.99, include_end=True)`` on the linear flow.

    Args:
        t_max: first time.
        t_min: end of the spacing.
        include_end: whether `t_min` is the last time, or one spacing below the last.
        shift: s in t -> s t / (1 + (s - 1) t), above 1 spends more steps at high noise (arXiv:2403.03206, eq. 23).
    """

    def __init__(
        self, *, t_max: float = 1.0, t_min: float = 0.0, include_end: bool = False, shift: float = 1.0
    ) -> None:
        _check_range(t_min, t_max)
        if shift <= 0:
            raise ValueError(f"shift {shift} must be positive; 1 leaves the times even")
        self.t_max = t_max
        self.t_min = t_min
        self.include_end = include_end
        self.shift = shift

    def times(self, steps: int, schedules: Mapping[str, Schedule]) -> Tensor:
        """Even spacing, then shifted."""
        if self.include_end:
            times = torch.linspace(self.t_max, self.t_min, steps, dtype=torch.float64)
        else:
            times = torch.linspace(self.t_max, self.t_min, steps + 1, dtype=torch.float64)[:-1]
        return self.shift * times / (1 + (self.shift - 1) * times)


class StepGrid(Grid):
    """Whole steps of a table of T, evenly spaced and rounded, from the noisiest to the cleanest ("respaced" DDPM).

    The times lie where `TabulatedSchedule` has its entries, so that a network trained at whole steps is asked at those.

    Args:
        levels: T, length of the table.
    """

    def __init__(self, levels: int = 1000) -> None:
        if levels < 2:
            raise ValueError(f"levels {levels} must be at least 2: one step has no noisier one")
        self.levels = levels

    def times(self, steps: int, schedules: Mapping[str, Schedule]) -> Tensor:
        """Step numbers over T - 1.

        Raises:
            ValueError: if there are more steps than levels.
        """
        if steps > self.levels:
            raise ValueError(f"{steps} steps are more than the {self.levels} levels of the table: take at most those")
        return torch.linspace(self.levels - 1, 0, steps, dtype=torch.float64).round() / (self.levels - 1)


class KarrasGrid(Grid):
    """Noise ratios sigma / alpha evenly spaced in their rho-th root (arXiv:2206.00364, equation 5), on any schedule.

    Args:
        sigma_max: first ratio; default: the schedule's at t = 1, which must then be finite.
        sigma_min: last ratio; default: the schedule's at t = 0, which must then be above 0.
        rho: crowding at low noise.
        field: whose schedule turns ratios into times; needed if fields have different ones.
    """

    def __init__(
        self,
        *,
        sigma_max: float | None = None,
        sigma_min: float | None = None,
        rho: float = 7.0,
        field: str | None = None,
    ) -> None:
        self.sigma_max = sigma_max
        self.sigma_min = sigma_min
        self.rho = rho
        self.field = field

    def times(self, steps: int, schedules: Mapping[str, Schedule]) -> Tensor:
        """Times of the ratios.

        Raises:
            ValueError: if the ratios are infinite, zero or not those of the schedule.
        """
        schedule = _schedule_of(self.field, schedules)
        highest, lowest = torch.exp(-schedule.log_snr(torch.tensor([1.0, 0.0], dtype=torch.float64)) / 2).tolist()
        first = highest if self.sigma_max is None else self.sigma_max
        last = lowest if self.sigma_min is None else self.sigma_min
        # The tolerance lets a schedule's own rounded limits pass.
        if not lowest * (1 - 1e-6) <= last < first <= highest * (1 + 1e-6) or last <= 0 or first == float("inf"):
            raise ValueError(
                f"ratios sigma / alpha from {first} to {last} must be finite, above 0 and within the schedule's "
                f"{highest} to {lowest}: set sigma_max and sigma_min"
            )
        roots = torch.linspace(first ** (1 / self.rho), last ** (1 / self.rho), steps, dtype=torch.float64)
        return schedule.time_from_log_snr(-2 * self.rho * roots.log()).clamp(0, 1)


class LogSNRGrid(Grid):
    """Times evenly spaced in log-SNR (arXiv:2206.00927), on any schedule.

    Args:
        t_max: first time; its log-SNR must be finite.
        t_min: last time; its log-SNR must be finite.
        field: whose schedule it is; needed if fields have different ones.
    """

    def __init__(self, *, t_max: float = 0.999, t_min: float = 0.001, field: str | None = None) -> None:
        _check_range(t_min, t_max)
        self.t_max = t_max
        self.t_min = t_min
        self.field = field

    def times(self, steps: int, schedules: Mapping[str, Schedule]) -> Tensor:
        """Times of the log-SNRs."""
        schedule = _schedule_of(self.field, schedules)
        first, last = schedule.log_snr(torch.tensor([self.t_max, self.t_min], dtype=torch.float64)).tolist()
        if not (first > -float("inf") and last < float("inf")):
            raise ValueError(
                f"log-SNR runs from {first} at t_max={self.t_max} to {last} at t_min={self.t_min}: move the infinite "
                "end inwards, e.g. t_max=0.999 or t_min=0.001"
            )
        return schedule.time_from_log_snr(torch.linspace(first, last, steps, dtype=torch.float64)).clamp(0, 1)


class ListedGrid(Grid):
    """Times given one by one.

    Args:
        values: falling times in [0, 1]; the sampler's `steps` must be their number.
    """

    def __init__(self, values: Sequence[float]) -> None:
        self.values = torch.tensor([float(value) for value in values], dtype=torch.float64)

    def times(self, steps: int, schedules: Mapping[str, Schedule]) -> Tensor:
        """The list."""
        if steps != len(self.values):
            raise ValueError(f"{len(self.values)} times are listed for {steps} steps: set steps={len(self.values)}")
        return self.values


def _check_range(t_min: float, t_max: float) -> None:
    if not 0 <= t_min < t_max <= 1:
        raise ValueError(f"t_min {t_min} and t_max {t_max} must be 0 <= t_min < t_max <= 1")


def _schedule_of(field: str | None, schedules: Mapping[str, Schedule]) -> Schedule:
    """The schedule that `field` names, or the only one there is."""
    if field is None and len(schedules) > 1:
        raise ValueError(f"this grid follows one field's schedule: set field to one of {sorted(schedules)}")
    return schedules[field] if field is not None else next(iter(schedules.values()))
