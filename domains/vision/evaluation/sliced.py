"""A distance that needs no weights: sliced Wasserstein between patches of a Laplacian pyramid.

Shape legend: B images, C channels, h, w height and width of a level, n images of a set, P patches of an image,
K directions, L levels.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from polydit.platform.errors import ConfigurationError, DataError
from polydit.platform.evaluation.statistics import Estimate, estimate_distance

from .distances import measure_sliced_distance, spread_evenly
from .measure import Measure, References

SIDE = 7
"""Of a patch in pixels, as published."""

SMALLEST = 8
"""A level smaller than this is not divided further; its patches are the whole of it, or nearly."""


class SlicedWasserstein(Measure):
    """How far patches of samples lie from those of real images, at every scale (arXiv:1710.10196, section 5).

    Each image becomes a Laplacian pyramid. From each of its levels a few patches of 7 x 7 pixels are taken, brought to
    the unit scale of the real ones, and projected on random directions; along each, the Wasserstein-1 distance is the
    area between the distribution functions. The number is the mean over directions and levels, in standard deviations
    of the real images' bands: blur, noise and wrong colours all raise it. Unlike the published distance, samples are
    scaled by the real images' moments and not by their own, so that contrast counts.

    Args:
        patches: P, of each image and level.
        directions: K.
        resamples: of the bootstrap.
        seed: of patches and directions.
    """

    def __init__(self, patches: int = 8, directions: int = 64, resamples: int = 100, seed: int = 0) -> None:
        if min(patches, directions, resamples) < 1:
            raise ConfigurationError(
                f"patches {patches}, directions {directions} and resamples {resamples} must be at least 1"
            )
        self.patches, self.directions, self.resamples, self.seed = patches, directions, resamples, seed
        self._reference: list[Tensor] = []
        self._real: list[Tensor] = []
        self._scales: list[tuple[Tensor, Tensor]] = []
        self.reset()

    def prepare(self, references: References) -> None:
        """Describe the held-out images, and as many of training, for the floor."""
        held_out = torch.cat([batch.images for batch in references.held_out()])
        if len(held_out) < 2:
            raise DataError(f"{len(held_out)} held-out image is too few to compare with: hold more out")
        train = torch.cat([held_out[:0], *(batch.images for batch in references.train())])
        levels = list(make_pyramid(held_out))
        self._scales = [
            (level.mean(dim=(0, 2, 3), keepdim=True), level.std(dim=(0, 2, 3), keepdim=True).clamp(min=1e-4))
            for level in levels
        ]
        self._reference, self._real = self.describe(held_out, 0), self.describe(train, 1)

    def reset(self) -> None:
        """Forget all samples."""
        self._samples: list[list[Tensor]] = []
        self._count = 0

    def update(self, images: Tensor, labels: Tensor) -> None:
        """Describe samples."""
        self._samples.append(self.describe(images, 2 + self._count))
        self._count += len(images)

    def compute(self) -> dict[str, Estimate]:
        """The distance of samples, and for comparison that of training images."""
        samples = [torch.cat(parts) for parts in zip(*self._samples, strict=True)]
        real = [level[torch.from_numpy(spread_evenly(self._count, len(level)))] for level in self._real]
        return {
            "image/sliced_wasserstein": self._estimate(samples),
            "image/sliced_wasserstein_of_real": self._estimate(real),
        }

    def descriptions(self) -> dict[str, str]:
        """What the numbers mean."""
        return {
            "image/sliced_wasserstein": "distance of patches at all scales to held-out images, in their deviations",
            "image/sliced_wasserstein_of_real": "the same of training images, as many as samples: the floor",
        }

    def describe(self, images: Tensor, key: int) -> list[Tensor]:
        """Projected patches [n, P, K] of each level of images [n, C, h, w] uint8, the same for the same key."""
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + key)
        found = []
        for number, (level, (mean, std)) in enumerate(zip(make_pyramid(images), self._scales, strict=True)):
            side = min(SIDE, *level.shape[2:])
            cut = take_patches((level - mean) / std, side, self.patches, generator)
            found.append(cut @ self._draw_directions(number, cut.shape[2]).T)
        return found

    def _draw_directions(self, level: int, features: int) -> Tensor:
        generator = torch.Generator().manual_seed(7919 * self.seed + level)
        return functional.normalize(torch.randn(self.directions, features, generator=generator), dim=1)

    def _estimate(self, samples: list[Tensor]) -> Estimate:
        pairs = [_Sorted(level, reference) for level, reference in zip(samples, self._reference, strict=True)]
        return estimate_distance(
            np.arange(len(samples[0])), lambda chosen: float(np.mean([pair.measure(chosen) for pair in pairs])),
            self.resamples, self.seed,
        )


class _Sorted:
    """Projections of two sets along each direction, in order."""

    def __init__(self, samples: Tensor, reference: Tensor) -> None:
        self.count, others = len(samples), len(reference)
        values = torch.cat([samples, reference]).flatten(0, 1)
        ordered, self.order = values.sort(dim=0)
        self.gaps = ordered.diff(dim=0)
        self.patches = samples.shape[1]
        self.owner = torch.arange(self.count + others).repeat_interleave(self.patches)
        self.weights = torch.full((self.count + others,), -1 / (others * self.patches), dtype=torch.float64)

    def measure(self, chosen: np.ndarray) -> float:
        """Distance of the chosen samples, each as often as it is named."""
        counts = np.bincount(chosen, minlength=self.count) / (len(chosen) * self.patches)
        self.weights[: self.count] = torch.from_numpy(counts)
        weights = self.weights.float()
        return measure_sliced_distance(self.order, self.gaps, self.owner, weights)


def make_pyramid(images: Tensor) -> list[Tensor]:
    """Levels [n, C, h, w] of a Laplacian pyramid, finest first: what each halving loses, and what remains.

    Args:
        images: [n, C, h, w] uint8.
    """
    current = images.float() / 127.5 - 1
    levels = []
    while min(current.shape[2:]) >= SMALLEST:
        size = (-(-current.shape[2] // 2), -(-current.shape[3] // 2))
        smaller = functional.interpolate(current, size, mode="area")
        levels.append(current - functional.interpolate(smaller, current.shape[2:], mode="bilinear"))
        current = smaller
    return [*levels, current]


def take_patches(level: Tensor, side: int, count: int, generator: torch.Generator) -> Tensor:
    """Patches [n, P, C side side] at random places of each image [n, C, h, w]."""
    n, channels, height, width = level.shape
    tops = torch.randint(height - side + 1, (n, count), generator=generator)
    lefts = torch.randint(width - side + 1, (n, count), generator=generator)
    steps = torch.arange(side)
    rows, columns = tops[..., None] + steps, lefts[..., None] + steps
    picked = level[
        torch.arange(n)[:, None, None, None], :, rows[..., :, None], columns[..., None, :]
    ]  # [n, P, side, side, C]
    return picked.reshape(n, count, side * side * channels)
