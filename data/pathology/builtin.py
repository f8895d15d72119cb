"""The built-in set: synthetic tissue under two stains, made from a seed.

Shape legend: h, w height and width of a tile in pixels, n cells, 3 colour channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polydit.platform.errors import ConfigurationError, require

from .tiles import Picture, TilePair, TileSet, TileSource

HAEMATOXYLIN = (0.650, 0.704, 0.286)
EOSIN = (0.072, 0.990, 0.105)
BROWN = (0.268, 0.570, 0.776)
"""Optical densities of pure stains in red, green and blue (Ruifrok and Johnston 2001)."""

CELL_RADIUS = (4.4, 5.8)
"""Half axes in pixels, drawn for each nucleus."""

SPACING = 11.5
"""Least distance of two nuclei in pixels; they never touch."""

RIM = 1.25
"""Half axes of what the marker stains, in those of the nucleus."""


class SyntheticTissue(TileSource):
    """Nuclei of two classes in stroma, as H&E and as IHC of a marker of one class.

    In H&E the classes have nuclei of one size, shape and mean darkness, and chromatin of equal variance in each; fine
    grains in one, coarse clumps in the other. In IHC the second is brown. So a tile's brown cells can be told from H&E,
    and by texture alone. Stains, density and the share of stained cells vary from slide to slide. Deterministic by
    seed: good for demonstrations, tests and controls, not for science.

    Args:
        slides: number of slides.
        tiles: of each slide.
        size: of a tile in pixels.
        grain: standard deviation of the chromatin as a share of its mean; less is harder.
        seed: of everything.

    Raises:
        ConfigurationError: if there is nothing to make, or tiles are too small to hold a nucleus.
    """

    def __init__(self, slides: int = 12, tiles: int = 40, size: int = 64, grain: float = 0.35, seed: int = 0) -> None:
        if min(slides, tiles) < 1 or size < 16:
            raise ConfigurationError(
                f"{slides} slides of {tiles} tiles of {size} pixels: take at least 1, 1 and 16, which holds a nucleus"
            )
        if not 0 <= grain <= 0.5:
            raise ConfigurationError(f"grain {grain} must be from 0 to 0.5, so that chromatin stays positive")
        self.slides, self.tiles, self.size, self.grain, self.seed = slides, tiles, size, grain, seed

    def open(self) -> TileSet:
        """The tiles; each is made when it is read."""
        return _SyntheticTiles(self)


class _SyntheticTiles(TileSet):
    def __init__(self, source: SyntheticTissue) -> None:
        self.source = source

    def __len__(self) -> int:
        return self.source.slides * self.source.tiles

    def slide(self, index: int) -> str:
        return f"slide{index // self.source.tiles:03d}"

    def size(self, index: int) -> tuple[int, int]:
        return self.source.size, self.source.size

    def read(self, index: int) -> TilePair:
        slide, tile = divmod(index, self.source.tiles)
        stains = draw_stains(np.random.default_rng((self.source.seed, slide)))
        generator = np.random.default_rng((self.source.seed, slide, tile))
        he, ihc, mask = draw_tissue(stains, self.source.size, self.source.grain, generator)
        return TilePair(he, ihc, f"slide{slide:03d}_tile{tile:03d}", self.slide(index), mask)


@dataclass(frozen=True)
class SlideStains:
    """What is alike in all tiles of a slide.

    Args:
        haematoxylin, eosin, brown: [3] optical densities at concentration 1, strength included.
        share: of stained cells.
        density: nuclei in 4096 pixels, before those that would touch are left out.
    """

    haematoxylin: NDArray[Any]
    eosin: NDArray[Any]
    brown: NDArray[Any]
    share: float
    density: float


def draw_stains(generator: np.random.Generator) -> SlideStains:
    """Stains of a slide: directions a few degrees off the standard ones, strengths within a fifth or so."""

    def vary(stain: tuple[float, ...]) -> NDArray[Any]:
        direction = np.maximum(np.asarray(stain) + generator.normal(0, 0.025, 3), 0.01)
        return direction / np.linalg.norm(direction) * generator.lognormal(0, 0.1)

    return SlideStains(
        vary(HAEMATOXYLIN), vary(EOSIN), vary(BROWN), float(generator.uniform(0.2, 0.6)),
        float(generator.uniform(14, 22)),
    )


def draw_tissue(
    stains: SlideStains, size: int, grain: float, generator: np.random.Generator
) -> tuple[Picture, Picture, NDArray[np.bool_]]:
    """H&E, IHC and the mask of stained cells of a tile.

    Args:
        stains: of its slide.
        size: h and w.
        grain: see `SyntheticTissue`.
        generator: all of the tile's randomness.
    """
    centres = place_cells(size, stains.density, generator)
    positive = generator.random(len(centres)) < stains.share
    nuclei, rims = np.zeros((size, size)), np.zeros((size, size))
    chromatin, stained = np.zeros((size, size)), np.zeros((size, size))
    mask = np.zeros((size, size), bool)
    fine, coarse = draw_grain(size, 0.4, generator), draw_grain(size, 1.7, generator)
    for centre, is_positive in zip(centres, positive, strict=True):
        distance = measure_ellipse(size, centre, generator)
        body = soften(1 - distance)
        nuclei = np.maximum(nuclei, body)
        inside = distance < 1
        chromatin[inside] = standardise((coarse if is_positive else fine)[inside])
        strength = generator.uniform(0.75, 1.05)  # drawn for either, so that geometry does not depend on the class
        if is_positive:
            rim = soften((RIM - distance) / RIM)
            rims = np.maximum(rims, rim)
            stained = np.maximum(stained, strength * rim)
            mask |= distance < RIM
    stroma = 0.30 + 0.12 * draw_grain(size, 3.0, generator)
    he = 0.75 * nuclei * (1 + grain * chromatin)
    eosin = np.maximum(stroma, 0.03) * (1 - 0.6 * nuclei)
    ground = 0.04 + 0.01 * draw_grain(size, 4.0, generator)
    counterstain = 0.35 * nuclei * (1 - 0.5 * rims)
    return (
        expose(he[..., None] * stains.haematoxylin + eosin[..., None] * stains.eosin, generator),
        expose(
            counterstain[..., None] * stains.haematoxylin + stained[..., None] * stains.brown
            + np.maximum(ground, 0)[..., None] * stains.eosin, generator,
        ),
        mask,
    )


def place_cells(size: int, density: float, generator: np.random.Generator) -> NDArray[Any]:
    """Centres [n, 2] at least `SPACING` apart, cells at the border cut by it."""
    wanted = generator.uniform(-3, size + 3, (math.ceil(density * (size + 6) ** 2 / 4096), 2))
    kept: list[NDArray[Any]] = []
    for centre in wanted:
        if all(np.hypot(*(centre - other)) >= SPACING for other in kept):
            kept.append(centre)
    return np.array(kept).reshape(-1, 2)


def measure_ellipse(size: int, centre: NDArray[Any], generator: np.random.Generator) -> NDArray[Any]:
    """Distance [h, w] from the centre of a nucleus in its half axes: 1 on its rim."""
    radii, angle = generator.uniform(*CELL_RADIUS, 2), generator.uniform(0, math.pi)
    y, x = np.mgrid[:size, :size] + 0.5
    y, x = y - centre[0], x - centre[1]
    along, across = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    return np.hypot(along / radii[0], across / radii[1])


def draw_grain(size: int, sigma: float, generator: np.random.Generator) -> NDArray[Any]:
    """Noise [h, w] blurred by `sigma` pixels, of mean 0 and variance 1."""
    ndimage = require("scipy.ndimage", "pathology")
    return standardise(ndimage.gaussian_filter(generator.normal(size=(size, size)), sigma, mode="wrap"))


def standardise(values: NDArray[Any]) -> NDArray[Any]:
    """Mean 0 and variance 1; zeros where there are too few values to have one."""
    spread = values.std() if values.size > 1 else 0.0
    return (values - values.mean()) / spread if spread > 0 else np.zeros_like(values)


def soften(depth: NDArray[Any]) -> NDArray[Any]:
    """1 inside and 0 outside, with an edge of about a pixel; `depth` in half axes."""
    return 1 / (1 + np.exp(-np.clip(depth * 12, -40, 40)))


def expose(density: NDArray[Any], generator: np.random.Generator) -> Picture:
    """Image [h, w, 3] uint8 of optical densities, with the noise of a camera."""
    light = 245 * 10.0 ** (-density) + generator.normal(0, 1.5, density.shape)
    return np.clip(np.round(light), 0, 255).astype(np.uint8)
