"""How near predicted, interpolated and completed clips are to the true ones, beside what copying and blending give.

Shape legend: F frames, h, w height and width in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polydit.data.video.clips import Frames
from polydit.data.video.samples import ClipAnswer
from polydit.platform.errors import require
from polydit.platform.evaluation.evaluator import Evaluator, Histograms, Row
from polydit.platform.evaluation.statistics import Estimate, estimate_mean
from polydit.platform.requests import Sample

EXTRA = "video"

WINDOW = 7
"""Side of SSIM's window in pixels, so that small frames have some (Wang et al. 2004 take 11 on large ones)."""

MOST_DECIBELS = 100.0
"""Stands for equality in PSNR."""

BASELINES = ("copy", "blend")


class ClipEvaluator(Evaluator):
    """PSNR and SSIM of what was not given, by task, for answers whose true clip is known; with two baselines.

    ``copy`` repeats the nearest given frame before, or after where there is none before; ``blend`` mixes the nearest
    given frames on both sides by their distance, and is ``copy`` where there is one side alone. Where a region is to be
    completed both fill it with the mean colour of what is given. A model that has understood the motion beats both.
    """

    def __init__(self) -> None:
        self.reset()

    def accepts(self, output: Any) -> bool:
        """Whether an output is a clip of which a part was given, beside the true one."""
        return (
            isinstance(output, Sample) and isinstance(output.item, ClipAnswer) and output.item.truth is not None
            and bool(output.item.given.any()) and not bool(output.item.given.all())
        )

    def reset(self) -> None:
        """Forget all clips."""
        self._rows: list[Row] = []

    def update(self, outputs: Sequence[Any]) -> None:
        """Measure clips."""
        self._rows += [measure(output.item) for output in outputs]

    def compute(self) -> dict[str, Estimate]:
        """``<task>/psnr``, ``<task>/ssim``, the same ``_of_copy`` and ``_of_blend``, by how much PSNR exceeds them."""
        estimates = {}
        for task in sorted({str(row["task"]) for row in self._rows}):
            chosen = [row for row in self._rows if row["task"] == task]
            for name in [key for key in chosen[0] if key not in ("clip", "task", "unknown")]:
                values = [float(row[name]) for row in chosen if row[name] is not None]  # type: ignore[arg-type]
                if values:
                    estimates[f"{task}/{name}"] = estimate_mean(values)
            for baseline in BASELINES:
                gains = [float(row["psnr"]) - float(row[f"psnr_of_{baseline}"]) for row in chosen]  # type: ignore[arg-type]
                estimates[f"{task}/psnr_over_{baseline}"] = estimate_mean(gains)
        return estimates

    def rows(self) -> list[Row]:
        """One row per clip."""
        return self._rows

    def histograms(self) -> Histograms:
        """PSNR of the model beside that of the blend."""
        made, blend = ([float(row[key]) for row in self._rows] for key in ("psnr", "psnr_of_blend"))  # type: ignore[arg-type]
        return {"PSNR of what was not given, dB (reference: blend)": (np.array(made), np.array(blend))}

    def descriptions(self) -> dict[str, str]:
        """What the numbers mean."""
        meanings = {}
        for task in sorted({str(row["task"]) for row in self._rows}):
            meanings[f"{task}/psnr"] = "peak signal-to-noise ratio of what was not given, dB"
            meanings[f"{task}/ssim"] = "structural similarity of frames that were not given whole, 1 for equality"
            for baseline, what in (("copy", "the nearest given frame"), ("blend", "a blend of given frames")):
                meanings[f"{task}/psnr_of_{baseline}"] = f"the same of {what}"
                meanings[f"{task}/ssim_of_{baseline}"] = f"the same of {what}"
                meanings[f"{task}/psnr_over_{baseline}"] = f"by how much the model exceeds {what}, paired, dB"
        return meanings


def measure(answer: ClipAnswer) -> Row:
    """Name, task and numbers of one clip; of several answers their mean."""
    assert answer.truth is not None
    truth, given = answer.truth.frames, answer.given
    made = [clip.frames for clip in (answer.clip, *answer.others)]
    row: Row = {"clip": answer.name, "task": answer.task, "unknown": round(1 - float(given.mean()), 4)}
    row["psnr"] = float(np.mean([measure_psnr(frames, truth, ~given) for frames in made]))
    row["ssim"] = _mean([measure_ssim(frames, truth, ~answer.given_frames) for frames in made])
    for name in BASELINES:
        frames = fill_in(truth, given, blend=name == "blend")
        row[f"psnr_of_{name}"] = measure_psnr(frames, truth, ~given)
        row[f"ssim_of_{name}"] = measure_ssim(frames, truth, ~answer.given_frames)
    return row


def fill_in(truth: Frames, given: NDArray[np.bool_], blend: bool) -> Frames:
    """The true frames [F, h, w, 3] with what is not given made up from what is.

    Args:
        truth: of which only what is given is looked at.
        given: [F, h, w].
        blend: mix the nearest whole frames on both sides; else repeat the one before.
    """
    whole = np.flatnonzero(given.all(axis=(1, 2)))
    if not len(whole):
        mean = truth[given].mean(axis=0).round().astype(np.uint8)
        return np.where(given[..., None], truth, mean)
    filled = truth.copy()
    for frame in np.flatnonzero(~given.all(axis=(1, 2))):
        before, after = whole[whole < frame], whole[whole > frame]
        if blend and len(before) and len(after):
            share = (frame - before[-1]) / (after[0] - before[-1])
            mixed = (1 - share) * truth[before[-1]] + share * truth[after[0]]
            filled[frame] = np.round(mixed).astype(np.uint8)
        else:
            filled[frame] = truth[before[-1] if len(before) else after[0]]
        filled[frame][given[frame]] = truth[frame][given[frame]]
    return filled


def measure_psnr(frames: Frames, truth: Frames, where: NDArray[np.bool_]) -> float:
    """Peak signal-to-noise ratio in dB over some pixels [F, h, w], at most 100, which stands for equality."""
    error = float(np.square(frames[where].astype(np.float64) - truth[where]).mean())
    return MOST_DECIBELS if error == 0 else min(MOST_DECIBELS, 10 * math.log10(255**2 / error))


def measure_ssim(frames: Frames, truth: Frames, where: NDArray[np.bool_]) -> float | None:
    """Mean structural similarity over some frames [F]; None if they are smaller than its window."""
    if min(frames.shape[1:3]) < WINDOW:
        return None
    metrics = require("skimage.metrics", EXTRA)
    return float(np.mean([
        metrics.structural_similarity(frames[f], truth[f], data_range=255, channel_axis=2, win_size=WINDOW)
        for f in np.flatnonzero(where)
    ]))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
