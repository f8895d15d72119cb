"""Generated images as PNG files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from polydit.data.vision.decoding import EXTRA
from polydit.data.vision.pictures import Picture, Pixels
from polydit.platform.errors import require
from polydit.platform.evaluation.writer import Writer
from polydit.platform.requests import Sample


class PngWriter(Writer):
    """Writes each image to ``<index>.png``, or ``<index>_<class>.png`` if it has one.

    Args:
        class_folders: one folder a class, ``<class>/<index>.png``, as `ImageFolder` and other tools read them.
    """

    def __init__(self, class_folders: bool = False) -> None:
        self.class_folders = class_folders

    def write(self, samples: list[Sample], folder: Path, start: int = 0) -> list[Path]:
        """Write the images among `samples`."""
        paths = []
        for index, sample in enumerate(samples, start):
            item = sample.item
            if not isinstance(item, Picture):
                continue
            name = re.sub(r"[^\w.+-]+", "_", item.class_name)
            if self.class_folders:
                path = folder / (name or "unknown") / f"{index:05d}.png"
            else:
                path = folder / (f"{index:05d}_{name}.png" if name else f"{index:05d}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            write_png(path, item.pixels)
            paths.append(path)
        return paths


def write_png(path: Path, pixels: Pixels) -> None:
    """Write an image [h, w, C], in one step."""
    pillow: Any = require("PIL.Image", EXTRA)
    temporary = path.with_name(f".{path.name}.partial")
    try:
        pillow.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(temporary, format="PNG")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
