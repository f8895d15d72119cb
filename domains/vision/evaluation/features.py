"""FID, KID, precision and recall in the features of a network whose weights the user brings.

Shape legend: B images, C channels, h, w height and width, n images of a set, D features.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from polydit.platform.errors import ConfigurationError, DataError
from polydit.platform.evaluation.statistics import Estimate, estimate_distance, estimate_mean, estimate_share

from .distances import (
    Features,
    FrechetReference,
    find_within_manifold,
    measure_kernel_distance,
    spread_evenly,
)
from .measure import Measure, References

WIDE = 512
"""From this many features on, a Fréchet distance takes seconds, and its bootstrap few resamples."""


class TorchScriptFeatures(nn.Module):
    """Features of a TorchScript file, such as Inception's in the export that FID is computed with.

    Args:
        path: the file. It runs as it is: take it only from where you trust it.
        size: side that images are resized to before; None: as they are.
        scale: of the values that it expects: "byte" 0 to 255, "unit" 0 to 1, "symmetric" -1 to 1.
        arguments: further named arguments of its call, such as ``return_features: true``.

    Raises:
        DataError: if there is no such file, or it is none.
    """

    def __init__(
        self, path: str, size: int | None = None, scale: str = "byte", arguments: dict[str, bool] | None = None
    ) -> None:
        super().__init__()
        if scale not in ("byte", "unit", "symmetric"):
            raise ConfigurationError(f"scale {scale!r} is none of byte, unit and symmetric")
        if not Path(path).is_file():
            raise DataError(f"there is no file {path}: give the TorchScript file of a feature network")
        try:
            self.network = torch.jit.load(path, map_location="cpu").eval()
        except RuntimeError as error:
            raise DataError(f"{path} is no TorchScript file, or a damaged one: export the network again") from error
        self.size, self.scale, self.arguments = size, scale, dict(arguments or {})

    def forward(self, images: Tensor) -> Tensor:
        """Features [B, D] of images [B, C, h, w] uint8."""
        images = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
        values = images.float()
        if self.size is not None and tuple(values.shape[2:]) != (self.size, self.size):
            values = functional.interpolate(values, (self.size, self.size), mode="bilinear", antialias=True)
        if self.scale == "byte":
            values = values.round().clamp(0, 255).to(torch.uint8)
        else:
            values = values / 255 if self.scale == "unit" else values / 127.5 - 1
        return self.network(values, **self.arguments)


class FeatureDistance(Measure):
    """Fréchet and kernel distance, improved precision and recall, in the features of a given network.

    With Inception's weights of the public export these are FID and KID; ``image/fid`` of few samples is too large, so
    read it beside that of as many training images.

    Args:
        extractor: features [B, D] of images [B, C, h, w] uint8.
        neighbours: k of precision and recall.
        block: samples in a block of the kernel distance; it is estimated on each block, and the interval from all.
        resamples: of the bootstrap, fewer where there are many features.
    """

    def __init__(self, extractor: nn.Module, neighbours: int = 3, block: int = 500, resamples: int = 200) -> None:
        if min(neighbours, resamples) < 1 or block < 2:
            raise ConfigurationError(
                f"neighbours {neighbours} and resamples {resamples} must be at least 1, block {block} at least 2"
            )
        self.extractor = extractor.eval().requires_grad_(False)
        self.neighbours, self.block, self.resamples = neighbours, block, resamples
        self.reset()

    def prepare(self, references: References) -> None:
        """Features of the held-out images, and of as many of training."""
        self._reference = self._extract(batch.images for batch in references.held_out())
        self._real = self._extract(batch.images for batch in references.train())
        if len(self._reference) < 2:
            raise DataError(f"{len(self._reference)} held-out image is too few to compare with: hold more out")

    def reset(self) -> None:
        """Forget all samples."""
        self._samples: list[Features] = []

    def update(self, images: Tensor, labels: Tensor) -> None:
        """Features of samples."""
        self._samples.append(self._extract([images]))

    def compute(self) -> dict[str, Estimate]:
        """The distances, and those of training images."""
        features = np.concatenate(self._samples)
        real = self._real[spread_evenly(len(features), len(self._real))]
        precision, recall = (
            find_within_manifold(a, b, self.neighbours)
            for a, b in ((features, self._reference), (self._reference, features))
        )
        return {
            "image/fid": self._frechet(features), "image/fid_of_real": self._frechet(real),
            "image/kid": self._kernel(features), "image/kid_of_real": self._kernel(real),
            "image/precision": estimate_share(int(precision.sum()), len(precision)),
            "image/recall": estimate_share(int(recall.sum()), len(recall)),
        }

    def descriptions(self) -> dict[str, str]:
        """What the numbers mean."""
        return {
            "image/fid": "Fréchet distance to held-out images in the given features (FID with Inception's)",
            "image/fid_of_real": "the same of training images, as many as samples: the floor",
            "image/kid": "kernel distance, unbiased, 0 for one distribution (KID with Inception's features)",
            "image/kid_of_real": "the same of training images",
            "image/precision": "share of samples within the held-out images' neighbourhoods",
            "image/recall": "share of held-out images within the samples' neighbourhoods",
        }

    @torch.no_grad()
    def _extract(self, batches: Iterable[Tensor]) -> Features:
        found = [self.extractor(images) for images in batches]
        features = torch.cat([values.flatten(1) for values in found]) if found else torch.empty(0, 1)
        if not bool(features.isfinite().all()):
            raise DataError(f"{type(self.extractor).__name__} gives features that are not finite: check scale and size")
        return features.double().cpu().numpy()

    def _frechet(self, features: Features) -> Estimate:
        resamples = self.resamples if features.shape[1] < WIDE else max(1, self.resamples // 10)
        return estimate_distance(features, FrechetReference(self._reference).measure, resamples)

    def _kernel(self, features: Features) -> Estimate:
        count = max(1, len(features) // self.block)
        parts = zip(np.array_split(features, count), np.array_split(self._reference, count), strict=True)
        usable = [(a, b) for a, b in parts if min(len(a), len(b)) > 1]
        found = estimate_mean([measure_kernel_distance(a, b) for a, b in usable])
        return Estimate(found.value, len(features), found.low, found.high)
