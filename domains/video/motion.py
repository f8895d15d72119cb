"""Whether clips move as true ones do: a distance of statistics for any clips, laws of motion for the built-in set.

Shape legend: F frames, h, w height and width in pixels, n clips, k statistics.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polydit.data.video.clips import Frames
from polydit.data.video.samples import ClipAnswer
from polydit.data.video.tracking import find_turns, track_bodies
from polydit.platform.errors import DataError
from polydit.platform.evaluation.evaluator import Evaluator, Histograms, Row
from polydit.platform.evaluation.statistics import (
    Estimate,
    estimate_distance,
    estimate_grouped_share,
    estimate_mean,
)
from polydit.platform.requests import Sample

LEAST_CLIPS = 16
"""Fewest clips of which a Fréchet distance says anything."""

TOUCH = 0.04
"""Boxes from its rim to what it hits within which a body's turn counts as explained: a good pixel of 32."""


class MotionEvaluator(Evaluator):
    """The Fréchet distance of statistics of colour and motion between clips made from nothing and training clips.

    It needs no network and so no weights, and knows neither texture nor objects: good for small sets and for controls.
    Real clips are at the distance that two halves of the training set have, noise far away, and it grows with blur.

    Args:
        reference: most training clips that statistics are taken of.
    """

    def __init__(self, reference: int = 1000) -> None:
        self.reference = reference
        self._true: NDArray[np.float64] | None = None
        self.reset()

    def accepts(self, output: Any) -> bool:
        """Whether an output is a clip that nothing was given of."""
        return isinstance(output, Sample) and isinstance(output.item, ClipAnswer) and not output.item.given.any()

    def prepare(self, datamodule: Any) -> None:
        """Take statistics of training clips; of fewer than 32 none, and the distance is left out.

        Raises:
            DataError: if the data module has none.
        """
        try:
            dataset = datamodule.clips("train")
        except AttributeError as error:
            raise DataError("the data module has no clips to compare with: use VideoDataModule") from error
        count = min(self.reference, len(dataset))
        enough = count >= 2 * LEAST_CLIPS
        read = (describe_motion(dataset.read(place).frames) for place in range(count))
        self._true = np.stack(list(read)) if enough else None

    def reset(self) -> None:
        """Forget all clips; those of training stay."""
        self._rows: list[Row] = []
        self._made: list[NDArray[np.float64]] = []

    def update(self, outputs: Sequence[Any]) -> None:
        """Take statistics of clips."""
        for output in outputs:
            features = describe_motion(output.item.clip.frames)
            self._made.append(features)
            self._rows.append({"clip": output.item.name, **{n: float(v) for n, v in zip(NAMES, features, strict=True)}})

    def compute(self) -> dict[str, Estimate]:
        """``motion/frechet`` and ``motion/frechet_of_real``, its floor: one half of training from the other."""
        if self._true is None or len(self._made) < LEAST_CLIPS:
            return {}
        true, made = self._true, np.stack(self._made)
        half = len(true) // 2
        real = true[half : half + len(made)]
        return {
            "motion/frechet": estimate_distance(made, lambda some: measure_frechet(some, true)),
            "motion/frechet_of_real": estimate_distance(real, lambda some: measure_frechet(some, true[:half])),
        }

    def rows(self) -> list[Row]:
        """One row per clip."""
        return self._rows

    def histograms(self) -> Histograms:
        """Motion from frame to frame, made and true."""
        if self._true is None or not self._made:
            return {}
        column = NAMES.index("change_1")
        return {"log of the mean change from frame to frame": (np.stack(self._made)[:, column], self._true[:, column])}

    def descriptions(self) -> dict[str, str]:
        """What the numbers mean."""
        return {
            "motion/frechet": f"Fréchet distance to training clips in {len(NAMES)} statistics of colour and motion",
            "motion/frechet_of_real": "the same of as many training clips from the other half of them: its floor",
        }


class BodiesEvaluator(Evaluator):
    """Laws that clips of bouncing bodies keep: number, kinetic energy, straight runs, turns at walls and bodies alone.

    For the built-in set, whose bodies are told by colour. The same numbers of the true clips stand beside, where there
    are any, and say what the measurement itself loses.
    """

    def __init__(self) -> None:
        self.reset()

    def accepts(self, output: Any) -> bool:
        """Whether an output is a clip of bodies: one that was made from nothing, or whose truth is of known bodies."""
        if not (isinstance(output, Sample) and isinstance(output.item, ClipAnswer)):
            return False
        truth = output.item.truth
        return truth is not None and truth.bodies is not None

    def reset(self) -> None:
        """Forget all clips."""
        self._rows: list[Row] = []

    def update(self, outputs: Sequence[Any]) -> None:
        """Track the bodies of clips, made and true."""
        for output in outputs:
            item = output.item
            row: Row = {"clip": item.name, "task": item.task, **examine(item.clip.frames, item.clip.frame_rate)}
            true = examine(item.truth.frames, item.truth.frame_rate)
            row |= {f"{name}_of_real": value for name, value in true.items()}
            self._rows.append(row)

    def compute(self) -> dict[str, Estimate]:
        """``bodies/...`` over all clips, and the same ``_of_real``."""
        estimates = {}
        for suffix in ("", "_of_real"):
            kept, frames = self._columns(f"frames_kept{suffix}", f"frames{suffix}")
            lawful, turns = self._columns(f"turns_explained{suffix}", f"turns{suffix}")
            estimates[f"bodies/number_kept{suffix}"] = estimate_grouped_share(kept, frames)
            some = turns > 0
            estimates[f"bodies/turns_explained{suffix}"] = estimate_grouped_share(lawful[some], turns[some])
            for name in ("energy_change", "jitter_px"):
                values = [row[f"{name}{suffix}"] for row in self._rows if row[f"{name}{suffix}"] is not None]
                estimates[f"bodies/{name}{suffix}"] = estimate_mean(np.array(values, float))
        return estimates

    def rows(self) -> list[Row]:
        """One row per clip."""
        return self._rows

    def descriptions(self) -> dict[str, str]:
        """What the numbers mean."""
        meanings = {
            "bodies/number_kept": "share of frames that show the bodies which most frames of their clip show",
            "bodies/turns_explained": "share of turns, of bodies that are tracked, where a wall or a body was hit",
            "bodies/energy_change": "|log2| of the kinetic energy in the last third over that in the first; 0: kept",
            "bodies/jitter_px": "standard deviation of bodies' places about straight runs, in pixels",
        }
        return meanings | {f"{name}_of_real": f"the same of true clips: {text}" for name, text in meanings.items()}

    def _columns(self, *names: str) -> list[NDArray[np.float64]]:
        return [np.array([row[name] for row in self._rows], float) for name in names]


NAMES = (
    "red", "green", "blue", "contrast", "change_1", "change_2", "change_4", "bend", "edges", "moving_x", "moving_y",
    "spread",
)
"""Statistics of `describe_motion`."""


def describe_motion(frames: Frames) -> NDArray[np.float64]:
    """Twelve statistics [k] of a clip [F, h, w, 3], without a network.

    Mean colours and contrast; logarithms of the mean change over one, two and four frames, of the change of that change
    and of the step from pixel to pixel; where in the frame things change, and how widely.
    """
    light = frames.astype(np.float64) / 255
    steps = [np.abs(light[lag:] - light[:-lag]).mean() if len(light) > lag else 0.0 for lag in (1, 2, 4)]
    first = np.abs(np.diff(light, axis=0)) if len(light) > 1 else np.zeros_like(light)
    bend = np.abs(np.diff(light, n=2, axis=0)).mean() if len(light) > 2 else 0.0
    edges = (np.abs(np.diff(light, axis=1)).mean() + np.abs(np.diff(light, axis=2)).mean()) / 2
    map_ = first.mean(axis=(0, 3)) + 1e-9
    y, x = np.mgrid[: map_.shape[0], : map_.shape[1]] + 0.5
    centre_x, centre_y = ((map_ * axis).sum() / map_.sum() / size for axis, size in ((x, x.shape[1]), (y, y.shape[0])))
    away = (x / x.shape[1] - centre_x) ** 2 + (y / y.shape[0] - centre_y) ** 2
    logs = [np.log(value + 1e-4) for value in (*steps, bend, edges)]
    spread = np.sqrt((map_ * away).sum() / map_.sum())
    return np.array([*light.mean(axis=(0, 1, 2)), light.std(), *logs, centre_x, centre_y, spread])


def measure_frechet(made: NDArray[np.float64], true: NDArray[np.float64]) -> float:
    """Fréchet distance of Gaussians of two sets [n, k], in units of the true set's standard deviations."""
    scale = true.std(axis=0) + 1e-9
    mean, spread = (made.mean(axis=0) - true.mean(axis=0)) / scale, np.atleast_2d(np.cov(made / scale, rowvar=False))
    wanted = np.atleast_2d(np.cov(true / scale, rowvar=False))
    values, vectors = np.linalg.eigh(wanted)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ spread @ root).clip(0)).sum()
    return float(mean @ mean + np.trace(spread) + np.trace(wanted) - 2 * cross)


def examine(frames: Frames, frame_rate: float) -> Row:
    """Frames that show the clip's bodies, turns and explained ones, counted; change of kinetic energy, and jitter."""
    tracks = track_bodies(frames, frame_rate)
    shown = [tuple(row) for row in tracks.present.tolist()]
    usual = max(set(shown), key=shown.count)
    turns = find_turns(tracks)
    row: Row = {
        "bodies": sum(usual), "frames": len(frames), "frames_kept": shown.count(usual), "turns": len(turns),
        "turns_explained": sum(turn.gap <= TOUCH for turn in turns), "energy_change": None, "jitter_px": None,
    }
    jitter = tracks.jitter[np.isfinite(tracks.jitter)]
    if len(jitter):
        row["jitter_px"] = float(jitter.mean()) * len(frames[0])
    speed = np.square(np.diff(tracks.places, axis=0) * frame_rate).sum(axis=-1)
    energy = np.nansum(speed * np.nan_to_num(tracks.radii) ** 3, axis=1)
    third = len(energy) // 3
    if third:
        first, last = float(np.median(energy[:third])), float(np.median(energy[-third:]))
        if min(first, last) > 0:
            row["energy_change"] = abs(math.log2(last / first))
    return row
