"""How far apart in time is what is seen and what is heard: onsets of sound against impacts in the frames.

Shape legend: F frames, S samples of sound, v impacts seen, a onsets heard.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polydit.data.video.clips import Clip, Sound
from polydit.data.video.samples import ClipAnswer
from polydit.data.video.tracking import find_turns, track_bodies
from polydit.platform.errors import require
from polydit.platform.evaluation.evaluator import Evaluator, Histograms, Row
from polydit.platform.evaluation.statistics import Estimate, estimate_grouped_share, estimate_mean
from polydit.platform.requests import Sample

EXTRA = "audio"

HOP, WINDOW = 0.004, 0.032
"""Seconds from one look at the sound to the next, and that a look lasts."""

BANDS = 32

SMALLEST = 0.07
"""Height of a peak of the onset envelope, of its largest, from which on it is an onset; librosa's default."""

QUIETEST = 1e-3
"""Sounds that stay below have no onsets."""

MERGED = 0.02
"""Impacts nearer to each other than these seconds are one to the eye and the ear."""


class AlignmentEvaluator(Evaluator):
    """Milliseconds from each impact seen to the nearest onset heard and the other way round, by task.

    Impacts are known where the frames were given, and are found in made frames of the built-in set by tracking its
    bodies; onsets are found by librosa in made sound. An event without any partner counts as half the clip. The same
    with the sound of another clip of the task says what two towers reach that know nothing of each other, and that of
    true clips, measured alike, what the measurement itself loses.
    """

    def __init__(self) -> None:
        self.reset()

    def accepts(self, output: Any) -> bool:
        """Whether an output is a clip with sound whose impacts are known or can be tracked."""
        if not (isinstance(output, Sample) and isinstance(output.item, ClipAnswer)) or output.item.clip.sound is None:
            return False
        truth = output.item.truth
        return truth is not None and truth.onsets is not None

    def reset(self) -> None:
        """Forget all clips."""
        self._events: list[tuple[ClipAnswer, NDArray[np.float64], NDArray[np.float64]]] = []
        self._rows: list[Row] = []

    def update(self, outputs: Sequence[Any]) -> None:
        """Find impacts and onsets."""
        self._events += [(output.item, *find_events(output.item)) for output in outputs]

    def compute(self) -> dict[str, Estimate]:
        """``<task>/onset_error_ms`` and ``<task>/within_a_frame``, also ``_of_shuffled`` and ``_of_real``."""
        self._rows = self._measure()
        estimates = {}
        for task in sorted({str(row["task"]) for row in self._rows}):
            for suffix in ("", "_of_shuffled", "_of_real"):
                some = [row for row in self._rows if row["task"] == task and row[f"events{suffix}"]]
                if some:
                    errors, near, events = (
                        np.array([row[f"{name}{suffix}"] for row in some], float)
                        for name in ("onset_error_ms", "near", "events")
                    )
                    estimates[f"{task}/onset_error_ms{suffix}"] = estimate_mean(errors)
                    estimates[f"{task}/within_a_frame{suffix}"] = estimate_grouped_share(near, events)
        return estimates

    def rows(self) -> list[Row]:
        """One row per clip."""
        return self._rows

    def histograms(self) -> Histograms:
        """Errors of clips beside those with another clip's sound."""
        chosen = [row for row in self._rows if row["events"] and row["events_of_shuffled"]]
        made, other = (
            [float(row[f"onset_error_ms{suffix}"]) for row in chosen]  # type: ignore[arg-type]
            for suffix in ("", "_of_shuffled")
        )
        return {"onset error of a clip, ms (reference: sound of another clip)": (np.array(made), np.array(other))}

    def descriptions(self) -> dict[str, str]:
        """What the numbers mean."""
        meanings = {}
        for task in sorted({str(row["task"]) for row in self._rows}):
            meanings[f"{task}/onset_error_ms"] = "from an impact seen to the nearest onset heard and back, mean"
            meanings[f"{task}/within_a_frame"] = "share of impacts and onsets whose nearest partner is within one frame"
            for name in ("onset_error_ms", "within_a_frame"):
                meanings[f"{task}/{name}_of_shuffled"] = "control: the same with the sound of another clip"
                meanings[f"{task}/{name}_of_real"] = "floor: the same of true clips, tracked and heard alike"
        return meanings

    def _measure(self) -> list[Row]:
        rows: list[Row] = []
        for number, (item, seen, heard) in enumerate(self._events):
            row: Row = {"clip": item.name, "task": item.task, "seen": len(seen), "heard": len(heard)}
            tracked = item.task != "sound"
            row |= compare_events(seen, heard, item.clip, tracked)
            following = self._events[number + 1 :] + self._events[:number]
            other = next((events for events in following if events[0].task == item.task), None)
            alone = (np.empty(0), np.empty(0))
            shuffled = compare_events(*(alone if other is None else (seen, other[2])), item.clip, tracked)
            assert item.truth is not None
            true = find_events(ClipAnswer(item.truth, item.task, item.given, item.truth))
            real = compare_events(*true, item.clip, tracked)
            row |= {f"{name}_of_shuffled": value for name, value in shuffled.items()}
            row |= {f"{name}_of_real": value for name, value in real.items()}
            rows.append(row)
        return rows


def find_events(answer: ClipAnswer) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Seconds of impacts seen [v] and of onsets heard [a]; what was given of a known clip is not measured but known."""
    truth = answer.truth
    assert truth is not None and truth.onsets is not None
    seen = truth.onsets if answer.task == "sound" else see_impacts(answer.clip)
    heard = truth.onsets if answer.task == "frames" else hear_onsets(answer.clip)
    return merge(seen), merge(heard)


def see_impacts(clip: Clip) -> NDArray[np.float64]:
    """Seconds at which tracked bodies turn [v]."""
    return merge(np.array([turn.time for turn in find_turns(track_bodies(clip.frames, clip.frame_rate))], np.float64))


def hear_onsets(clip: Clip) -> NDArray[np.float64]:
    """Seconds at which sounds begin [a], by librosa's spectral flux."""
    assert clip.sound is not None
    return detect_onsets(clip.sound, clip.sample_rate)


def detect_onsets(sound: Sound, sample_rate: int) -> NDArray[np.float64]:
    """Seconds of the onsets in a sound [S]; none in one that is as good as silent."""
    if not len(sound) or float(np.abs(sound).max()) < QUIETEST:
        return np.empty(0)
    librosa: Any = require("librosa", EXTRA)
    hop, window = max(1, round(HOP * sample_rate)), round(WINDOW * sample_rate)
    envelope = librosa.onset.onset_strength(
        y=sound, sr=sample_rate, hop_length=hop, n_fft=window, n_mels=BANDS, fmin=50.0
    )
    times = librosa.onset.onset_detect(
        onset_envelope=envelope, sr=sample_rate, hop_length=hop, units="time", delta=SMALLEST
    )
    return np.asarray(times, np.float64)


def merge(times: NDArray[np.float64]) -> NDArray[np.float64]:
    """Times in order, of those within `MERGED` of their predecessor only the first."""
    kept: list[float] = []
    for time in np.sort(times).tolist():
        if not kept or time - kept[-1] > MERGED:
            kept.append(time)
    return np.array(kept, np.float64)


def compare_events(
    seen: NDArray[np.float64], heard: NDArray[np.float64], clip: Clip, tracked: bool = False
) -> dict[str, float | int | None]:
    """Mean error in milliseconds over both kinds of events, how many there are, and how many are within a frame.

    Args:
        seen, heard: seconds.
        clip: whose rate and duration hold.
        tracked: events in the first and in the last interval of frames, where no turn can be told, are partners of
            others, and are not asked for one of their own.
    """
    low, high = (1 / clip.frame_rate, (len(clip.frames) - 2) / clip.frame_rate) if tracked else (-np.inf, np.inf)
    errors = np.concatenate([
        _nearest(times[(times > low) & (times < high)], others, clip.seconds / 2)
        for times, others in ((seen, heard), (heard, seen))
    ])
    near = int((errors <= 1 / clip.frame_rate).sum())
    return {"onset_error_ms": 1000 * float(errors.mean()) if len(errors) else None, "near": near, "events": len(errors)}


def _nearest(times: NDArray[np.float64], others: NDArray[np.float64], alone: float) -> NDArray[np.float64]:
    if not len(others):
        return np.full(len(times), alone)
    return np.minimum(np.abs(times[:, None] - others[None]).min(axis=1), alone) if len(times) else np.empty(0)
