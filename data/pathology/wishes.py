"""What can be asked of a virtual stain: a request's wishes, parsed and checked."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from polydit.platform.errors import DataError, UserError

from .images import list_images, read_picture, read_size
from .slides import Region, WholeSlide
from .tiles import Picture

KEYS = ("image", "truth", "region", "mpp", "name")


@dataclass(frozen=True)
class StainWish:
    """One image to stain.

    Args:
        image: path of an H&E image, or the image itself [h, w, 3] uint8.
        truth: path of the same tissue's IHC image, or the image itself, to be judged against; None: unknown.
        region: of a whole slide, see `polydit.data.pathology.slides.Region`; None: the image as a whole.
        mpp: micrometres of a pixel at which a whole slide is read; None: its finest level.
        name: of what is written.
    """

    image: Path | Picture
    truth: Path | Picture | None = None
    region: Region | None = None
    mpp: float | None = None
    name: str = ""

    @staticmethod
    def parse(raw: Mapping[str, Any]) -> StainWish:
        """A wish from a request's plain values.

        Raises:
            UserError: naming the wish, its limit and the fix.
        """
        for key in raw:
            if key not in KEYS:
                near = difflib.get_close_matches(key, KEYS, 1)
                hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(KEYS)}"
                raise UserError(f"unknown wish {key!r} in a request: {hint}")
        image = raw.get("image")
        if image is None:
            raise UserError("a request names an H&E image to stain: image: tile.png (or folder: tiles/ for all in one)")
        region, mpp = raw.get("region"), raw.get("mpp")
        if region is not None and (len(region) != 4 or not all(isinstance(part, int) for part in region)):
            raise UserError(f"region is [x, y, width, height] in whole pixels, not {region!r}")
        if mpp is not None and not (isinstance(mpp, int | float) and mpp > 0):
            raise UserError(f"mpp is micrometres of a pixel, such as 0.5, not {mpp!r}")
        source, truth = _source("image", image), None if raw.get("truth") is None else _source("truth", raw["truth"])
        name = str(raw.get("name") or (source.stem if isinstance(source, Path) else "image"))
        return StainWish(
            source, truth, None if region is None else (region[0], region[1], region[2], region[3]),
            None if mpp is None else float(mpp), name,
        )

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the wanted image, without decoding it."""
        if self.region is not None:
            return self.region[3], self.region[2]
        if not isinstance(self.image, Path):
            return self.image.shape[0], self.image.shape[1]
        if self.mpp is not None:
            with WholeSlide(self.image) as slide:
                factor = slide.factor(self.mpp)
                return int(slide.levels[0][0] / factor), int(slide.levels[0][1] / factor)
        return read_size(self.image)

    def read(self) -> tuple[Picture, Picture | None]:
        """The H&E image and, if it is known, the IHC image.

        Raises:
            DataError: if a file cannot be read, or their sizes differ.
        """
        image = self._read(self.image)
        truth = None if self.truth is None else self._read(self.truth)
        if truth is not None and truth.shape != image.shape:
            raise DataError(
                f"{self.name}: the image is {image.shape[0]} x {image.shape[1]} and its truth {truth.shape[0]} x "
                f"{truth.shape[1]}: register both and cut them alike"
            )
        return image, truth

    def _read(self, source: Path | Picture) -> Picture:
        if not isinstance(source, Path):
            return source
        if self.region is not None or self.mpp is not None:
            with WholeSlide(source) as slide:
                return slide.read(self.region, self.mpp)
        return read_picture(source)


def expand_folders(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Request entries with every ``folder`` replaced by one entry for each image in it.

    A ``truth`` beside a folder is the folder of the IHC images of equal names.

    Raises:
        DataError: if a folder is missing or empty, or an image lacks its truth.
    """
    expanded = []
    for entry in entries:
        if "folder" not in entry:
            expanded.append(entry)
            continue
        rest = {key: value for key, value in entry.items() if key not in ("folder", "truth")}
        truths = {}
        if entry.get("truth") is not None:
            truths = {path.stem: path for path in list_images(Path(entry["truth"]))}
        for path in list_images(Path(entry["folder"])):
            if entry.get("truth") is not None and path.stem not in truths:
                raise DataError(f"{path} has no partner in {entry['truth']}: leave `truth` out, or add the image")
            expanded.append({
                **rest, "image": str(path), **({"truth": str(truths[path.stem])} if truths else {}),
            })
    return expanded


def _source(key: str, value: Any) -> Path | Picture:
    if isinstance(value, str | Path):
        path = Path(value)
        if not path.is_file():
            raise UserError(f"{key}: there is no file {path}: give a PNG or TIFF, or a slide with region or mpp")
        return path
    array = np.asarray(value)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        raise UserError(f"{key} is an array [h, w, 3] of uint8, not {array.shape} of {array.dtype}")
    return array
