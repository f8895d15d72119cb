"""What a policy would do in held-out windows beside what was done: errors of actions and of predicted frames."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from polydit.platform.evaluation.evaluator import Evaluator, Row
from polydit.platform.evaluation.statistics import Estimate, estimate_mean


@dataclass(frozen=True)
class ChunkComparison:
    """A held-out window beside the policy's own sample for it.

    Args:
        task: environment spec; "" if unknown.
        error: mean absolute difference of the actions, in the unit that the policy learns in (of normalisation by
            range: half of what occurs in training); NaN if the window has no actions.
        steps: how many actions were compared.
        psnr: peak signal-to-noise ratio of the predicted frames, dB; None if the policy predicts none.
        copied_psnr: the same of the present frame in place of each, which is what predicting nothing gives.
    """

    task: str
    error: float
    steps: int
    psnr: float | None = None
    copied_psnr: float | None = None


class ComparisonEvaluator(Evaluator):
    """Errors on held-out windows; a proxy that needs no simulator, and says little of success by itself."""

    def __init__(self) -> None:
        self.comparisons: list[ChunkComparison] = []

    def accepts(self, output: Any) -> bool:
        """Whether an output is a comparison."""
        return isinstance(output, ChunkComparison)

    def reset(self) -> None:
        """Forget all comparisons."""
        self.comparisons = []

    def update(self, outputs: Sequence[Any]) -> None:
        """Add comparisons."""
        self.comparisons += list(outputs)

    def compute(self) -> dict[str, Estimate]:
        """``held_out/action_error`` and, where frames were predicted, ``held_out/psnr`` and how it beats a copy."""
        errors = [each.error for each in self.comparisons if not math.isnan(each.error)]
        estimates = {"held_out/action_error": estimate_mean(errors)}
        pairs = [
            (each.psnr, each.copied_psnr) for each in self.comparisons
            if each.psnr is not None and each.copied_psnr is not None
        ]
        if pairs:
            predicted, copied = np.array(pairs).T
            estimates["held_out/psnr"] = estimate_mean(predicted)
            estimates["held_out/psnr_of_copy"] = estimate_mean(copied)
            estimates["held_out/psnr_gain"] = estimate_mean(predicted - copied)
        return estimates

    def rows(self) -> list[Row]:
        """One row per window."""
        return [
            {"task": each.task.rpartition("/")[2], "action_error": each.error, "steps": each.steps, "psnr": each.psnr,
             "psnr_of_copy": each.copied_psnr}
            for each in self.comparisons
        ]

    def descriptions(self) -> dict[str, str]:
        """What the numbers mean."""
        return {
            "held_out/action_error": "mean absolute error of sampled actions on held-out demonstrations, normalised",
            "held_out/psnr": "peak signal-to-noise ratio of predicted frames against the true future, dB",
            "held_out/psnr_of_copy": "the same of the present frame, dB",
            "held_out/psnr_gain": "what prediction gains over copying the present frame, dB",
        }


def measure_psnr(images: NDArray[np.uint8], truth: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio in dB of 8-bit `images` against `truth`, at most 100, which stands for equality."""
    from torchmetrics.functional.image import peak_signal_noise_ratio  # slow to import, and seldom needed

    predicted, true = (torch.from_numpy(np.ascontiguousarray(each)).double() for each in (images, truth))
    return min(100.0, float(peak_signal_noise_ratio(predicted, true, data_range=255.0)))
