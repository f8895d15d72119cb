"""Charts hold the numbers they are given."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polydit.platform.evaluation.curves import Curve, LossCurves
from polydit.platform.evaluation.figures import choose_ticks, draw_interval, encode_figure, plot_histogram, plot_losses
from polydit.platform.evaluation.statistics import Estimate, estimate_share

numbers = st.lists(st.floats(-1e6, 1e6) | st.just(float("nan")) | st.integers(0, 30).map(float), max_size=60)


@settings(deadline=None, max_examples=50)
@given(samples=numbers, reference=numbers)
def test_every_finite_value_is_in_the_histogram(samples: list[float], reference: list[float]) -> None:
    figure = plot_histogram(np.array(samples), np.array(reference))
    if figure is None:
        assert not np.isfinite(samples).any()
        return
    bars = figure.data[0]
    assert np.sum(bars.y) == pytest.approx(1, abs=1e-3)
    assert f"({int(np.isfinite(samples).sum())})" in bars.name
    if len(figure.data) == 2:
        assert np.sum(figure.data[1].y[:-1]) == pytest.approx(1, abs=1e-3)
        assert len(figure.data[1].x) == len(bars.x) + 1


def test_histogram_of_counts_has_one_bar_per_integer() -> None:
    figure = plot_histogram(np.array([3, 4, 4, 6]), np.array([5]))
    assert figure is not None
    np.testing.assert_allclose(figure.data[0].x, [3, 4, 5, 6])
    np.testing.assert_allclose(figure.data[0].y, [0.25, 0.5, 0, 0.25])


def test_histogram_of_names_counts_each_name() -> None:
    figure = plot_histogram(np.array(["C", "O", "C"]), np.array(["N"]))
    assert figure is not None
    assert dict(zip(figure.data[0].x, figure.data[0].y, strict=True))["C"] == pytest.approx(2 / 3, abs=1e-4)


def test_losses_are_logarithmic_only_where_all_are_positive() -> None:
    steps = np.arange(3.0)
    positive = {"train/loss": Curve(steps, np.array([1.0, 0.1, 0.02])), "val/loss": Curve(steps, np.ones(3))}
    parts = {"val/kl": Curve(steps, np.array([1.0, 0.0, -1.0])), "train/kl": Curve(steps, np.ones(3))}
    (first, total), (second, part) = plot_losses(LossCurves("", positive | parts))
    assert (first, second) == ("Loss", "Parts of the loss, val")
    assert total.layout.yaxis.type == "log" and part.layout.yaxis.type == "linear"
    assert [trace.name for trace in total.data] == ["train/loss", "val/loss"]
    assert [trace.name for trace in part.data] == ["val/kl"]


@settings(deadline=None, max_examples=60)
@given(low=st.floats(1e-6, 1e3), ratio=st.floats(1.0, 1e4))
def test_logarithmic_axis_has_a_few_labels(low: float, ratio: float) -> None:
    axis = choose_ticks(LossCurves("", {"train/loss": Curve(np.arange(2.0), np.array([low, low * ratio]))}))
    assert axis["type"] == "log"
    if "tickvals" in axis:
        assert (np.diff(axis["tickvals"]) > 0).all() and min(axis["tickvals"]) > 0
        assert len(set(axis["ticktext"])) == len(axis["ticktext"]) <= 16
        if ratio > 1.001:
            assert sum(low <= tick <= low * ratio for tick in axis["tickvals"]) >= 2
    else:
        assert ratio > 100 and axis["dtick"] == 1


def test_interval_is_drawn_to_scale_for_shares_alone() -> None:
    half = draw_interval(estimate_share(5, 10))
    assert 'cx="60.0"' in half
    left, right = (float(number) for number in re.search(r'class="range" d="M([\d.]+) 7H([\d.]+)"', half).groups())  # type: ignore[union-attr]
    assert left + right == pytest.approx(120, abs=0.11) and 4 < left < 60
    assert draw_interval(Estimate(0.4891, 46, 0.1, 0.6)) == ""  # no whole number of 46: a distance
    assert draw_interval(Estimate(float("nan"), 0)) == draw_interval(Estimate(3.0, 10, 2.0, 4.0)) == ""


def test_figure_cannot_close_its_script_element() -> None:
    figure = plot_histogram(np.array(["</script><b>", "\u2028"]), np.array([], dtype=str))
    assert figure is not None
    text = encode_figure(figure)
    assert "<" not in text and "\u2028" not in text
    assert "</script><b>" in json.loads(text)["data"][0]["x"]
