"""Reading and writing 8-bit RGB images, and refusing what only looks like one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from polydit.platform.errors import DataError, require

from .tiles import Picture

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp")
"""Files that are taken for images."""

BITS_PER_SAMPLE = 258
"""TIFF tag."""

EXTRA = "pathology"


def list_images(folder: Path) -> list[Path]:
    """Images of a folder, by name.

    Raises:
        DataError: if there is no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}: give one with {', '.join(SUFFIXES)} files")
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not found:
        raise DataError(f"{folder} holds no image: give a folder with {', '.join(SUFFIXES)} files")
    return found


def read_size(path: Path) -> tuple[int, int]:
    """Height and width in pixels from the header, which is checked to be that of an 8-bit RGB image.

    Raises:
        DataError: as `read_picture`, as far as the header tells.
    """
    with _open(path) as image:
        return image.height, image.width


def read_picture(path: Path) -> Picture:
    """The image [h, w, 3] uint8.

    A palette of colours is resolved, and an alpha channel that is opaque everywhere is dropped; both lose nothing.

    Raises:
        DataError: if there is no such file, it is damaged or no image, or has 16 bits a channel, one channel only, or
            transparent pixels; or if it is too large to be decoded whole.
    """
    with _open(path) as image:
        if image.mode in ("RGBA", "PA") or "transparency" in image.info:
            image = image.convert("RGBA")
            opacity = np.asarray(image.getchannel("A"))
            if opacity.min() < 255:
                raise DataError(
                    f"{path}: {(opacity < 255).mean():.1%} of the pixels are transparent, and nobody knows what is "
                    "behind them: save it as RGB on the background it was scanned on"
                )
        return np.asarray(image.convert("RGB"))


def read_mask(path: Path, size: tuple[int, int]) -> NDArray[np.bool_]:
    """A mask or label image [h, w]: whatever is not 0 is inside.

    Raises:
        DataError: if it is damaged, or of another size.
    """
    with _open(path, colour=False) as image:
        values = np.asarray(image)
    if values.shape[:2] != size:
        found = f"{values.shape[0]} x {values.shape[1]}"
        raise DataError(f"{path} is {found} pixels, its tile {size[0]} x {size[1]}: cut them alike")
    inside = values != 0
    return inside.any(axis=-1) if inside.ndim == 3 else inside


def write_picture(path: Path, picture: NDArray[Any]) -> None:
    """Write an image [h, w, 3], or [h, w] grey, uint8, as the file's suffix says, in one step and without loss."""
    pillow: Any = require("PIL.Image", EXTRA)
    temporary = path.with_name(f".{path.stem}.partial{path.suffix}")
    options = {"compression": "tiff_deflate"} if path.suffix.lower() in (".tif", ".tiff") else {}
    try:
        pillow.fromarray(picture).save(temporary, **options)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _open(path: Path, colour: bool = True) -> Iterator[Image]:
    pillow: Any = require("PIL.Image", EXTRA)
    try:
        with pillow.open(path) as image:
            if colour:
                _refuse_lossy(image, path)
            yield image
    except FileNotFoundError as error:
        raise DataError(f"there is no file {path}: check the path") from error
    except pillow.DecompressionBombError as error:
        raise DataError(
            f"{path} is too large to be decoded whole ({error}): read it as a slide, with `mpp` and a `region`"
        ) from error
    except pillow.UnidentifiedImageError as error:
        raise DataError(f"{path} is no image that can be read: save it as PNG or TIFF") from error
    except (OSError, SyntaxError) as error:
        raise DataError(f"{path} is truncated or damaged ({error}): copy or export it again") from error


def _refuse_lossy(image: Image, path: Path) -> None:
    """Refuse what would be turned into 8-bit colour only by losing something, which Pillow does without a word."""
    depth = max(getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE, (8,)))
    raw = " ".join(str(part) for entry in getattr(image, "tile", ()) for part in entry)
    if depth > 8 or ";16" in raw or image.mode in ("I", "F") or image.mode.startswith("I;16"):
        raise DataError(
            f"{path} has {max(depth, 16)} bits a channel, and stains are measured in 8: convert it with the range that "
            "the scanner's white has, such as by dividing by 257 where white is 65535"
        )
    if image.mode in ("1", "L", "LA"):
        raise DataError(f"{path} is grey and a stain is a colour: give the RGB scan")
    if image.mode not in ("RGB", "RGBA", "P", "PA"):
        raise DataError(f"{path} has colours of the kind {image.mode}: convert it to RGB")
