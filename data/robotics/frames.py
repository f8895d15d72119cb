"""Decodes camera frames: single ones out of a video, and images held as bytes.

Shape legend: k frames, h x w pixels.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polydit.platform.errors import DataError, require

SEEK_GAP = 1.0
"""Seconds between two wanted frames from which a new seek is cheaper than decoding what lies between."""


def decode_video(
    path: Path, times: Sequence[float], tolerance: float, size: tuple[int, int], start: float = 0.0
) -> NDArray[np.uint8]:
    """Frames of a video at given times; nothing before the key frame ahead of each is decoded.

    Args:
        path: the video file.
        times: [k] seconds, ascending.
        tolerance: seconds by which a frame may be off, such as half the time between frames.
        size: (h, w) that frames are scaled to.
        start: seconds at which time 0 lies in the file, where it holds several episodes.

    Returns:
        [k, h, w, 3] RGB.

    Raises:
        DataError: if the file is missing, damaged, or has no frame at one of the times.
    """
    av = require("av", "robotics")
    if not path.is_file():
        raise DataError(f"there is no video {path}: copy it from where the data set came, or leave its field out")
    wanted = [start + time for time in times]
    try:
        with av.open(str(path)) as container:
            frames = _walk(container, wanted, tolerance)
            images = [frame.reformat(size[1], size[0], "rgb24").to_ndarray() for frame in frames]
    except (av.FFmpegError, OSError, IndexError) as error:
        raise DataError(f"{path} is damaged or no video ({error}): copy it again from where it came") from error
    if len(images) < len(wanted):
        raise DataError(
            f"{path} has no frame at {wanted[len(images)]:.3f} s: it is cut short, or belongs to another episode"
        )
    return np.stack(images)


def _walk(container: Any, wanted: Sequence[float], tolerance: float) -> list[Any]:
    """The wanted frames in order, up to the first that is not there."""
    stream = container.streams.video[0]
    found: list[Any] = []
    while len(found) < len(wanted):
        container.seek(int(wanted[len(found)] / stream.time_base), stream=stream, backward=True)
        before = len(found)
        for frame in container.decode(stream):
            ahead = frame.time - wanted[len(found)]
            if ahead < -tolerance:
                continue
            if ahead > tolerance:
                return found
            found.append(frame)
            if len(found) == len(wanted) or wanted[len(found)] - frame.time > SEEK_GAP:
                break
        if len(found) == before:
            return found
    return found


def decode_image(content: bytes, size: tuple[int, int], where: str) -> NDArray[np.uint8]:
    """An image file's bytes as [h, w, 3] RGB, scaled to `size` (h, w) if it has another.

    Raises:
        DataError: naming `where` it stands, if it is damaged.
    """
    images = require("PIL.Image", "robotics")
    try:
        image = images.open(io.BytesIO(content)).convert("RGB")
    except (OSError, SyntaxError) as error:  # Pillow says SyntaxError of a broken PNG
        raise DataError(f"{where} holds a damaged image ({error}): copy the file again from where it came") from error
    if image.size != (size[1], size[0]):
        image = image.resize((size[1], size[0]))
    return np.asarray(image)


def encode_image(values: NDArray[np.uint8]) -> bytes:
    """[h, w, 3] RGB as the bytes of a PNG file."""
    images = require("PIL.Image", "robotics")
    file = io.BytesIO()
    images.fromarray(values).save(file, format="PNG")
    return file.getvalue()
