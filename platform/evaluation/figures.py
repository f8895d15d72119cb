"""Charts of the report: loss curves, histograms of samples against a reference, and intervals.

Text, grid and background colours are left to the page's style sheet, so that one chart serves a light and a dark page.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import require
from .curves import LossCurves, thin
from .statistics import Estimate

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

COLOURS = ("#3d7edb", "#e08a1e", "#2a9d6f", "#c2508f", "#8a6fd1", "#5d9bb0", "#b5763a", "#7f8b99")
"""Colours of lines, of similar weight on white and on near-black."""

MUTED = "#8a93a0"
"""Mid grey, legible on white and on near-black."""

MAX_BINS = 40


def blank_figure(x_title: str, y_title: str, height: int = 300) -> Figure:
    """Chart without data, in the layout that all charts share."""
    graph = require("plotly.graph_objects", "report")
    axis = {"zeroline": False, "ticks": "outside", "ticklen": 4, "automargin": True}
    return graph.Figure(layout={
        "template": graph.layout.Template(), "height": height, "margin": {"l": 56, "r": 12, "t": 12, "b": 44},
        "showlegend": True, "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)", "colorway": COLOURS,
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": MUTED, "activecolor": MUTED},
        "font": {"family": "system-ui, sans-serif", "size": 12}, "hovermode": "x unified",
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "bgcolor": "rgba(0,0,0,0)"},
        "xaxis": {**axis, "title": {"text": x_title}, "showgrid": False},
        "yaxis": {**axis, "title": {"text": y_title}},
    })


def plot_losses(losses: LossCurves) -> list[tuple[str, Figure]]:
    """(heading, chart) of the total loss in training and validation, and of its parts where there are several."""
    totals = {name: curve for name, curve in losses.curves.items() if name.partition("/")[2] == "loss"}
    rest = {name: curve for name, curve in losses.curves.items() if name not in totals}
    stage = "val/" if any(name.startswith("val/") for name in rest) else "train/"
    parts = {name: curve for name, curve in rest.items() if name.startswith(stage)}
    charts = []
    for heading, curves in (("Loss", totals), (f"Parts of the loss, {stage[:-1]}", parts)):
        if curves:
            charts.append((heading, plot_curves(LossCurves(losses.title, curves))))
    return charts


def plot_curves(losses: LossCurves) -> Figure:
    """Chart of curves over the step; logarithmic where every value is positive."""
    figure = blank_figure("step", "loss")
    positive = all((curve.values > 0).all() for curve in losses.curves.values())
    figure.update_yaxes(**choose_ticks(losses) if positive else {"type": "linear"})
    for name, curve in losses.curves.items():
        points = thin(curve)
        figure.add_scatter(
            x=points.steps.round(1), y=np.array([float(f"{value:.5g}") for value in points.values]), name=name,
            mode="lines+markers" if len(points.steps) < 30 else "lines", line={"width": 2}, marker={"size": 5},
            hovertemplate="%{y:.4g}",
        )
    return figure


def choose_ticks(losses: LossCurves) -> dict[str, Any]:
    """A logarithmic axis with labels that are read at a glance, however narrow or wide the range."""
    values = np.concatenate([curve.values for curve in losses.curves.values()])
    low, high = float(values.min()), float(values.max())
    bottom, top = math.floor(math.log10(low)), math.ceil(math.log10(high))
    if top - bottom > 3:
        return {"type": "log", "dtick": 1, "exponentformat": "power"}
    ticks = [digit * 10.0**decade for decade in range(bottom, top + 1) for digit in (1, 2, 5)]
    digits = 6
    if sum(low <= tick <= high for tick in ticks) < 3 and high > low * (1 + 1e-9):
        # Within a decade equal distances serve better; steps of at most half the range put two labels into it.
        widest = (high - low) / 2
        unit = 10.0 ** math.floor(math.log10(widest))
        step = next((unit * digit for digit in (5, 2) if unit * digit <= widest), unit)
        ticks = [step * count for count in range(math.floor(low / step), math.ceil(high / step) + 1) if count > 0]
        digits = max(digits, 2 + math.ceil(math.log10(high / step)))
    return {"type": "log", "tickvals": ticks, "ticktext": [f"{tick:.{digits}g}" for tick in ticks]}


def plot_histogram(samples: Any, reference: Any) -> Figure | None:
    """Chart of the distribution of one quantity: bars for samples, a line for the reference.

    Args:
        samples: [k] numbers or category names.
        reference: [r] likewise; may be empty.

    Returns:
        The chart; None if there are no values of samples.
    """
    samples, reference = drop_missing(samples), drop_missing(reference)
    if not len(samples):
        return None
    figure = blank_figure("", "share", height=250)
    figure.update_yaxes(tickformat=".0%", rangemode="tozero")
    figure.update_layout(bargap=0.08, margin_b=28)
    categorical = samples.dtype.kind in "US"
    if categorical:
        places, counts = count_categories(samples, reference)
        ends, width = places, None
    else:
        ends = choose_bins(samples, reference)
        places, width = (ends[:-1] + ends[1:]) / 2, 0.92 * (ends[1] - ends[0])
        counts = [np.histogram(values.clip(ends[0], ends[-1]), ends)[0] for values in (samples, reference)]
    shares = [np.round(count / max(count.sum(), 1), 5) for count in counts]
    figure.add_bar(x=places, y=shares[0], width=width, marker={"color": COLOURS[0]}, opacity=0.75,
                   name=f"samples ({len(samples):,})", hovertemplate="%{y:.1%}")
    if len(reference):
        # A step line is drawn from edge to edge, so the last bin is given twice.
        figure.add_scatter(
            x=ends, y=shares[1] if categorical else [*shares[1], shares[1][-1]],
            mode="markers" if categorical else "lines", marker={"color": COLOURS[1], "size": 8},
            line={"color": COLOURS[1], "width": 2, "shape": "hv"},
            name=f"reference ({len(reference):,})", hovertemplate="%{y:.1%}",
        )
    return figure


def drop_missing(values: Any) -> np.ndarray:
    """Flat array of numbers without those that are not finite, or of names."""
    array = np.asarray(values).ravel()
    if array.dtype.kind in "USO":
        return array.astype(str)
    array = array.astype(np.float64)
    return array[np.isfinite(array)]


def choose_bins(samples: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Edges of bins over both sets: one per integer for counts, else equal ones; far outliers share the outer bins."""
    both = np.concatenate([samples, reference])
    low, high = (float(value) for value in np.quantile(both, [0.001, 0.999]))
    if (both == both.round()).all() and high - low <= MAX_BINS:
        edges = np.arange(math.floor(low), math.ceil(high) + 2) - 0.5
    elif high > low:
        edges = np.linspace(low, high, MAX_BINS + 1)
    else:
        edges = np.array([low - 0.5, low + 0.5])
    return edges


def count_categories(samples: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """The most frequent categories of both sets and how often each occurs in either."""
    names, totals = np.unique(np.concatenate([samples, reference]), return_counts=True)
    names = names[np.argsort(-totals, kind="stable")][:MAX_BINS]
    return names, [np.array([(values == name).sum() for name in names]) for values in (samples, reference)]


def draw_interval(estimate: Estimate) -> str:
    """SVG of a share and its interval on a scale from 0 to 1; empty for other numbers, such as distances.

    A share is known by its numerator, which is a whole number.
    """
    value, low, high = estimate.value, estimate.low, estimate.high
    numerator = value * estimate.count
    if not (0 <= low <= value <= high <= 1) or abs(numerator - round(numerator)) > 1e-6 * max(numerator, 1):
        return ""
    x, left, right = (round(4 + 112 * number, 1) for number in (value, low, high))
    return (
        '<svg class="interval" viewBox="0 0 120 14" aria-hidden="true">'
        '<path class="scale" d="M4 11.5v-9M116 11.5v-9M4 7h112"/>'
        f'<path class="range" d="M{left} 7H{right}"/><circle cx="{x}" cy="7" r="3.4"/></svg>'
    )


def encode_figure(figure: Figure) -> str:
    """JSON of a figure that may stand inside a script element of a page."""
    text: str = figure.to_json()
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
