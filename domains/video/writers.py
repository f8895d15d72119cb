"""Clips as files of their field."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from polydit.data.video.media import write_animation, write_sound, write_video
from polydit.data.video.pictures import encode_png, make_strip
from polydit.data.video.samples import ClipAnswer
from polydit.platform.errors import ConfigurationError
from polydit.platform.evaluation.writer import Writer
from polydit.platform.requests import Sample
from polydit.platform.storage import atomic_path

FORMATS = ("mp4", "gif", "strip", "wav", "npz")

Format = Literal["mp4", "gif", "strip", "wav", "npz"]


class ClipWriter(Writer):
    """Writes each clip as ``<index>_<task>_<name>`` with the ending of each format.

    Args:
        formats: ``mp4``, H.264 with the sound where there is one; ``gif``; ``strip``, all frames side by side as PNG;
            ``wav``, the sound alone; ``npz``, what was made without loss: ``frames`` [F, h, w, 3] uint8, ``frame_rate``
            and, with sound, ``sound`` [S] and ``sample_rate``.

    Raises:
        ConfigurationError: if a format is another, or there is none.
    """

    def __init__(self, formats: Sequence[Format] = ("mp4", "gif", "strip")) -> None:
        unknown = sorted(set(formats) - set(FORMATS))
        if unknown or not formats:
            raise ConfigurationError(f"formats {list(formats)}: choose of {', '.join(FORMATS)}")
        self.formats = tuple(formats)

    def write(self, samples: list[Sample], folder: Path, start: int = 0) -> list[Path]:
        """Write the clips among `samples`."""
        paths = []
        for index, sample in enumerate(samples, start):
            if isinstance(sample.item, ClipAnswer):
                stem = folder / f"{index:05d}_{sample.item.task}_{sample.item.name}"
                paths += [path for name in self.formats if (path := _write(name, stem, sample.item)) is not None]
        return paths


def _write(name: str, stem: Path, answer: ClipAnswer) -> Path | None:
    clip = answer.clip
    path = stem.with_name(f"{stem.name}.{'png' if name == 'strip' else name}")
    if name == "mp4":
        return write_video(path, clip)
    if name == "gif":
        return write_animation(path, clip)
    if name == "wav":
        return None if clip.sound is None else write_sound(path, clip)
    with atomic_path(path) as partial:
        if name == "strip":
            partial.write_bytes(encode_png(make_strip([clip.frames], [answer.given_frames])))
        else:
            arrays: dict[str, Any] = {"frames": clip.frames, "frame_rate": np.array(clip.frame_rate)}
            if clip.sound is not None:
                arrays |= {"sound": clip.sound, "sample_rate": np.array(clip.sample_rate)}
            with partial.open("wb") as file:
                np.savez_compressed(file, **arrays)
    return path
