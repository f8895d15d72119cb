"""Video files in and out, through PyAV; sound as WAV through soundfile, strips and animations through Pillow.

Shape legend: F frames, h, w height and width in pixels, S samples of sound.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polydit.platform.errors import DataError, require

from .clips import Clip, Frames, Sound

EXTRA = "video"
AUDIO_EXTRA = "audio"

VIDEO_SUFFIXES = (".mp4", ".mpg", ".mpeg", ".avi", ".webm", ".mkv", ".mov", ".m4v")

QUALITY = 18
"""Constant rate factor of H.264: 0 loses nothing, 51 nearly all; at 18 few see a difference."""

LEAST_SIDE = 256
"""Smaller frames are written enlarged by a whole factor, for colours of H.264 have half the resolution of its light."""

SILENCE = 1e-4
"""Loudest sample, of 1, up to which a sound counts as silent."""


@dataclass(frozen=True)
class Recording:
    """A file decoded as a whole.

    Args:
        frames: [F, size, size, 3] at the wanted rate.
        sound: [S] mono at the wanted rate, from the first frame on; None: the file has none or it was not asked for.
        note: what was odd about the file; empty: nothing.
    """

    frames: Frames
    sound: Sound | None
    note: str = ""


def read_video(path: Path, size: int, frame_rate: float, sample_rate: int = 0) -> Recording:
    """Decode a video file: its middle square, shrunk or enlarged to `size`, at `frame_rate`; sound if wanted and there.

    Frame f is the last one shown by f / frame_rate after the first. Grey videos become RGB, and what is transparent is
    shown on black, as players do.

    Args:
        path: of the file.
        size: h and w of the result.
        frame_rate: frames per second of the result.
        sample_rate: of the sound; 0: it is not read.

    Raises:
        DataError: if the file is missing, holds no video, or is damaged.
    """
    av = require("av", EXTRA)
    if not path.is_file():
        raise DataError(f"there is no file {path}: give a video, such as an MP4")
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise DataError(f"{path} holds no video: give one with frames, or leave it out")
            shown = list(_decode_frames(container, size))
            stream = container.streams.video[0]
            declared = float(stream.duration * stream.time_base) if stream.duration else 0.0
        sound = _read_sound(av, path, shown[0][0], sample_rate) if shown and sample_rate else None
    except (av.error.FFmpegError, OSError) as error:
        raise DataError(f"{path} is truncated or no video ({error}): copy it again, or leave it out") from error
    if not shown:
        raise DataError(f"{path} holds no frame that can be decoded: copy it again, or leave it out")
    times = np.array([time for time, _ in shown]) - shown[0][0]
    lasting = times[-1] + (float(np.median(np.diff(times))) if len(times) > 1 else 1 / frame_rate)
    note = "" if declared <= lasting + 0.5 else f"ends after {lasting:.1f} of {declared:.1f} seconds"
    wanted = np.arange(max(1, int(lasting * frame_rate + 1e-3))) / frame_rate
    chosen = np.clip(np.searchsorted(times, wanted + 1e-6, side="right") - 1, 0, None)
    return Recording(np.stack([shown[i][1] for i in chosen]), sound, note)


def resize_square(picture: NDArray[Any], size: int) -> NDArray[np.uint8]:
    """The middle square of a picture [h, w], [h, w, 1], 3 or 4 of uint8 as RGB [size, size, 3], averaged if shrunk."""
    pillow: Any = require("PIL.Image", EXTRA)
    if picture.ndim == 3 and picture.shape[2] == 1:
        picture = picture[..., 0]
    image = pillow.fromarray(np.ascontiguousarray(picture))
    if image.mode == "RGBA":
        image = pillow.alpha_composite(pillow.new("RGBA", image.size, (0, 0, 0, 255)), image)
    image = image.convert("RGB")
    side = min(image.size)
    left, top = (image.size[0] - side) // 2, (image.size[1] - side) // 2
    box = (left, top, left + side, top + side)
    method = pillow.Resampling.BOX if side >= size else pillow.Resampling.BICUBIC
    return np.asarray(image.resize((size, size), method, box=box))


def write_video(path: Path, clip: Clip, quality: int = QUALITY) -> Path:
    """Write a clip as MP4 that browsers play, H.264 and AAC; the file appears when it is complete.

    Args:
        path: of the file; its folder is made.
        clip: what to write; small frames are enlarged by a whole factor.
        quality: 0 to 51, lower is better and larger.
    """
    av = require("av", EXTRA)
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = enlarge(clip.frames, LEAST_SIDE)
    height, width = (side - side % 2 for side in frames.shape[1:3])
    partial = path.with_name(f"{path.name}.partial")
    try:
        with av.open(str(partial), "w", format="mp4") as container:
            rate = Fraction(clip.frame_rate).limit_denominator(1000)
            stream = container.add_stream("libx264", rate=rate)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.options = {"crf": str(quality)}
            heard = None if clip.sound is None else container.add_stream("aac", rate=clip.sample_rate, layout="mono")
            for frame in frames:
                picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame[:height, :width]), format="rgb24")
                container.mux(stream.encode(picture))
            container.mux(stream.encode())
            if heard is not None and clip.sound is not None:
                samples = av.AudioFrame.from_ndarray(clip.sound[None].astype(np.float32), "fltp", "mono")
                samples.sample_rate, samples.pts, samples.time_base = clip.sample_rate, 0, Fraction(1, clip.sample_rate)
                container.mux(heard.encode(samples))
                container.mux(heard.encode())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def write_animation(path: Path, clip: Clip) -> Path:
    """Write the frames of a clip as GIF that repeats for ever, enlarged by a whole factor."""
    pillow: Any = require("PIL.Image", EXTRA)
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = [pillow.fromarray(frame) for frame in enlarge(clip.frames, LEAST_SIDE // 2)]
    pictures[0].save(
        path, format="GIF", save_all=True, append_images=pictures[1:], duration=1000 / clip.frame_rate, loop=0
    )
    return path


def write_sound(path: Path, clip: Clip) -> Path:
    """Write the sound of a clip as 16-bit WAV.

    Raises:
        DataError: if it has none.
    """
    if clip.sound is None:
        raise DataError(f"clip {clip.name!r} has no sound to write as {path.name}")
    soundfile: Any = require("soundfile", AUDIO_EXTRA)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.clip(clip.sound, -1, 1), clip.sample_rate, subtype="PCM_16", format="WAV")
    return path


def enlarge(frames: Frames, least: int) -> Frames:
    """Frames enlarged by the smallest whole factor that makes them at least so large."""
    factor = max(1, -(-least // min(frames.shape[1:3])))
    return frames.repeat(factor, axis=1).repeat(factor, axis=2)


def fit_sound(sound: Sound, start: int, samples: int) -> Sound:
    """`samples` samples from `start` on; where a sound is over, silence."""
    part = sound[start : start + samples]
    return np.pad(part, (0, samples - len(part))) if len(part) < samples else part


def is_silent(sound: Sound) -> bool:
    """Whether nothing is heard."""
    return not len(sound) or float(np.abs(sound).max()) <= SILENCE


def _decode_frames(container: Any, size: int) -> Iterator[tuple[float, NDArray[np.uint8]]]:
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    rate = float(stream.average_rate or 25)
    for number, frame in enumerate(container.decode(stream)):
        time = number / rate if frame.time is None else float(frame.time)
        transparent = any(component.is_alpha for component in frame.format.components)
        yield time, resize_square(frame.to_ndarray(format="rgba" if transparent else "rgb24"), size)


def _read_sound(av: Any, path: Path, start: float, sample_rate: int) -> Sound | None:
    """The sound from the moment of the first frame on."""
    with av.open(str(path)) as container:
        if not container.streams.audio:
            return None
        resampler = av.AudioResampler(format="flt", layout="mono", rate=sample_rate)
        parts: list[NDArray[np.float32]] = []
        first = None
        for frame in container.decode(container.streams.audio[0]):
            if first is None:
                first = float(frame.time or 0.0)
            parts += [part.to_ndarray()[0] for part in resampler.resample(frame)]
        parts += [part.to_ndarray()[0] for part in resampler.resample(None)]
    if not parts:
        return None
    sound = np.concatenate(parts)
    late = round(((first or 0.0) - start) * sample_rate)
    return np.pad(sound, (late, 0)) if late > 0 else sound[-late:]
