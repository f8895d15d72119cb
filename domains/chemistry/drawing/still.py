"""A still picture of a scene as SVG: for paper, for browsers without WebGL, and until the figure is drawn."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from .scene import EDGE_COLOUR, STICK_RADIUS, Scene, ball_radius, element_colour, normalise

EDGE_PIECES = 6
"""Each edge of a cell is cut in this many pieces, each hidden or not by itself."""

EDGE_SETBACK = 0.3
"""Å by which edges count as farther away, since bonds often run along them."""


def draw_still(scene: Scene) -> str:
    """SVG markup of the view along -y with z up, in the units of the scene (Å)."""
    radii = np.array([ball_radius(int(number)) for number in scene.numbers])
    shapes = [*draw_edges(scene), *draw_sticks(scene, radii), *draw_balls(scene, radii)]
    shapes.sort(key=lambda shape: -shape[0])  # painter's order: what is far along the line of sight comes first
    reach = scene.reach
    box = f"{-reach:.2f} {-reach:.2f} {2 * reach:.2f} {2 * reach:.2f}"
    return f'<svg viewBox="{box}" role="img" aria-hidden="true">{"".join(shape for _, shape in shapes)}</svg>'


def draw_balls(scene: Scene, radii: np.ndarray) -> Iterator[tuple[float, str]]:
    """(depth, circle with a highlight) of every atom."""
    for number, (x, depth, z), radius in zip(scene.numbers.tolist(), scene.positions, radii, strict=True):
        colour = element_colour(number)
        yield float(depth), (
            f'<circle cx="{x:.2f}" cy="{-z:.2f}" r="{radius:.2f}" fill="{colour}" stroke="#0006" stroke-width=".03"/>'
            f'<circle cx="{x - radius / 3:.2f}" cy="{-z - radius / 3:.2f}" r="{radius / 2.6:.2f}" fill="#fff5"/>'
        )


def draw_sticks(scene: Scene, radii: np.ndarray) -> Iterator[tuple[float, str]]:
    """(depth, line) of both halves of every bond, each in the colour of its atom."""
    for here, there in np.concatenate([scene.bonds, scene.bonds[:, ::-1]]):
        middle = (scene.positions[here] + scene.positions[there]) / 2
        # From the surface on, else a stick that points at the viewer would be drawn across its ball.
        inside = 0.9 * radii[here] * normalise(middle - scene.positions[here])
        start = scene.positions[here] + inside
        # A wider dark line below is the outline, without which hydrogen's white is lost on a white page.
        outline = draw_line(start, middle, "#0006", 2 * STICK_RADIUS + 0.05)
        stick = draw_line(start, middle, element_colour(int(scene.numbers[here])), 2 * STICK_RADIUS)
        yield float(start[1] + middle[1]) / 2, outline + stick


def draw_edges(scene: Scene) -> Iterator[tuple[float, str]]:
    """(depth, line) of the pieces of the cell's edges."""
    width = 0.012 * scene.reach
    for start, end in scene.edges if scene.edges is not None else ():
        knots = np.linspace(start, end, EDGE_PIECES + 1)
        for first, second in pairwise(knots):
            depth = float(first[1] + second[1]) / 2 + EDGE_SETBACK
            yield depth, draw_line(first, second, EDGE_COLOUR, width)


def draw_line(start: np.ndarray, end: np.ndarray, colour: str, width: float) -> str:
    """SVG line between two points, seen along -y."""
    return (
        f'<line x1="{start[0]:.2f}" y1="{-start[2]:.2f}" x2="{end[0]:.2f}" y2="{-end[2]:.2f}" stroke="{colour}" '
        f'stroke-width="{width:.2f}" stroke-linecap="round"/>'
    )
