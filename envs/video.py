"""Videos of episodes: RGB frames into an MP4 that any browser plays."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from polydit.platform.errors import ConfigurationError, require

from .rendering import EXTRA

QUALITY = 23
"""Constant rate factor of H.264: 0 loses nothing, 51 nearly all; 23 is the encoder's default."""


def write_video(
    path: str | Path, frames: Sequence[NDArray[np.uint8]], frame_rate: float, quality: int = QUALITY
) -> Path:
    """Write frames as MP4, H.264 in yuv420p; odd sizes lose their last row or column, as the format demands.

    The file appears under its name only when it is complete.

    Args:
        path: of the file; its folder is made.
        frames: RGB [h, w, 3] uint8, all of one size, at least 2 x 2.
        frame_rate: frames per second, above 0.
        quality: 0 to 51, lower is better and larger.

    Returns:
        The path.

    Raises:
        ConfigurationError: if there are no frames, they differ in size, or the rate is not positive.
    """
    path = Path(path)
    _check(frames, frame_rate)
    av = require("av", EXTRA)
    height, width = (size - size % 2 for size in frames[0].shape[:2])
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    try:
        with av.open(str(partial), "w", format="mp4") as container:
            stream = container.add_stream("libx264", rate=Fraction(frame_rate).limit_denominator(1000))
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.options = {"crf": str(quality)}
            for frame in frames:
                picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame[:height, :width]), format="rgb24")
                container.mux(stream.encode(picture))
            container.mux(stream.encode())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def _check(frames: Sequence[NDArray[np.uint8]], frame_rate: float) -> None:
    if not len(frames):
        raise ConfigurationError("there are no frames to write: record the episode first")
    if not frame_rate > 0:
        raise ConfigurationError(f"frame_rate is {frame_rate}: it must be above 0")
    shape = frames[0].shape
    for index, frame in enumerate(frames):
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or min(frame.shape[:2]) < 2:
            raise ConfigurationError(f"frame {index} is {frame.dtype} {frame.shape}: give RGB [h, w, 3] uint8")
        if frame.shape != shape:
            raise ConfigurationError(f"frame {index} is {frame.shape}, the first is {shape}: frames have one size")
