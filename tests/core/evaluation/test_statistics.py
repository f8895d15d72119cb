import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, t

from polydit.platform.evaluation.statistics import (
    Estimate,
    estimate_by_bootstrap,
    estimate_distance,
    estimate_grouped_share,
    estimate_mean,
    estimate_share,
)


@given(st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_a_share_has_the_wilson_interval_of_scipy(numbers):
    successes, count = numbers
    expected = binomtest(successes, count).proportion_ci(0.95, method="wilson")
    found = estimate_share(successes, count)
    assert found.value == successes / count
    assert found.count == count
    assert found.low == pytest.approx(expected.low, abs=1e-12)
    assert found.high == pytest.approx(expected.high, abs=1e-12)


def test_a_share_of_nothing_is_unknown_and_an_impossible_one_refused():
    assert math.isnan(estimate_share(0, 0).value)
    with pytest.raises(ValueError, match="5 successes of 4"):
        estimate_share(5, 4)


def test_groups_of_one_are_a_simple_share():
    hits = np.arange(200) % 4 == 0
    grouped, simple = estimate_grouped_share(hits, np.ones(200)), estimate_share(50, 200)
    assert grouped.count == simple.count
    assert (grouped.low, grouped.high) == pytest.approx((simple.low, simple.high), abs=1e-3)


def test_items_that_agree_within_groups_widen_the_interval_as_fewer_items_would():
    # 40 groups of 10 items that all agree are worth 40 items.
    hits = np.repeat([10, 0], 20)
    grouped, simple = estimate_grouped_share(hits, np.full(40, 10)), estimate_share(20, 40)
    assert grouped.count == 400
    assert grouped.high - grouped.low == pytest.approx(simple.high - simple.low, rel=0.02)


def test_the_grouped_interval_covers_at_its_rate():
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        rates = generator.beta(9, 1, size=100)
        sizes = generator.integers(5, 25, size=100)
        estimate = estimate_grouped_share(generator.binomial(sizes, rates), sizes)
        covered += estimate.low <= 0.9 <= estimate.high
    assert 0.91 <= covered / 400 <= 0.985


def test_groups_without_differences_count_as_one_item_each():
    certain = estimate_grouped_share([5, 7, 9], [5, 7, 9])
    assert certain.value == 1
    assert certain.count == 21
    assert certain.low == pytest.approx(estimate_share(3, 3).low)


def test_a_mean_has_the_normal_interval():
    values = np.random.default_rng(1).normal(3, 2, size=4000)
    low, high = t.interval(0.95, 3999, loc=values.mean(), scale=values.std(ddof=1) / math.sqrt(4000))
    found = estimate_mean(values)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-4)
    assert math.isnan(estimate_mean([2.0]).low)
    assert math.isnan(estimate_mean([]).value)


def test_the_bootstrap_of_a_mean_agrees_with_its_normal_interval_and_repeats():
    values = np.random.default_rng(2).normal(3, 2, size=500)
    found = estimate_by_bootstrap(values, np.mean, resamples=2000, seed=5)
    normal = estimate_mean(values)
    assert found.value == values.mean()
    assert (found.low, found.high) == pytest.approx((normal.low, normal.high), abs=0.03)
    assert found == estimate_by_bootstrap(values, np.mean, resamples=2000, seed=5)
    assert found != estimate_by_bootstrap(values, np.mean, resamples=2000, seed=6)


def test_the_interval_of_a_distance_holds_it_in_its_middle_though_resampled_sets_lie_farther():
    generator = np.random.default_rng(0)
    values, reference = generator.normal(size=200), np.sort(generator.normal(size=200))

    def measure(chosen):
        return float(np.abs(np.sort(chosen) - reference).mean())

    found = estimate_distance(values, measure)
    assert found.value == measure(values) and found.count == 200
    assert found.high - found.value == pytest.approx(found.value - found.low)
    again = [measure(generator.normal(size=200)) for _ in range(300)]
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * np.std(again), rel=0.4)
    same = estimate_distance(reference, measure)
    assert same.value == same.low == 0 < same.high
    assert estimate_by_bootstrap(reference, measure).high == 0  # the other interval has no width here
    assert math.isnan(estimate_distance([], measure).value)


@given(st.floats(), st.integers(0, 10), st.floats(0, 1), st.floats(0, 1))
def test_json_holds_an_estimate(value, count, low, high):
    estimate = Estimate(value, count, low, high)
    again = Estimate.from_dict(json.loads(json.dumps(estimate.to_dict(), allow_nan=False)))
    assert again.count == count
    assert again.value == value if math.isfinite(value) else math.isnan(again.value)
    assert (again.low, again.high) == (low, high)
