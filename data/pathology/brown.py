"""The brown channel of an IHC image, and masks of stained cells made of it.

Shape legend: h, w height and width in pixels.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from polydit.platform.errors import ConfigurationError, require

from .tiles import Picture

HIGHEST = 1.0
"""Concentration above which pixels count as this much; fully saturated brown is about a half."""

BINS = 2000
"""Of the histogram that a threshold is chosen from."""

FLOOR = 0.04
"""Least concentration that is taken for brown. H&E, which has none, stays below 0.03 (99 % of pixels of real tiles)."""


def measure_brown(image: Picture) -> NDArray[np.float64]:
    """Concentration of diaminobenzidine [h, w] by colour deconvolution (Ruifrok and Johnston 2001), not negative.

    In scikit-image's unit: the optical density, as a share of the largest that `rgb2hed` allows.
    """
    color = require("skimage.color", "pathology")
    brown: NDArray[np.float64] = color.rgb2hed(image)[..., 2]
    return brown


def make_mask(image: Picture, threshold: float, smoothing: float = 1.0) -> NDArray[np.bool_]:
    """Where an IHC image is brown: a coarse mask [h, w] of the cells that the marker stains.

    Args:
        image: [h, w, 3] uint8.
        threshold: concentration from which on tissue counts as stained.
        smoothing: standard deviation in pixels of the Gaussian that the concentration is blurred by first, so that
            single pixels count neither for nor against; 0: none.
    """
    brown = measure_brown(image)
    if smoothing > 0:
        filters = require("skimage.filters", "pathology")
        brown = filters.gaussian(brown, sigma=smoothing, mode="nearest", preserve_range=True)
    return np.asarray(brown >= threshold)


def choose_threshold(images: Iterable[Picture], floor: float = FLOOR) -> float:
    """Otsu's threshold (1979) of the concentration over all pixels of `images`, at least `floor`.

    Otsu divides whatever it is given: where nothing is brown it would divide noise, and the floor keeps masks empty.

    Raises:
        ConfigurationError: if there are no images.
    """
    edges = np.linspace(0.0, HIGHEST, BINS + 1)
    counts = np.zeros(BINS)
    for image in images:
        counts += np.histogram(measure_brown(image).clip(0.0, HIGHEST), edges)[0]
    if not counts.any():
        raise ConfigurationError("no image to choose a brown threshold from: give brown_threshold")
    if np.count_nonzero(counts) == 1:
        return floor
    filters = require("skimage.filters", "pathology")
    return max(floor, float(filters.threshold_otsu(hist=(counts, (edges[:-1] + edges[1:]) / 2))))
