"""Hypotheses laid over each other: a figure to turn, and a still picture of what was seen and what it may have been.

Shape legend: H hypotheses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from polydit.data.pose.heatmaps import SIZE
from polydit.data.pose.skeleton import HEATMAP_JOINTS, JOINTS, PARENTS
from polydit.platform.errors import require

from .hypotheses import PoseHypotheses

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

COLOURS = {"left": "#1f77b4", "right": "#d62728", "middle": "#7f7f7f"}
"""Of the person's sides."""

TRUTH = "#2ca02c"

DRAWN = 40
"""Hypotheses in a picture, the first of the set: more hide each other and weigh on the page."""

BONES = [(PARENTS[joint], joint) for joint in range(1, len(JOINTS))]


def side_of(joint: str) -> str:
    """Side of the person that a joint is on."""
    return next((side for side in ("left", "right") if joint.startswith(side)), "middle")


def lay_out(poses: NDArray[np.floating], side: str) -> NDArray[np.float64]:
    """Ends of a side's bones [n, 3, 3] in every pose: start, end and a gap, so that they draw as one line."""
    bones = [bone for bone in BONES if side_of(JOINTS[bone[1]]) == side]
    ends = poses[:, bones].reshape(-1, 2, 3).astype(np.float64)
    return np.concatenate([ends, np.full((len(ends), 1, 3), np.nan)], axis=1)


def build_figure(item: PoseHypotheses) -> Figure:
    """Hypotheses in three dimensions, seen at first as the camera sees them."""
    graph = require("plotly.graph_objects", "report")
    figure = graph.Figure(layout={"template": graph.layout.Template()})
    shown = finite(item.poses[:DRAWN])
    sets = [(shown, side, COLOURS[side], 2, 0.35) for side in COLOURS]
    if item.truth is not None:
        sets += [(item.truth[None], side, TRUTH, 7, 1.0) for side in COLOURS]
    for poses, side, colour, width, opacity in sets:
        x, y, z = lay_out(poses, side).reshape(-1, 3).round(3).T
        figure.add_scatter3d(
            x=x.astype(np.float32), y=z.astype(np.float32), z=-y.astype(np.float32), mode="lines", hoverinfo="skip",
            line={"color": colour, "width": width}, opacity=opacity, connectgaps=False,
        )
    reach = find_reach(item)
    axis = {"visible": False, "showspikes": False, "range": [-reach, reach], "autorange": False}
    figure.update_layout(
        showlegend=False, margin={"l": 0, "r": 0, "t": 0, "b": 0}, paper_bgcolor="rgba(0,0,0,0)",
        scene={
            "aspectmode": "cube", "dragmode": "orbit", "xaxis": axis, "yaxis": axis, "zaxis": axis,
            "camera": {"eye": {"x": 0, "y": -1.4, "z": 0}, "up": {"x": 0, "y": 0, "z": 1},
                       "projection": {"type": "orthographic"}},
        },
    )
    return figure


def draw_still(item: PoseHypotheses) -> str:
    """SVG of the heatmaps, and of the hypotheses from the camera, from the side and from above."""
    reach = find_reach(item)
    views = [("camera", (0, 1), (1, 1)), ("side", (2, 1), (1, 1)), ("above", (0, 2), (1, -1))]
    panels = [_draw_heatmaps(item.heatmaps), *(_draw_view(item, axes, signs, reach) for _, axes, signs in views)]
    names = ["heatmaps", *(f"from the {name}" if name != "above" else "from above" for name, _, _ in views)]
    cells = []
    for number, (panel, name) in enumerate(zip(panels, names, strict=True)):
        x, y = 104 * (number % 2), 112 * (number // 2)
        cells.append(
            f'<g transform="translate({x} {y})"><rect width="100" height="100" fill="#8881" rx="2"/>{panel}'
            f'<text x="50" y="107" font-size="6" text-anchor="middle" fill="#888">{name}</text></g>'
        )
    return f'<svg viewBox="0 0 204 222" role="img" aria-hidden="true">{"".join(cells)}</svg>'


def find_reach(item: PoseHypotheses) -> float:
    """Metres from the pelvis to the edge of a picture."""
    sets = [finite(item.poses[:DRAWN])] + ([] if item.truth is None else [item.truth[None]])
    return 1.08 * max(0.5, *(float(np.quantile(np.abs(poses), 0.999)) for poses in sets if len(poses)))


def finite(poses: NDArray[np.floating]) -> NDArray[np.floating]:
    """Those poses of which every joint is somewhere."""
    return poses[np.isfinite(poses).all(axis=(1, 2))]


def _draw_view(item: PoseHypotheses, axes: tuple[int, int], signs: tuple[int, int], reach: float) -> str:
    def line(poses: NDArray[np.floating], side: str, colour: str, width: float, opacity: float) -> str:
        ends = lay_out(poses, side)[:, :2][..., list(axes)] * np.array(signs) * 50 / reach + 50
        path = "".join(f"M{a[0]:.1f} {a[1]:.1f}L{b[0]:.1f} {b[1]:.1f}" for a, b in ends)
        return (
            f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="{width}" stroke-opacity="{opacity}" '
            'stroke-linecap="round"/>'
        )

    shown = finite(item.poses[:DRAWN])
    # One path for each hypothesis: strokes of one path do not darken where they cross.
    lines = [line(pose[None], side, colour, 0.7, 0.2) for pose in shown for side, colour in COLOURS.items()]
    if item.truth is not None:
        lines += [line(item.truth[None], side, TRUTH, 0.9, 1) for side in COLOURS]
    return "".join(lines)


def _draw_heatmaps(heatmaps: NDArray[np.float32]) -> str:
    """Pixels of the heatmaps in the colours of the sides, the higher the denser."""
    cell, marks = 100 / SIZE, []
    values = np.nan_to_num(heatmaps.clip(0, 1))
    for side, colour in COLOURS.items():
        joints = [place for place, name in enumerate(HEATMAP_JOINTS) if side_of(name) == side]
        level = values[joints].max(axis=0)
        for low in (0.1, 0.3, 0.6):
            rows, columns = np.nonzero(level >= low)
            path = "".join(f"M{x * cell:.1f} {y * cell:.1f}h1.6v1.6h-1.6z" for y, x in zip(rows, columns, strict=True))
            marks.append(f'<path d="{path}" fill="{colour}" fill-opacity=".3"/>')
    return "".join(marks)
