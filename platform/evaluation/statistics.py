"""Numbers with their counts and 95 % intervals.

Shape legend: n items, K groups of items.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

CONFIDENCE = 0.95
"""Coverage of every interval."""

_Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)


@dataclass(frozen=True)
class Estimate:
    """A number measured on a sample.

    Args:
        value: the number; NaN where nothing was counted.
        count: of how many items it was taken (of a share: its denominator).
        low, high: ends of the 95 % interval; NaN where it has none.
    """

    value: float
    count: int
    low: float = math.nan
    high: float = math.nan

    def to_dict(self) -> dict[str, float | int | None]:
        """Plain dict for JSON, which has only finite numbers: None stands for the others."""
        return {name: value if math.isfinite(value) else None for name, value in asdict(self).items()}

    @staticmethod
    def from_dict(entry: Mapping[str, Any]) -> Estimate:
        """Inverse of `to_dict`; None becomes NaN."""
        numbers = {name: math.nan if entry[name] is None else float(entry[name]) for name in ("value", "low", "high")}
        return Estimate(count=int(entry["count"]), **numbers)


def estimate_share(successes: int, count: int) -> Estimate:
    """A share with its Wilson score interval (Wilson 1927, doi 10.2307/2276774).

    Args:
        successes: how many of the items have the property.
        count: how many items there are; 0 gives NaN.

    Raises:
        ValueError: if there are more successes than items.
    """
    if not 0 <= successes <= count:
        raise ValueError(f"{successes} successes of {count} items: give 0 <= successes <= count")
    return _wilson(successes / count, count, count) if count else Estimate(math.nan, 0)


def estimate_grouped_share(successes: ArrayLike, counts: ArrayLike) -> Estimate:
    """A share over items that come in groups, such as atoms in molecules.

    Items of one group resemble each other, so the Wilson interval is taken at the effective number of independent
    items: that at which a simple share would have the variance that the groups show (Kish's design effect). It lies
    between 1 and the number of items; where the groups do not differ at all, it is their number.

    Args:
        successes: [K] items with the property in each group.
        counts: [K] items in each group, at least 1.
    """
    hits, sizes = np.asarray(successes, dtype=float), np.asarray(counts, dtype=float)
    groups, total = len(sizes), int(sizes.sum())
    if not total:
        return Estimate(math.nan, 0)
    value = float(hits.sum() / total)
    spread = float(((hits - value * sizes) ** 2).sum())
    if groups == 1 or spread == 0:
        effective = float(groups)
    else:
        variance = spread * groups / (groups - 1) / total**2
        effective = min(max(value * (1 - value) / variance, 1.0), float(total))
    return _wilson(value, effective, total)


def estimate_mean(values: ArrayLike) -> Estimate:
    """Mean of [n] values with its normal interval; NaN without values, no interval for a single one."""
    array = np.asarray(values, dtype=float)
    if not len(array):
        return Estimate(math.nan, 0)
    mean = float(array.mean())
    if len(array) == 1:
        return Estimate(mean, 1)
    half = _Z * float(array.std(ddof=1)) / math.sqrt(len(array))
    return Estimate(mean, len(array), mean - half, mean + half)


def estimate_by_bootstrap(
    values: ArrayLike, statistic: Callable[[NDArray[Any]], float], resamples: int = 200, seed: int = 0
) -> Estimate:
    """Any statistic of [n] values with its basic bootstrap interval.

    The basic interval reflects the resampled values at the estimate (Davison and Hinkley 1997, section 5.2); it is cut
    at 0 where the estimate is not negative. Distances, which grow under resampling, have `estimate_distance`.

    Args:
        values: [n, ...] items, resampled along their first axis.
        statistic: items -> number.
        resamples: how many times; more narrows the error of the interval's ends, and costs time.
        seed: of the resampling.
    """
    array = np.asarray(values)
    if not len(array):
        return Estimate(math.nan, 0)
    value, draws = float(statistic(array)), _resample(array, statistic, resamples, seed)
    tail = (1 - CONFIDENCE) / 2
    low, high = (2 * value - float(end) for end in np.quantile(draws, (1 - tail, tail)))
    floor = 0.0 if value >= 0 else -math.inf
    return Estimate(value, len(array), max(low, floor), max(high, value))


def estimate_distance(
    values: ArrayLike, statistic: Callable[[NDArray[Any]], float], resamples: int = 200, seed: int = 0
) -> Estimate:
    """A distance of [n] values to a reference with a normal interval, its standard error by the bootstrap, cut at 0.

    Resampled sets repeat items, so that a distance of them is always larger, by more than it scatters: intervals made
    of their quantiles would end at the estimate itself. Their scatter is still that of the estimate.

    Args:
        values: [n, ...] items, or their places, resampled along their first axis.
        statistic: items -> distance, never negative.
        resamples: how many times; at least 2 for an interval.
        seed: of the resampling.
    """
    array = np.asarray(values)
    if not len(array):
        return Estimate(math.nan, 0)
    value, draws = float(statistic(array)), _resample(array, statistic, resamples, seed)
    half = _Z * float(np.std(draws, ddof=1)) if resamples > 1 else math.nan
    return Estimate(value, len(array), max(0.0, value - half), value + half)


def _resample(
    values: NDArray[Any], statistic: Callable[[NDArray[Any]], float], resamples: int, seed: int
) -> list[float]:
    generator = np.random.default_rng(seed)
    return [statistic(values[generator.integers(len(values), size=len(values))]) for _ in range(resamples)]


def _wilson(value: float, effective: float, count: int) -> Estimate:
    centre = (value + _Z**2 / (2 * effective)) / (1 + _Z**2 / effective)
    half = _Z * math.sqrt(value * (1 - value) / effective + _Z**2 / (4 * effective**2)) / (1 + _Z**2 / effective)
    # At the ends the formula is exact, but its floating-point value misses 0 and 1 by rounding.
    low = 0.0 if value == 0 else max(centre - half, 0.0)
    high = 1.0 if value == 1 else min(centre + half, 1.0)
    return Estimate(value, count, low, high)
