"""Windows over images that are larger than what a network was trained on, blended without seams.

Shape legend: B images, C channels, Y, X height and width of an image, s side of a window, W windows of an image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from polydit.platform.errors import ConfigurationError


@dataclass(frozen=True)
class Windows:
    """Square windows that overlap by at least a share of their side and reach every pixel.

    They are spread evenly from border to border, so every window lies within the image and none needs padding. Weights
    fall from the middle of a window to its edge, so that no edge shows.

    Args:
        side: s, of the tiles of training.
        overlap: least overlap of neighbours as a share of the side, 0 to below 1.

    Raises:
        ConfigurationError: if that is not possible.
    """

    side: int
    overlap: float = 0.5

    def __post_init__(self) -> None:
        if self.side < 1 or not 0 <= self.overlap < 1:
            raise ConfigurationError(
                f"windows of side {self.side} that overlap by {self.overlap}: give at least 1, and 0 to below 1"
            )

    def places(self, height: int, width: int) -> list[tuple[int, int]]:
        """Top and left of every window, row by row.

        Raises:
            ConfigurationError: if the image is smaller than a window.
        """
        if min(height, width) < self.side:
            raise ConfigurationError(
                f"an image of {height} x {width} is smaller than the windows of {self.side}: extend it first"
            )
        return [(top, left) for top in self._starts(height) for left in self._starts(width)]

    def cut(self, image: Tensor, places: list[tuple[int, int]]) -> Tensor:
        """Windows [B * W, C, s, s] of an image [B, C, Y, X], those of one image after another."""
        parts = [image[..., top : top + self.side, left : left + self.side] for top, left in places]
        return torch.stack(parts, dim=1).flatten(0, 1)

    def blend(self, parts: Tensor, places: list[tuple[int, int]], total: Tensor, weight: Tensor) -> None:
        """Add weighted windows [B, W, C, s, s] into `total` [B, C, Y, X], and their weights into `weight` [Y, X]."""
        mask = self.weights(parts.device, total.dtype)
        for number, (top, left) in enumerate(places):
            area = (..., slice(top, top + self.side), slice(left, left + self.side))
            total[area] += mask * parts[:, number].to(total.dtype)
            weight[area] += mask

    def weights(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        """[s, s], a squared sine across each axis; positive everywhere, since a border may have one window only."""
        middle = (torch.arange(self.side, device=device, dtype=dtype) + 0.5) / self.side
        line = (math.pi * middle).sin() ** 2 + 1e-3
        return line[:, None] * line[None]

    def _starts(self, size: int) -> list[int]:
        step = max(1, math.floor(self.side * (1 - self.overlap)))
        count = math.ceil((size - self.side) / step) + 1
        if count == 1:
            return [0]
        return [round(place * (size - self.side) / (count - 1)) for place in range(count)]
