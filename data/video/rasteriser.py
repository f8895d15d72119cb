"""Discs as pixels, exactly anti-aliased: a pixel has the mean colour of its area, so motion shows below a pixel.

Shape legend: F frames, n discs, h, w height and width in pixels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .clips import Frames

GROUND = (18, 20, 26)
"""Colour of the box."""

COLOURS = ((236, 84, 58), (72, 196, 104), (74, 128, 244), (244, 206, 70))
"""Of the bodies: red, green, blue, yellow; far apart, so that bodies are told from one another in any frame."""


def draw_discs(
    places: NDArray[np.float64], radii: NDArray[np.float64], colours: NDArray[np.int64], size: int
) -> Frames:
    """Frames [F, size, size, 3] of discs that do not overlap.

    Args:
        places: [F, n, 2] centres, right and down, in units of the frame's side.
        radii: [n] in the same unit.
        colours: [n] numbers of `COLOURS`.
        size: h and w.
    """
    shares = cover(places, radii, size)[..., None]
    ground = np.asarray(GROUND, float)
    paint = np.asarray(COLOURS, float)[colours] - ground
    image = ground + (shares * paint[None, :, None, None]).sum(axis=1)
    return np.clip(np.round(image), 0, 255).astype(np.uint8)


def cover(places: NDArray[np.float64], radii: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Share [F, n, size, size] of every pixel that each disc covers.

    The area of a disc left of and above a point is known in closed form; a pixel's is that of its four corners.
    """
    corners = np.linspace(0, 1, size + 1)
    x = (corners - places[..., :1]) / radii[:, None]
    y = (corners - places[..., 1:]) / radii[:, None]
    area = measure_corner(x[:, :, None, :], y[:, :, :, None])
    inside = area[..., 1:, 1:] - area[..., :-1, 1:] - area[..., 1:, :-1] + area[..., :-1, :-1]
    return np.clip(inside * (radii[:, None, None] * size) ** 2, 0, 1)


def measure_corner(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Area of the unit disc left of `x` and above `y`, both measured from its centre, y downwards; they broadcast."""
    x, y = np.clip(x, -1, 1), np.clip(y, -1, 1)
    height = np.abs(y)
    middle = np.sqrt(1 - height**2)  # where the circle is as high as y
    low, high = -middle, middle
    within = (
        _half_disc(np.minimum(x, low)) + height * (np.clip(x, low, high) - low)
        + _half_disc(np.maximum(x, high)) - _half_disc(high)
    )
    return _half_disc(x) + np.sign(y) * within


def _half_disc(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Area of the upper half of the unit disc left of x."""
    return (x * np.sqrt(np.clip(1 - x**2, 0, None)) + np.arcsin(x) + np.pi / 2) / 2
