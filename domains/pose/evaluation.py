"""Scores of pose hypotheses: best, mean, median and worst, calibration, symmetry, and whether doubts are kept.

Shape legend: H hypotheses, N frames, K clips.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polydit.platform.evaluation.evaluator import Evaluator, Histograms, Row
from polydit.platform.evaluation.statistics import Estimate, estimate_by_bootstrap

from .hypotheses import PoseComparison
from .metrics import (
    align,
    calibration_error,
    calibration_quantiles,
    cps,
    joint_errors,
    mode_shares,
    mpjpe,
    pck,
    symmetry_error,
)

BEST_OF = (1, 5, 20, 200)
"""Of how many hypotheses the best is taken, in the order in which they were sampled."""

LOST = np.array([0.0, 0.0, 10_000.0])
"""Millimetres that a joint counts as being off whose place is no finite number."""

FOUND = 0.05
"""Share of hypotheses near a mode above which it counts as found."""


class PoseEvaluator(Evaluator):
    """Errors in millimetres of the hypotheses of held-out views.

    Frames of a clip resemble each other, so intervals are bootstrapped over whole clips; of a single clip there is
    none. Best-of-n rewards spread: read it beside the mean error and the calibration.

    Args:
        resamples: of the bootstrap.
    """

    def __init__(self, resamples: int = 200) -> None:
        self.resamples = resamples
        self.reset()

    def accepts(self, output: Any) -> bool:
        """Whether an output is a comparison of poses."""
        return isinstance(output, PoseComparison)

    def reset(self) -> None:
        """Forget all comparisons."""
        self._rows: list[Row] = []
        self._clips: list[str] = []
        self._quantiles: list[NDArray[np.float64]] = []
        self._joints: list[NDArray[np.float64]] = []

    def update(self, outputs: Sequence[Any]) -> None:
        """Measure comparisons; the poses themselves are not kept."""
        for each in outputs:
            found, truth = each.poses.astype(np.float64) * 1000, each.truth.astype(np.float64) * 1000
            lost = ~np.isfinite(found).all(axis=-1, keepdims=True)
            poses = np.where(lost, truth + LOST, found)
            self._rows.append({
                "clip": each.clip, "frame": each.frame, "lost_joints": int(lost.sum()), **measure(poses, truth, each)
            })
            self._clips.append(each.clip)
            self._quantiles.append(calibration_quantiles(poses, truth))
            errors = joint_errors(poses, truth)
            self._joints.append(errors[errors.mean(axis=1).argmin()])

    def compute(self) -> dict[str, Estimate]:
        """``mpjpe/...``, ``pa_mpjpe/...``, ``pck``, ``cps``, ``symmetry``, ``ece`` and ``modes/...``."""
        names = [name for name in self._rows[0] if name in DESCRIPTIONS] if self._rows else []
        estimates = {name: self._estimate_mean(name) for name in names}
        if self._quantiles:
            estimates["ece"] = self._over_clips(
                lambda frames: calibration_error(np.stack([self._quantiles[frame] for frame in frames])),
                range(len(self._clips)),
            )
        truth, other = self._column("modes/near_truth"), self._column("modes/near_exchanged")
        found = np.flatnonzero(~np.isnan(truth)).tolist()
        estimates["modes/both_found"] = self._mean_over(np.minimum(truth, other) >= FOUND, found)
        estimates["modes/either"] = self._mean_over(truth + other, found)
        return estimates

    def rows(self) -> list[Row]:
        """One row per view."""
        return [
            {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in row.items()}
            for row in self._rows
        ]

    def histograms(self) -> Histograms:
        """Errors of the best and of all hypotheses."""
        best, mean = self._column("mpjpe/best"), self._column("mpjpe/mean")
        return {"error of the best hypothesis (mm); line: mean of all": (best, mean)} if self._rows else {}

    def descriptions(self) -> dict[str, str]:
        """What the numbers mean."""
        return DESCRIPTIONS

    def _estimate_mean(self, name: str) -> Estimate:
        values = self._column(name)
        return self._mean_over(values, np.flatnonzero(~np.isnan(values)).tolist())

    def _column(self, name: str) -> NDArray[np.float64]:
        return np.array([float(row[name]) for row in self._rows])  # type: ignore[arg-type]

    def _mean_over(self, values: NDArray[Any], frames: Sequence[int]) -> Estimate:
        return self._over_clips(lambda chosen: float(values[chosen].mean()), frames)

    def _over_clips(self, statistic: Callable[[list[int]], float], frames: Sequence[int]) -> Estimate:
        """A statistic of frames with its bootstrap interval over clips, and how many frames there are."""
        clips: dict[str, list[int]] = {}
        for frame in frames:
            clips.setdefault(self._clips[frame], []).append(frame)
        groups = list(clips.values())

        def of(chosen: NDArray[Any]) -> float:
            return statistic([frame for place in chosen for frame in groups[place]])

        estimate = estimate_by_bootstrap(np.arange(len(groups)), of, self.resamples)
        if len(groups) < 2:
            estimate = replace(estimate, low=math.nan, high=math.nan)
        return replace(estimate, count=len(frames))


def measure(poses: NDArray[np.float64], truth: NDArray[np.float64], each: PoseComparison) -> Row:
    """Every number of one view, poses [H, 17, 3] and truth [17, 3] in millimetres."""
    error, aligned = mpjpe(poses, truth), align(poses, truth)
    aligned_error = mpjpe(aligned, truth)
    true_share, other_share = mode_shares(poses, truth, each.exchanged)
    row: Row = {"hypotheses": len(poses), "exchanged": bool(each.exchanged.any()), "occluded": int(each.occluded.sum())}
    for name, values in (("mpjpe", error), ("pa_mpjpe", aligned_error)):
        summary = {"best": values.min(), "mean": values.mean(), "median": np.median(values), "worst": values.max()}
        row |= {f"{name}/{key}": float(value) for key, value in summary.items()}
        row |= {f"{name}/best_of_{n}": float(values[:n].min()) for n in BEST_OF if n <= len(values)}
    row |= {
        "mpjpe/of_mean": float(mpjpe(poses.mean(axis=0, keepdims=True), truth)[0]),
        "pck": float(pck(poses, truth).max()), "cps": cps(aligned, truth),
        "symmetry": float(symmetry_error(poses).mean()),
        "spread": float(np.linalg.norm(poses - poses.mean(axis=0), axis=-1).mean()),
        "modes/near_truth": true_share, "modes/near_exchanged": other_share,
    }
    return row


DESCRIPTIONS = {
    **{
        f"{name}/{key}": f"{text}, {of}"
        for name, text in (
            ("mpjpe", "mean joint error in mm"),
            ("pa_mpjpe", "the same after the best motion and scale of each hypothesis"),
        )
        for key, of in {
            "best": "of the best hypothesis", "mean": "mean of all hypotheses", "median": "median hypothesis",
            "worst": "of the worst hypothesis", **{f"best_of_{n}": f"best of the first {n}" for n in BEST_OF},
        }.items()
    },
    "mpjpe/of_mean": "mean joint error in mm of the mean of all hypotheses",
    "pck": "share of 14 joints within 150 mm, best hypothesis",
    "cps": "mm out of 300 at which some aligned hypothesis has all joints right",
    "symmetry": "difference of left and right bones in mm, mean of all hypotheses",
    "spread": "distance of joints from their mean over the hypotheses in mm",
    "ece": "how far the hypotheses' spread is from that of the truth; 0 is calibrated, 0.5 no spread at all",
    "modes/near_truth": "share of hypotheses near the true limbs, where limbs are in doubt",
    "modes/near_exchanged": "share of hypotheses near the exchanged limbs, where limbs are in doubt",
    "modes/both_found": f"share of views in doubt with {FOUND:.0%} of hypotheses or more near each of both",
    "modes/either": "share of hypotheses near either, where limbs are in doubt",
}
"""Metric -> what it means."""
