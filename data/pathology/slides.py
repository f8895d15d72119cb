"""Whole-slide images, read region by region through tiffslide, without OpenSlide's C library.

Shape legend: h, w height and width in pixels.
"""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import numpy as np

from polydit.platform.errors import ConfigurationError, DataError, require

from .tiles import Picture, TilePair, TileSet, TileSource

EXTRA = "slides"

Region = tuple[int, int, int, int]
"""x, y, width, height; x and y in pixels of the finest level, width and height in pixels of the level that is read."""


class WholeSlide:
    """A slide file (SVS, NDPI, SCN, pyramidal TIFF ...), opened at once and decoded region by region.

    The file is closed when nothing refers to the slide any more, or at the end of a ``with`` block.

    Args:
        path: the file.

    Raises:
        DataError: if it is missing, or no slide.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise DataError(f"there is no file {path}: check the path")
        tiffslide = require("tiffslide", EXTRA)
        try:
            self.slide: Any = tiffslide.TiffSlide(self.path)
        except Exception as error:  # tiffslide passes on whatever its readers raise
            raise DataError(
                f"{path} is no slide that can be read ({type(error).__name__}: {error}): export it as pyramidal TIFF"
            ) from error
        self._close = weakref.finalize(self, self.slide.close)

    def __enter__(self) -> WholeSlide:
        return self

    def __exit__(self, *error: object) -> None:
        self._close()

    def __reduce__(self) -> tuple[Any, ...]:  # a process that decodes opens the file for itself
        return WholeSlide, (self.path,)

    @property
    def levels(self) -> list[tuple[int, int]]:
        """Height and width of each level, the finest first."""
        return [(height, width) for width, height in self.slide.level_dimensions]

    @property
    def downsamples(self) -> list[float]:
        """How much coarser each level is than the finest."""
        return [float(value) for value in self.slide.level_downsamples]

    @property
    def mpp(self) -> float | None:
        """Micrometres of a pixel of the finest level; None if the file does not say."""
        found = self.slide.properties.get("tiffslide.mpp-x")
        return None if found is None else float(found)

    def read(self, region: Region | None = None, mpp: float | None = None) -> Picture:
        """A region [h, w, 3] uint8.

        Args:
            region: see `Region`, with width and height in pixels of the wanted resolution; None: the whole slide.
            mpp: wanted micrometres of a pixel; read from the next finer level and resized. None: the finest level's.

        Raises:
            DataError: if the region leaves the slide, the slide does not say its resolution, or it is damaged.
        """
        factor = self.factor(mpp)
        height, width = self.levels[0]
        x, y, across, down = region or (0, 0, int(width / factor), int(height / factor))
        right, bottom = x + across * factor, y + down * factor
        if min(x, y) < 0 or min(across, down) < 1 or right > width + factor or bottom > height + factor:
            raise DataError(
                f"the region {[x, y, across, down]} leaves {self.path}, which is {width} wide and {height} high at its "
                f"finest level ({factor:g} of its pixels for one that is read)"
            )
        level = max(i for i, value in enumerate(self.downsamples) if value <= factor * 1.001)
        scale = factor / self.downsamples[level]
        size = (max(1, round(across * scale)), max(1, round(down * scale)))
        try:
            image = self.slide.read_region((x, y), level, size).convert("RGB")
        except Exception as error:  # tiffslide passes on whatever its decoders raise
            raise DataError(
                f"{self.path}: the region {[x, y, across, down]} cannot be decoded ({type(error).__name__}: {error}); "
                "copy the file again"
            ) from error
        if image.size != (across, down):
            image = image.resize((across, down), require("PIL.Image", EXTRA).Resampling.BOX)
        return np.asarray(image)

    def factor(self, mpp: float | None) -> float:
        """Pixels of the finest level for one of the wanted resolution.

        Raises:
            DataError: if the slide does not say its resolution, or is coarser.
        """
        if mpp is None:
            return 1.0
        if self.mpp is None:
            raise DataError(f"{self.path} does not say its resolution: leave mpp out and read its finest level")
        if mpp < self.mpp * 0.999:
            raise DataError(f"{self.path} has {self.mpp:g} µm a pixel, coarser than the {mpp:g} asked for")
        return mpp / self.mpp


class PairedSlides(TileSource):
    """Registered slides of both stains, cut into tiles where there is tissue; tiles are decoded when they are read.

    Args:
        slides: name of each slide or patient -> ``{"he": path, "ihc": path}``, registered to each other at their finest
            level.
        tile: height and width of a tile in pixels of the wanted resolution.
        mpp: micrometres of a pixel; None: the finest level's.
        tissue: least share of a tile that is not glass. Glass is what is nearly as bright as the brightest of the
            coarsest level.

    Raises:
        ConfigurationError: if a slide does not name both files.
    """

    def __init__(
        self, slides: dict[str, dict[str, str]], tile: int = 512, mpp: float | None = None, tissue: float = 0.3
    ) -> None:
        for name, files in slides.items():
            if set(files) != {"he", "ihc"}:
                raise ConfigurationError(f"slide {name!r} names {sorted(files)}: give the paths `he` and `ihc`")
        if tile < 1 or not 0 <= tissue <= 1:
            raise ConfigurationError(f"tile {tile} must be at least 1 pixel and tissue {tissue} a share from 0 to 1")
        self.slides, self.tile, self.mpp, self.tissue = slides, tile, mpp, tissue

    def open(self) -> TileSet:
        """The tiles of all slides on which there is tissue."""
        places: list[tuple[str, WholeSlide, WholeSlide, Region]] = []
        for name, files in self.slides.items():
            he, ihc = WholeSlide(files["he"]), WholeSlide(files["ihc"])
            if he.levels[0] != ihc.levels[0]:
                raise DataError(
                    f"{he.path} is {he.levels[0]} pixels and its partner {ihc.path} {ihc.levels[0]}: register them"
                )
            places += [(name, he, ihc, region) for region in find_tissue(he, self.tile, self.mpp, self.tissue)]
        if not places:
            raise DataError(f"no tile of {self.tile} pixels has {self.tissue:.0%} tissue: lower `tissue` or `tile`")
        return _SlideTiles(places, self.tile, self.mpp)


class _SlideTiles(TileSet):
    def __init__(
        self, places: list[tuple[str, WholeSlide, WholeSlide, Region]], tile: int, mpp: float | None
    ) -> None:
        self.places, self.tile, self.mpp = places, tile, mpp

    def __len__(self) -> int:
        return len(self.places)

    def slide(self, index: int) -> str:
        return self.places[index][0]

    def size(self, index: int) -> tuple[int, int]:
        return self.tile, self.tile

    def read(self, index: int) -> TilePair:
        name, he, ihc, region = self.places[index]
        return TilePair(
            he.read(region, self.mpp), ihc.read(region, self.mpp), f"{name}_x{region[0]}_y{region[1]}", name
        )


def find_tissue(slide: WholeSlide, tile: int, mpp: float | None, tissue: float) -> list[Region]:
    """Regions of a grid of tiles that hold enough tissue, judged on the coarsest level."""
    factor = slide.factor(mpp)
    coarse = slide.downsamples[-1]
    height, width = slide.levels[-1]
    overview = np.asarray(slide.slide.read_region((0, 0), len(slide.levels) - 1, (width, height)).convert("L"))
    stained = overview < np.percentile(overview, 99) - 20
    span = tile * factor
    rows, columns = (int(size // span) for size in slide.levels[0])
    regions = []
    for row in range(rows):
        for column in range(columns):
            top, left = round(row * span / coarse), round(column * span / coarse)
            end = max(1, round(span / coarse))
            if stained[top : top + end, left : left + end].mean() >= tissue:
                regions.append((round(column * span), round(row * span), tile, tile))
    return regions
