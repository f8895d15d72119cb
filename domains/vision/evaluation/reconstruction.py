"""How well an autoencoder gives images back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from polydit.data.vision.pictures import Picture, to_tensor
from polydit.platform.autoencoders import Reconstruction
from polydit.platform.evaluation.evaluator import Evaluator, Histograms, Row
from polydit.platform.evaluation.statistics import Estimate, estimate_mean

MOST_DECIBELS = 100.0
"""Stands for equality in PSNR."""

WINDOW = 11
"""Side of SSIM's window in pixels; smaller images have no SSIM."""


class ImageReconstructionEvaluator(Evaluator):
    """PSNR, SSIM and mean absolute error of reconstructed images."""

    def __init__(self) -> None:
        self.reset()

    def accepts(self, output: Any) -> bool:
        """Whether an output is a reconstructed image."""
        return isinstance(output, Reconstruction) and isinstance(output.original, Picture)

    def reset(self) -> None:
        """Forget all images."""
        self._rows: list[Row] = []

    def update(self, outputs: Sequence[Any]) -> None:
        """Measure each image."""
        for output in outputs:
            truth, made = (to_tensor(p.pixels).float()[None] for p in (output.original, output.decoded))
            row: Row = {"name": output.original.name, "error": float((truth - made).abs().mean())}
            same = bool(torch.equal(truth, made))
            row["psnr"] = MOST_DECIBELS if same else float(peak_signal_noise_ratio(made, truth, data_range=255.0))
            if min(truth.shape[2:]) >= WINDOW:
                row["ssim"] = float(torch.as_tensor(structural_similarity_index_measure(made, truth, data_range=255.0)))
            self._rows.append(row)

    def compute(self) -> dict[str, Estimate]:
        """Means over images."""
        found = {}
        for name in ("psnr", "ssim", "error"):
            values = [float(row[name]) for row in self._rows if row.get(name) is not None]  # type: ignore[arg-type]
            if values:
                found[f"reconstruction/{name}"] = estimate_mean(values)
        return found

    def rows(self) -> list[Row]:
        """One row per image."""
        return self._rows

    def histograms(self) -> Histograms:
        """Peak signal-to-noise ratios."""
        psnr = torch.tensor([float(row["psnr"]) for row in self._rows]).double().numpy()  # type: ignore[arg-type]
        return {"PSNR of a reconstruction, dB": (psnr, torch.empty(0).double().numpy())}

    def descriptions(self) -> dict[str, str]:
        """What the numbers mean."""
        return {
            "reconstruction/psnr": "peak signal-to-noise ratio of held-out images, dB",
            "reconstruction/ssim": "structural similarity of held-out images, 1 for equality",
            "reconstruction/error": "mean absolute error of a pixel, in grey levels of 255",
        }
