"""How near a virtual stain is to the true one: as an image, and in what it says is stained.

Shape legend: h, w height and width of an image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polydit.data.pathology.tiles import Picture
from polydit.platform.errors import require
from polydit.platform.evaluation.evaluator import Evaluator, Histograms, Row
from polydit.platform.evaluation.statistics import Estimate, estimate_by_bootstrap, estimate_mean
from polydit.platform.requests import Sample

from .item import VirtualStain

EXTRA = "pathology"

WINDOW = 11
"""Side of SSIM's Gaussian window in pixels, sigma 1.5 (Wang et al. 2004)."""

MOST_DECIBELS = 100.0
"""Stands for equality in PSNR."""

Distance = Callable[[Picture, Picture], float]


class StainEvaluator(Evaluator):
    """PSNR, SSIM, overlap of brown masks and correlation of stained areas, over tiles whose true stain is known.

    PSNR and SSIM reward a blur and hardly feel an absent cell; the masks do. Masks of both images are made by one rule
    and the threshold of the training split. Numbers of a tile are means over its answers, where there are several.

    Args:
        perceptual: perceptual distance of two images [h, w, 3] uint8, such as LPIPS with weights of yours, for none are
            brought along; None: it is left out.
    """

    def __init__(self, perceptual: Distance | None = None) -> None:
        self.perceptual = perceptual
        self.reset()

    def accepts(self, output: Any) -> bool:
        """Whether an output is a virtual stain beside the true one."""
        return isinstance(output, Sample) and isinstance(output.item, VirtualStain) and output.item.truth is not None

    def reset(self) -> None:
        """Forget all tiles."""
        self._rows: list[Row] = []
        self._masks: list[tuple[NDArray[np.bool_], NDArray[np.bool_]]] = []

    def update(self, outputs: Sequence[Any]) -> None:
        """Measure tiles; of their images only the masks are kept, packed."""
        for output in outputs:
            self._add(output.item)

    def compute(self) -> dict[str, Estimate]:
        """``stain/...`` of images, ``brown/...`` of masks and areas, and the control ``brown/dice_of_shuffled``."""
        estimates = {
            f"stain/{name}": estimate_mean(self._column(name))
            for name in ("psnr", "ssim", "perceptual_distance", "seed_difference") if self._column(name)
        }
        estimates["brown/dice"] = estimate_mean(self._column("dice"))
        estimates["brown/iou"] = estimate_mean(self._column("iou"))
        present = [float(row["dice"]) for row in self._rows if row["dice"] is not None and row["true_area"]]
        estimates["brown/dice_where_present"] = estimate_mean(present)
        estimates["brown/dice_of_shuffled"] = estimate_mean(self._measure_shuffled())
        areas = np.column_stack([self._column("area"), self._column("true_area")])
        estimates["brown/area_error"] = estimate_mean(np.abs(areas[:, 0] - areas[:, 1]))
        estimates["brown/area_correlation"] = estimate_by_bootstrap(areas, correlate)
        return estimates

    def rows(self) -> list[Row]:
        """One row per tile."""
        return self._rows

    def histograms(self) -> Histograms:
        """Stained areas, generated and true, and overlaps."""
        return {
            "stained share of a tile": (np.array(self._column("area")), np.array(self._column("true_area"))),
            "Dice of a tile": (np.array(self._column("dice")), np.empty(0)),
        }

    def descriptions(self) -> dict[str, str]:
        """What the numbers mean."""
        return {
            "stain/psnr": "peak signal-to-noise ratio against the true stain, dB",
            "stain/ssim": "structural similarity to the true stain, 1 for equality",
            "stain/perceptual_distance": "perceptual distance (LPIPS) to the true stain, 0 for equality",
            "stain/seed_difference": "mean absolute difference of two answers to one tile, in grey levels of 255",
            "brown/dice": "overlap of generated and true brown masks; 1 where neither has any",
            "brown/iou": "intersection over union of these masks; 1 where neither has any",
            "brown/dice_where_present": "overlap over tiles that truly have brown",
            "brown/dice_of_shuffled": "control: overlap with the next tile's true mask instead of the own",
            "brown/area_error": "mean absolute difference of the stained share of a tile",
            "brown/area_correlation": "correlation over tiles of the stained share, generated with true",
        }

    def _add(self, item: VirtualStain) -> None:
        truth, true_mask = item.truth, item.true_mask
        assert truth is not None and true_mask is not None
        masks = [item.mask_of(answer) for answer in item.answers]
        overlaps = np.mean([measure_overlap(mask, true_mask) for mask in masks], axis=0)
        row: Row = {
            "tile": item.name, "slide": item.slide,
            "psnr": _mean([measure_psnr(answer, truth) for answer in item.answers]),
            "ssim": _mean([measure_ssim(answer, truth) for answer in item.answers]),
            "dice": float(overlaps[0]), "iou": float(overlaps[1]),
            "area": _mean([float(mask.mean()) for mask in masks]), "true_area": float(true_mask.mean()),
        }
        if self.perceptual is not None:
            row["perceptual_distance"] = _mean([self.perceptual(answer, truth) for answer in item.answers])
        if item.others:
            row["seed_difference"] = float(np.abs(item.stain.astype(float) - item.others[0]).mean())
        self._rows.append(row)
        self._masks.append((masks[0], true_mask))

    def _column(self, name: str) -> list[float]:
        return [float(row[name]) for row in self._rows if row.get(name) is not None]  # type: ignore[arg-type]

    def _measure_shuffled(self) -> list[float]:
        following = [self._masks[(i + 1) % len(self._masks)][1] for i in range(len(self._masks))]
        return [
            measure_overlap(mask, other)[0]
            for (mask, _), other in zip(self._masks, following, strict=True) if mask.shape == other.shape
        ] if len(self._masks) > 1 else []


def measure_psnr(image: Picture, truth: Picture) -> float:
    """Peak signal-to-noise ratio in dB, at most 100, which stands for equality."""
    error = float(np.square(image.astype(np.float64) - truth).mean())
    return MOST_DECIBELS if error == 0 else min(MOST_DECIBELS, 10 * math.log10(255**2 / error))


def measure_ssim(image: Picture, truth: Picture) -> float | None:
    """Structural similarity (Wang et al. 2004) with its published window and constants; None if images are smaller."""
    if min(image.shape[:2]) < WINDOW:
        return None
    metrics = require("skimage.metrics", EXTRA)
    return float(metrics.structural_similarity(
        image, truth, data_range=255, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    ))


def measure_overlap(mask: NDArray[np.bool_], truth: NDArray[np.bool_]) -> tuple[float, float]:
    """Dice coefficient and intersection over union of two masks; 1 where both are empty, for they agree."""
    both, either = int((mask & truth).sum()), int((mask | truth).sum())
    if either == 0:
        return 1.0, 1.0
    return 2 * both / (both + either), both / either


def correlate(areas: NDArray[Any]) -> float:
    """Pearson's correlation of two columns [n, 2]; NaN where one does not vary."""
    if len(areas) < 2 or (np.ptp(areas, axis=0) == 0).any():
        return math.nan
    return float(np.corrcoef(areas.T)[0, 1])


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
