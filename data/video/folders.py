"""Clips of the user: folders of video files or frames, and archives of arrays, cut to one format and stored."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from polydit.platform.errors import ConfigurationError, DataError, require

from .clips import Clip, ClipFormat, ClipSet, ClipSource
from .media import EXTRA, VIDEO_SUFFIXES, Recording, fit_sound, is_silent, read_video, resize_square
from .store import ClipStore, name_store, write_store

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


class RecordedClips(ClipSource):
    """What sources of recordings share: each is decoded once, cut into clips, and stored.

    Args:
        path: where the recordings are.
        stride: frames from the start of a clip to that of the next in one recording; None: clips do not overlap.
        group_by: what never stands in two splits: ``file``, or ``folder``, as where a speaker or scene has one.
        unreadable: whether a damaged recording, or one that is too short, ends the run (``refuse``) or is counted and
            left out (``skip``).
        soundless: what happens to clips that are silent or have no sound where sound is wanted: ``skip``, counted;
            ``refuse``; or ``keep``, with silence.

    Raises:
        ConfigurationError: if the stride is not positive.
    """

    kind: str
    """Names the store."""

    def __init__(
        self,
        path: str,
        stride: int | None = None,
        group_by: Literal["file", "folder"] = "file",
        unreadable: Literal["refuse", "skip"] = "refuse",
        soundless: Literal["skip", "refuse", "keep"] = "skip",
    ) -> None:
        if stride is not None and stride < 1:
            raise ConfigurationError(f"stride is a number of frames, not {stride}: give at least 1")
        self.path, self.stride, self.group_by = Path(path), stride, group_by
        self.unreadable, self.soundless = unreadable, soundless

    @abstractmethod
    def list_recordings(self) -> list[Path]:
        """Files or folders, one a recording, in a fixed order."""

    @abstractmethod
    def decode(self, path: Path, wanted: ClipFormat) -> Iterator[tuple[str, Recording]]:
        """Name and content of what a file or folder holds."""

    def open(self, wanted: ClipFormat) -> ClipSet:
        """The clips in the wanted format; decoded if the cache lacks them, or files changed.

        Raises:
            DataError: if there are none, or one is bad and to be refused.
        """
        paths = self.list_recordings()
        state = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
        settings = [self.kind, state, self.stride, self.group_by, self.unreadable, self.soundless]
        format_ = [wanted.frames, wanted.size, wanted.frame_rate, wanted.sample_rate]
        folder = name_store(self.kind, wanted.cache_dir, settings, format_)
        if folder.exists():
            return ClipStore(folder)
        notes: list[str] = []
        clips = list(self._cut_all(paths, wanted, notes))
        return write_store(folder, clips, len(clips), wanted, notes)

    def _cut_all(self, paths: list[Path], wanted: ClipFormat, notes: list[str]) -> Iterator[Clip]:
        silent = 0
        for path in paths:
            try:
                for name, recording in self.decode(path, wanted):
                    if recording.note:
                        notes.append(f"{name} {recording.note}")
                    for clip in self._cut(path, name, recording, wanted):
                        if wanted.sample_rate and self._is_left_out(clip):
                            silent += 1
                        else:
                            yield clip
            except DataError as error:
                if self.unreadable == "refuse":
                    raise
                notes.append(str(error))
        if silent:
            notes.append(f"{silent} clips are silent or have no sound")

    def _cut(self, path: Path, name: str, recording: Recording, wanted: ClipFormat) -> Iterator[Clip]:
        length = len(recording.frames)
        if length < wanted.frames:
            raise DataError(
                f"{name} has {length} frames at {wanted.frame_rate:g} per second and clips have {wanted.frames}: lower "
                "data.frames or data.frame_rate, or set unreadable: skip"
            )
        group = str(path.parent if self.group_by == "folder" else f"{path}:{name}")
        for start in range(0, length - wanted.frames + 1, self.stride or wanted.frames):
            sound = None
            if wanted.sample_rate and recording.sound is not None:
                first = round(start / wanted.frame_rate * wanted.sample_rate)
                sound = fit_sound(recording.sound, first, wanted.samples)
            elif wanted.sample_rate:
                sound = np.zeros(wanted.samples, np.float32)
            yield Clip(
                recording.frames[start : start + wanted.frames], wanted.frame_rate, sound, wanted.sample_rate,
                name=f"{name}_{start:05d}", group=group,
            )

    def _is_left_out(self, clip: Clip) -> bool:
        if clip.sound is None or not is_silent(clip.sound) or self.soundless == "keep":
            return False
        if self.soundless == "refuse":
            raise ConfigurationError(
                f"clip {clip.name} is silent or has no sound: leave it out with soundless: skip, take it as silence "
                "with soundless: keep, or train on frames alone with data.sample_rate 0"
            )
        return True


class VideoFolder(RecordedClips):
    """Video files in a folder and the folders within it, with or without sound, of any size and rate.

    Each is brought to the wanted rate, its middle square to the wanted size, its sound to the wanted sample rate. The
    arguments are those of `RecordedClips`.
    """

    kind = "videos"

    def list_recordings(self) -> list[Path]:
        """All video files, by path."""
        if self.path.is_file():
            return [self.path]
        if not self.path.is_dir():
            raise DataError(f"there is no folder {self.path}: give one that holds videos")
        found = sorted(path for path in self.path.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES)
        if not found:
            raise DataError(f"{self.path} holds no videos: files end with {', '.join(VIDEO_SUFFIXES)}")
        return found

    def decode(self, path: Path, wanted: ClipFormat) -> Iterator[tuple[str, Recording]]:
        """The video."""
        yield path.stem, read_video(path, wanted.size, wanted.frame_rate, wanted.sample_rate)


class FrameFolders(RecordedClips):
    """Folders of images, each a silent recording, in the order of their names with numbers counted (2 before 10).

    Args:
        frame_rate: of the recordings; frames are left out or repeated to bring them to the wanted rate.
    """

    kind = "frames"

    def __init__(self, path: str, frame_rate: float = 25.0, **options: Any) -> None:
        super().__init__(path, **options)
        if not frame_rate > 0:
            raise ConfigurationError(f"frame_rate is {frame_rate}: it must be above 0")
        self.frame_rate = frame_rate

    def list_recordings(self) -> list[Path]:
        """All folders that hold images themselves."""
        if not self.path.is_dir():
            raise DataError(f"there is no folder {self.path}: give one that holds folders of frames")
        folders = sorted({path.parent for path in self.path.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES})
        if not folders:
            raise DataError(f"{self.path} holds no frames: images end with {', '.join(IMAGE_SUFFIXES)}")
        return folders

    def decode(self, path: Path, wanted: ClipFormat) -> Iterator[tuple[str, Recording]]:
        """The frames of a folder; images of other sizes, grey and transparent ones are fitted as videos are."""
        pillow: Any = require("PIL.Image", EXTRA)
        files = sorted((file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES), key=_count)
        frames = []
        for file in files:
            try:
                with pillow.open(file) as image:
                    mode = image.mode if image.mode in ("RGB", "RGBA", "L") else "RGB"
                    frames.append(resize_square(np.asarray(image.convert(mode)), wanted.size))
            except OSError as error:
                raise DataError(f"{file} is damaged or no image ({error}): replace it, or leave it out") from error
        count = max(1, int(len(frames) / self.frame_rate * wanted.frame_rate + 1e-3))
        chosen = np.minimum(np.arange(count) * self.frame_rate / wanted.frame_rate + 1e-6, len(frames) - 1).astype(int)
        yield path.name, Recording(np.stack([frames[i] for i in chosen]), None)


class ClipArchive(RecordedClips):
    """One NPZ file: ``video`` [all frames, h, w, 3] uint8 and ``num_frames`` [recordings], which says how to divide it.

    With sound, ``audio`` [all samples] int16 or float in [-1, 1] and ``num_audio`` [recordings].

    Args:
        frame_rate: of the recordings.
        sample_rate: of their sound.
    """

    kind = "archive"

    def __init__(self, path: str, frame_rate: float = 25.0, sample_rate: int = 16000, **options: Any) -> None:
        super().__init__(path, **options)
        if not frame_rate > 0 or sample_rate < 1:
            raise ConfigurationError(f"frame_rate {frame_rate} and sample_rate {sample_rate} must be above 0")
        self.frame_rate, self.sample_rate = frame_rate, sample_rate

    def list_recordings(self) -> list[Path]:
        """The archive itself."""
        if not self.path.is_file():
            raise DataError(f"there is no file {self.path}: give an NPZ with video and num_frames")
        return [self.path]

    def decode(self, path: Path, wanted: ClipFormat) -> Iterator[tuple[str, Recording]]:
        """All recordings."""
        arrays = self._load(path)
        video, lengths = arrays["video"], arrays["num_frames"].astype(int)
        audio, sizes = arrays.get("audio"), arrays.get("num_audio")
        heard = 0
        for number, end in enumerate(np.cumsum(lengths)):
            frames = video[end - lengths[number] : end]
            sound = None
            if audio is not None and sizes is not None:
                sound = _to_sound(audio[heard : heard + int(sizes[number])])
                heard += int(sizes[number])
                if wanted.sample_rate:
                    sound = resample(sound, self.sample_rate, wanted.sample_rate)
            count = max(1, int(len(frames) / self.frame_rate * wanted.frame_rate + 1e-3))
            chosen = np.minimum(np.arange(count) * self.frame_rate / wanted.frame_rate + 1e-6, len(frames) - 1)
            fitted = np.stack([resize_square(frames[i], wanted.size) for i in chosen.astype(int)])
            yield f"{path.stem}_{number:04d}", Recording(fitted, sound)

    def _load(self, path: Path) -> dict[str, NDArray[Any]]:
        try:
            with np.load(path, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{path} is damaged or no NPZ of arrays ({error}): write it again") from error
        missing = {"video", "num_frames"} - set(arrays)
        if missing:
            raise DataError(f"{path} lacks {', '.join(sorted(missing))}, it has {', '.join(sorted(arrays))}")
        video = arrays["video"]
        if video.dtype != np.uint8 or video.ndim != 4 or video.shape[3] not in (1, 3, 4):
            raise DataError(f"video in {path} is {video.dtype} {video.shape}: give uint8 [frames, height, width, 3]")
        if int(arrays["num_frames"].sum()) != len(video):
            raise DataError(f"num_frames in {path} sum to {arrays['num_frames'].sum()}, video has {len(video)} frames")
        return arrays


def resample(sound: NDArray[np.float32], rate: int, wanted: int) -> NDArray[np.float32]:
    """Sound at another sample rate, by soxr's high-quality filter."""
    if rate == wanted:
        return sound
    librosa: Any = require("librosa", "audio")
    return np.asarray(librosa.resample(sound, orig_sr=rate, target_sr=wanted), np.float32)


def _to_sound(audio: NDArray[Any]) -> NDArray[np.float32]:
    scale = 1 / 32768 if np.issubdtype(audio.dtype, np.integer) else 1.0
    return audio.astype(np.float32) * np.float32(scale)


def _count(path: Path) -> list[Any]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]
