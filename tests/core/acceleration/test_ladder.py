"""Forecasts of known features: exact where the algebra says so, and off by what it says elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
import torch
from diffusers.hooks.taylorseer_cache import TaylorSeerState
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from polydit.platform.acceleration import Ladder, TaylorSeer
from polydit.platform.acceleration.ladder import Weights
from polydit.platform.errors import ConfigurationError

ORDERS = st.integers(0, 4)


def climb(feature: Callable[[int], Tensor], steps: Sequence[int], order: int, weights: Weights = "taylor") -> Ladder:
    """A ladder that has seen a feature at these steps."""
    ladder = Ladder(order, weights)
    for step in steps:
        ladder.update(feature(step), step)
    return ladder


def polynomial(*coefficients: float) -> Callable[[int], Tensor]:
    return lambda s: torch.tensor([sum(c * s**power for power, c in enumerate(coefficients))], dtype=torch.float64)


rising = st.lists(st.integers(0, 60), min_size=5, max_size=8, unique=True).map(sorted)


@given(rising, st.integers(1, 6), st.integers(1, 4), st.floats(-3, 3), st.floats(-3, 3))
def test_a_line_is_foretold_exactly(steps: list[int], ahead: int, order: int, a: float, b: float) -> None:
    """After two steps, at whatever gaps, by either kind; a repeated feature is not."""
    line = polynomial(a, b)
    target = steps[-1] + ahead
    weights: Weights
    for weights in ("taylor", "newton"):
        found = climb(line, steps, order, weights).forecast(target)
        torch.testing.assert_close(found, line(target), rtol=0, atol=1e-8)
    reused = climb(line, steps, 0).forecast(target)
    assert torch.equal(reused, line(steps[-1]))


@given(st.integers(1, 6), st.integers(1, 6), st.floats(-2, 2), st.integers(2, 4))
def test_a_parabola_is_missed_by_its_curvature_times_interval_times_distance(
    interval: int, distance: int, curvature: float, rungs: int
) -> None:
    parabola = polynomial(0.5, -1.0, curvature)
    steps = [interval * i for i in range(rungs + 1)]
    target = steps[-1] + distance
    published = climb(parabola, steps, 2).forecast(target)
    missed = float(parabola(target) - published)
    assert missed == pytest.approx(curvature * interval * distance, abs=1e-8)
    exact = climb(parabola, steps, 2, "newton").forecast(target)
    torch.testing.assert_close(exact, parabola(target), rtol=0, atol=1e-8)


@given(ORDERS, rising, st.integers(1, 5), st.data())
def test_newton_is_exact_on_polynomials_of_its_order_at_any_gaps(
    order: int, steps: list[int], ahead: int, data: st.DataObject
) -> None:
    feature = polynomial(*data.draw(st.lists(st.floats(-1, 1), min_size=order + 1, max_size=order + 1)))
    target = steps[-1] + ahead
    found = climb(feature, steps, order, "newton").forecast(target)
    size = max(1.0, float(feature(target).abs()))
    # interpolation at scattered steps multiplies the rounding of the features
    spread = max(1.0, target / min(b - a for a, b in pairwise(steps))) ** order
    assert float((found - feature(target)).abs()) / size < 1e-12 * spread * 2**order


def test_a_sine_is_foretold_better_by_each_order_until_differences_are_no_derivatives() -> None:
    def wave(s: int) -> Tensor:
        return torch.sin(torch.linspace(0, 6, 40, dtype=torch.float64) + 0.05 * s)

    def error(order: int, weights: Weights = "taylor") -> float:
        ladder = climb(wave, range(0, 25, 4), order, weights)
        return max(float((ladder.forecast(24 + k) - wave(24 + k)).abs().max()) for k in (1, 2, 3))

    errors = [error(order) for order in range(4)]
    assert errors[0] > 3 * errors[1] > 3 * errors[2] and errors[3] > 0.5 * errors[2]
    assert error(3, "newton") < 0.2 * errors[3]


def test_rungs_stand_one_after_the_other_and_no_more_than_the_order() -> None:
    ladder = Ladder(2)
    for number in range(5):
        ladder.update(torch.tensor([float(number)]), 3 * number)
        assert len(ladder.rungs) == min(number + 1, 3) == len(ladder.steps)


def test_a_step_taken_in_again_replaces_the_feature_alone() -> None:
    line = polynomial(1.0, 2.0)
    ladder = climb(line, [0, 4], 1)
    ladder.update(line(4) + 10, 4)
    assert ladder.forecast(6).item() == pytest.approx(line(6).item() + 10)


def test_a_forecast_leaves_the_ladder_as_it_was() -> None:
    ladder = climb(polynomial(1.0, 1.0, 1.0), [0, 2, 4], 2)
    before = [rung.clone() for rung in ladder.rungs]
    assert torch.equal(ladder.forecast(6), ladder.forecast(6))
    assert all(torch.equal(rung, kept) for rung, kept in zip(ladder.rungs, before, strict=True))


@pytest.mark.parametrize("order", range(5))
def test_the_published_weights_are_those_of_diffusers(order: int) -> None:
    """At irregular gaps too."""
    theirs, ours = TaylorSeerState(torch.float64, order), Ladder(order)
    generator = torch.Generator().manual_seed(0)
    for step in range(30):
        theirs.current_step = step
        if step in (0, 1, 4, 5, 9, 16, 18, 25):
            feature = torch.randn(3, 4, generator=generator, dtype=torch.float64)
            theirs.update((feature,))
            ours.update(feature, step)
        torch.testing.assert_close(ours.forecast(step), theirs.predict()[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"interval": 0}, "interval 0"), ({"first_enhance": 0}, "first_enhance 0"), ({"order": -1}, "order -1"),
     ({"weights": "spline"}, "'spline' are neither")],
)
def test_bad_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        TaylorSeer(**options)
