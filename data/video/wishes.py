"""What can be asked of a model of clips: a request's wishes, parsed and checked.

Shape legend: F frames, h, w height and width.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polydit.platform.errors import DataError, UserError

from .clips import Clip
from .media import VIDEO_SUFFIXES, fit_sound, read_video

TASKS = ("unconditional", "predict", "backward", "interpolate", "animate", "complete", "sound", "frames")
"""From noise; what follows the first half; what precedes the last half; what lies between every fourth frame; what
surrounds one frame; a region that a mask leaves out; the sound of given frames; the frames of given sound."""

KEYS = ("task", "clip", "start", "given", "region", "name")


@dataclass(frozen=True)
class ClipWish:
    """One clip to make.

    Args:
        task: one of `TASKS`.
        source: file of the given content, or a clip; None: nothing is given.
        start: second of the file at which the clip begins.
        given: numbers of the given frames, negative ones from the end; None: those of the task.
        region: (x, y, width, height) as shares of the frame that are to be completed in every frame that is not given;
            None: the middle half of each side.
        name: of what is written.
    """

    task: str = "unconditional"
    source: Path | Clip | None = None
    start: float = 0.0
    given: tuple[int, ...] | None = None
    region: tuple[float, float, float, float] | None = None
    name: str = ""

    @staticmethod
    def parse(raw: Mapping[str, Any], tasks: Sequence[str] = TASKS) -> ClipWish:
        """A wish from a request's plain values.

        Args:
            raw: the values.
            tasks: what the model can be asked.

        Raises:
            UserError: naming the wish, its limit and the fix.
        """
        for key in raw:
            if key not in KEYS:
                near = difflib.get_close_matches(key, KEYS, 1)
                raise UserError(
                    f"unknown wish {key!r} in a request: "
                    + (f"did you mean {near[0]!r}?" if near else f"known are {', '.join(KEYS)}")
                )
        task = raw.get("task", "unconditional")
        if task not in tasks:
            raise UserError(f"this model has no task {task!r}: choose one of {', '.join(tasks)}")
        source = _find_source(raw.get("clip"))
        if (source is None) != (task == "unconditional"):
            raise UserError(
                f"task {task} needs a clip to start from: clip: some.mp4" if source is None
                else "a clip is given and task unconditional looks at none: name another task, or leave the clip out"
            )
        start = raw.get("start", 0.0)
        if isinstance(start, bool) or not isinstance(start, int | float) or start < 0:
            raise UserError(f"start is a second of the file, such as 1.5, not {start!r}")
        default = source.name if isinstance(source, Clip) else "clip" if source is None else source.stem
        return ClipWish(
            task, source, float(start), _parse_given(raw.get("given"), task), _parse_region(raw.get("region"), task),
            str(raw.get("name") or default or "clip"),
        )

    def read(self, frames: int, size: int, frame_rate: float, sample_rate: int = 0) -> Clip | None:
        """The given content in the model's format; None if nothing is given.

        Raises:
            DataError: if a file cannot be read or is too short.
        """
        if self.source is None:
            return None
        if isinstance(self.source, Clip):
            return _check_format(self.source, frames, size)
        recording = read_video(self.source, size, frame_rate, sample_rate)
        first = round(self.start * frame_rate)
        if len(recording.frames) < first + frames:
            raise DataError(
                f"{self.source} has {len(recording.frames)} frames at {frame_rate:g} per second, {frames} from second "
                f"{self.start:g} on are needed: give a longer one, or start earlier"
            )
        sound = recording.sound
        if sample_rate and sound is not None:
            sound = fit_sound(sound, round(self.start * sample_rate), round(frames / frame_rate * sample_rate))
        shown = recording.frames[first : first + frames]
        return Clip(shown, frame_rate, sound, sample_rate if sound is not None else 0, name=self.name)


def expand_folders(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Request entries with every ``folder`` replaced by one entry with ``clip`` for each video in it.

    Raises:
        DataError: if a folder is missing or holds no videos.
    """
    expanded = []
    for entry in entries:
        if "folder" not in entry:
            expanded.append(entry)
            continue
        folder = Path(entry["folder"])
        found = sorted(path for path in folder.glob("*") if path.suffix.lower() in VIDEO_SUFFIXES)
        if not found:
            raise DataError(f"folder {folder} is missing or holds no videos ({', '.join(VIDEO_SUFFIXES)})")
        rest = {key: value for key, value in entry.items() if key != "folder"}
        expanded += [{**rest, "clip": str(path)} for path in found]
    return expanded


def _find_source(value: Any) -> Path | Clip | None:
    if value is None or isinstance(value, Clip):
        return value
    path = Path(str(value))
    if not path.is_file():
        raise UserError(f"clip: there is no file {path}: give a video, such as an MP4")
    return path


def _parse_given(value: Any, task: str) -> tuple[int, ...] | None:
    if value is None:
        return None
    if task in ("unconditional", "sound", "frames"):
        raise UserError(f"given names frames that a task {task} does not look at: leave it out")
    if not isinstance(value, Sequence) or not value or not all(type(number) is int for number in value):
        raise UserError(f"given is a list of numbers of frames, such as [0, 1, -1], not {value!r}")
    return tuple(value)


def _parse_region(value: Any, task: str) -> tuple[float, float, float, float] | None:
    if value is None:
        return None
    if task != "complete":
        raise UserError(f"region is what task complete fills in, not task {task}: leave it out")
    numbers = isinstance(value, Sequence) and len(value) == 4 and all(isinstance(part, int | float) for part in value)
    if not numbers or min(value) < 0 or value[0] + value[2] > 1 or value[1] + value[3] > 1 or min(value[2:]) <= 0:
        raise UserError(f"region is [x, y, width, height] as shares, such as [0.5, 0, 0.5, 1], not {value!r}")
    return (float(value[0]), float(value[1]), float(value[2]), float(value[3]))


def _check_format(clip: Clip, frames: int, size: int) -> Clip:
    if clip.frames.shape != (frames, size, size, 3):
        raise DataError(f"clip {clip.name!r} has frames {clip.frames.shape}, the model ({frames}, {size}, {size}, 3)")
    return clip
