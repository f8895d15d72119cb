"""Clips in one folder of memory-mapped arrays, made once and whole or absent."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polydit.platform.errors import DataError

from .clips import Clip, ClipFormat, ClipSet

LARGEST = 32767
"""Of 16-bit sound."""

FACTS = "clips.json"


class ClipStore(ClipSet):
    """Clips of one format: ``frames.npy`` [n, F, h, w, 3], ``sound.npy`` [n, S] and ``clips.json``.

    Args:
        folder: of the store.

    Raises:
        DataError: if the store is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
            self.facts: list[dict[str, Any]] = facts["clips"]
            self.frame_rate, self.sample_rate = float(facts["frame_rate"]), int(facts["sample_rate"])
            self.notes: list[str] = facts["notes"]
            self._open()
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"{folder} is no whole store of clips ({error}): remove it, and it is made anew") from error

    def __len__(self) -> int:
        return len(self.facts)

    def group(self, index: int) -> str:
        """Group of a clip."""
        return str(self.facts[index]["group"])

    def read(self, index: int) -> Clip:
        """A clip; its frames stay mapped until they are used."""
        facts = self.facts[index]
        sound = None if self.sound is None else self.sound[index].astype(np.float32) / LARGEST
        onsets = None if facts["onsets"] is None else np.array(facts["onsets"], np.float64)
        return Clip(
            self.frames[index], self.frame_rate, sound, self.sample_rate if sound is not None else 0, onsets,
            facts["bodies"], facts["name"], facts["group"],
        )

    def describe(self) -> list[str]:
        """What was left out when the store was made."""
        return self.notes

    def __getstate__(self) -> dict[str, Any]:
        """Without the arrays: a worker process maps them anew."""
        return {**self.__dict__, "frames": None, "sound": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def _open(self) -> None:
        self.frames: NDArray[np.uint8] = np.load(self.folder / "frames.npy", mmap_mode="r")
        sound = self.folder / "sound.npy"
        self.sound: NDArray[np.int16] | None = np.load(sound, mmap_mode="r") if sound.exists() else None
        if len(self.frames) != len(self.facts):
            raise ValueError(f"{len(self.facts)} clips are listed and {len(self.frames)} stored")


def write_store(
    folder: Path, clips: Iterable[Clip], count: int, wanted: ClipFormat, notes: list[str] | None = None
) -> ClipStore:
    """Write clips of one format as they come; the folder appears under its name when it is complete.

    Args:
        folder: of the store; its parents are made.
        clips: at most `count` of them; fewer if the rest is left out.
        count: most clips there can be.
        wanted: what they are alike in.
        notes: what was left out and why; read when the last clip has come.

    Raises:
        DataError: if no clip came.
    """
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        facts = _write_arrays(partial, clips, count, wanted)
        if not facts:
            raise DataError("no clip is left: " + ("; ".join(notes or []) or "the source has none"))
        (partial / FACTS).write_text(json.dumps({
            "frame_rate": wanted.frame_rate, "sample_rate": wanted.sample_rate, "notes": notes or [], "clips": facts,
        }), encoding="utf-8")
        if folder.exists():  # another process was faster
            shutil.rmtree(partial)
        else:
            partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return ClipStore(folder)


def name_store(kind: str, cache_dir: str, *settings: Any) -> Path:
    """Folder of a store, named by a digest of all that it is made from."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:12]
    return Path(cache_dir) / f"{kind}-{digest}"


def _write_arrays(folder: Path, clips: Iterable[Clip], count: int, wanted: ClipFormat) -> list[dict[str, Any]]:
    shape = (count, wanted.frames, wanted.size, wanted.size, 3)
    frames = np.lib.format.open_memmap(folder / "frames.npy", "w+", np.uint8, shape)
    sound = None
    if wanted.sample_rate:
        sound = np.lib.format.open_memmap(folder / "sound.npy", "w+", np.int16, (count, wanted.samples))
    facts: list[dict[str, Any]] = []
    for clip in clips:
        frames[len(facts)] = clip.frames
        if sound is not None:
            assert clip.sound is not None
            sound[len(facts)] = np.round(np.clip(clip.sound, -1, 1) * LARGEST)
        onsets = None if clip.onsets is None else [round(float(onset), 6) for onset in clip.onsets]
        facts.append({"name": clip.name, "group": clip.group, "onsets": onsets, "bodies": clip.bodies})
    for array, name in ((frames, "frames.npy"), (sound, "sound.npy")):
        if array is not None:
            array.flush()
            if len(facts) < count:
                _shorten(folder / name, array, len(facts))
    return facts


def _shorten(path: Path, array: NDArray[Any], count: int) -> None:
    shorter = path.with_name(f"short-{path.name}")
    target = np.lib.format.open_memmap(shorter, "w+", array.dtype, (count, *array.shape[1:]))
    for index in range(count):
        target[index] = array[index]
    target.flush()
    shorter.replace(path)
