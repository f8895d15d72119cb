"""Virtual stains as image files."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from polydit.data.pathology.images import write_picture
from polydit.platform.errors import ConfigurationError
from polydit.platform.evaluation.writer import Writer
from polydit.platform.requests import Sample

from .item import VirtualStain


class StainWriter(Writer):
    """Writes each stain to ``<index>_<name>.png`` or ``.tiff``, as large as its H&E image and without loss.

    Args:
        format: "png" or "tiff".
        masks: whether the mask of brown is written beside it, as ``<index>_<name>_mask``, white where stained.

    Raises:
        ConfigurationError: if the format is another.
    """

    def __init__(self, format: Literal["png", "tiff"] = "png", masks: bool = False) -> None:
        if format not in ("png", "tiff"):
            raise ConfigurationError(f"format is png or tiff, not {format!r}: others lose something")
        self.format, self.masks = format, masks

    def write(self, samples: list[Sample], folder: Path, start: int = 0) -> list[Path]:
        """Write the stains among `samples`."""
        paths = []
        for index, sample in enumerate(samples, start):
            item = sample.item
            if not isinstance(item, VirtualStain):
                continue
            stem = f"{index:05d}_{item.name}"
            paths.append(folder / f"{stem}.{self.format}")
            write_picture(paths[-1], item.stain)
            if self.masks:
                paths.append(folder / f"{stem}_mask.{self.format}")
                write_picture(paths[-1], item.mask.astype("uint8") * 255)
        return paths
