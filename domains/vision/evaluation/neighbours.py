"""Whether samples repeat the training set, and whether they repeat each other.

Shape legend: n images, D values of an image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from polydit.platform.errors import ConfigurationError, DataError
from polydit.platform.evaluation.evaluator import Histograms, Row
from polydit.platform.evaluation.statistics import Estimate, estimate_mean, estimate_share

from .measure import Measure, References

SIDE = 32
"""Images are shrunk to this many pixels before they are compared."""

CROWD = 50
"""Next neighbours that the nearest is compared with."""

RARE = 0.01
"""A sample counts as memorised if its nearest neighbour stands out as it does for this share of held-out images."""


class NearestNeighbours(Measure):
    """Distance of every sample to the nearest training image, and to another sample of its class.

    Distances are root mean squares of pixel differences, in grey levels of 255, at 32 pixels at most. A flat or blurred
    image is near to many without being one of them, so that a copy is told by its nearest neighbour being far nearer
    than the next fifty (Carlini et al. 2023, arXiv:2301.13188, section 4.2).

    Args:
        most: training images that are searched.
    """

    def __init__(self, most: int = 20_000) -> None:
        if most < 2:
            raise ConfigurationError(f"most {most} must be at least 2 training images")
        self.most = most
        self.reset()

    def prepare(self, references: References) -> None:
        """Take the training images, and see how near held-out ones come to them."""
        train = [(shrink(batch.images), batch.labels, batch.names) for batch in references.train(self.most)]
        held_out = torch.cat([shrink(batch.images) for batch in references.held_out(1000)])
        self._train = torch.cat([images for images, _, _ in train])
        labels = torch.cat([labels for _, labels, _ in train])
        self._names = [name for _, _, names in train for name in names]
        if len(self._train) < 2 or not len(held_out):
            raise DataError(f"{len(self._train)} training and {len(held_out)} held-out images are too few to compare")
        self._real = find_nearest(held_out, self._train)
        self._spread_of_real = measure_spread(self._train, labels)

    def reset(self) -> None:
        """Forget all samples."""
        self._images: list[Tensor] = []
        self._labels: list[Tensor] = []
        self._nearest: Nearest | None = None

    def update(self, images: Tensor, labels: Tensor) -> None:
        """Add samples."""
        self._images.append(shrink(images))
        self._labels.append(labels)

    def compute(self) -> dict[str, Estimate]:
        """Distances, the share of samples that come too near, and diversity within classes."""
        images = torch.cat(self._images)
        self._nearest = find_nearest(images, self._train)
        limit = float(np.quantile(self._real.ratios, RARE))
        memorised = self._nearest.ratios < limit
        return {
            "neighbour/distance": estimate_mean(self._nearest.distances),
            "neighbour/distance_of_real": estimate_mean(self._real.distances),
            "neighbour/memorised": estimate_share(int(memorised.sum()), len(memorised)),
            "neighbour/diversity": estimate_mean(measure_spread(images, torch.cat(self._labels))),
            "neighbour/diversity_of_real": estimate_mean(self._spread_of_real),
        }

    def columns(self) -> list[Row]:
        """The nearest training image of each sample."""
        found = self._nearest
        assert found is not None
        return [
            {"nearest_distance": float(distance), "nearest_ratio": float(ratio), "nearest": self._names[int(place)]}
            for distance, ratio, place in zip(found.distances, found.ratios, found.places, strict=True)
        ]

    def histograms(self) -> Histograms:
        """Distances to the nearest training image."""
        assert self._nearest is not None
        return {
            "distance to the nearest training image, grey levels": (self._nearest.distances, self._real.distances),
            "the same as a share of the distance to the next fifty": (self._nearest.ratios, self._real.ratios),
        }

    def descriptions(self) -> dict[str, str]:
        """What the numbers mean."""
        return {
            "neighbour/distance": "mean distance to the nearest training image, in grey levels",
            "neighbour/distance_of_real": "the same of held-out images",
            "neighbour/memorised": "share of samples whose nearest training image stands out as for 1 % of real ones",
            "neighbour/diversity": "mean distance of two samples of one class, in grey levels",
            "neighbour/diversity_of_real": "the same of training images",
        }


def shrink(images: Tensor) -> Tensor:
    """Images [n, D] uint8 at `SIDE` pixels at most, averaged."""
    height, width = images.shape[2:]
    if max(height, width) > SIDE:
        factor = SIDE / max(height, width)
        size = (max(1, round(height * factor)), max(1, round(width * factor)))
        images = functional.interpolate(images.float(), size, mode="area").round().to(torch.uint8)
    return images.flatten(1)


@dataclass(frozen=True)
class Nearest:
    """Of images, how near the nearest of others comes.

    Args:
        distances: [n] root mean square differences.
        ratios: [n] these, as a share of the mean distance to the next `CROWD`.
        places: [n] which one it is.
    """

    distances: NDArray[np.float64]
    ratios: NDArray[np.float64]
    places: NDArray[np.int64]


def find_nearest(images: Tensor, others: Tensor) -> Nearest:
    """The nearest of the others [m, D] to each image [n, D]."""
    count = min(CROWD + 1, len(others))
    values, places = [], []
    for part in images.split(256):
        found, index = torch.cdist(part.float(), others.float()).topk(count, dim=1, largest=False)
        values.append(found.double() / math.sqrt(images.shape[1]))
        places.append(index[:, 0])
    nearest = torch.cat(values)
    crowd = nearest[:, 1:].mean(dim=1).clamp(min=1e-9)
    return Nearest(nearest[:, 0].numpy(), (nearest[:, 0] / crowd).numpy(), torch.cat(places).numpy())


def measure_spread(images: Tensor, labels: Tensor) -> NDArray[np.float64]:
    """Root mean square distance of each image [n, D] to the next of its class; classes of one image have none."""
    found = []
    for label in labels.unique():
        own = images[labels == label].float()
        if len(own) > 1:
            found.append((own - own.roll(1, dims=0)).square().mean(dim=1).sqrt())
    return torch.cat(found).double().numpy() if found else np.empty(0)
