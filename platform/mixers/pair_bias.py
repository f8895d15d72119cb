"""Attention biased by distance: the least that a plain transformer needs to know of places in space.

It is the first half of `GeometricAttention`, without sums over pairs, as Graphormer-3D and GFMDiff's node track use it
(arXiv:2203.04810, section 3; arXiv:2401.02683, section 4.1): any attention back end computes it.

Shape legend: B batch, N tokens, D width, H heads, R radial functions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..context import Context
from ..errors import ConfigurationError
from .base import PairBias
from .geometric import gaussians


class DistanceBias(PairBias):
    """A linear function, one for each head, of Gaussians of the distance between two tokens; starts at zero.

    Args:
        heads: H; supplied by the attention.
        radial: R, Gaussians spread evenly from `near` to `far`.
        near, far: distances of the first and the last Gaussian, in the unit of the points.

    Raises:
        ConfigurationError: if there are fewer than two Gaussians, or `near` is not below `far`.
    """

    def __init__(self, heads: int, radial: int = 16, near: float = 0.7, far: float = 4.0) -> None:
        super().__init__()
        if radial < 2 or not 0 <= near < far:
            raise ConfigurationError(f"radial {radial} must be at least 2, and near {near} below far {far}")
        self.radial, self.near, self.far = radial, near, far
        self.logits = nn.Linear(radial, heads, bias=False)
        self.initialise()

    def initialise(self) -> None:
        """Zero, so that attention starts as without it."""
        nn.init.zeros_(self.logits.weight)

    def forward(self, x: Tensor, ctx: Context, stream: str) -> Tensor:
        """Bias [B, H, N, N].

        Raises:
            ConfigurationError: if the context has no points for these tokens.
        """
        points = ctx.points.get(stream)
        if points is None or points.shape[:2] != x.shape[:2]:
            found = "none" if points is None else f"{points.shape[1]} for {x.shape[1]} tokens"
            raise ConfigurationError(
                f"a bias by distance needs the points of its tokens and has {found}: set the embedding's `points`, or "
                "leave `pair_bias` out"
            )
        key = ("distances", stream, self.radial, self.near, self.far)
        features = ctx.once(key, lambda: radial_features(points, self.radial, self.near, self.far))
        return self.logits(features.to(x.dtype)).permute(0, 3, 1, 2)

    def cost(self, tokens: int) -> int:
        """2 N² R H."""
        return 2 * tokens**2 * self.logits.weight.numel()


def radial_features(points: Tensor, count: int, near: float, far: float) -> Tensor:
    """[B, N, N, R] float32 Gaussians of the distances between points [B, N, 3]."""
    with torch.autocast(points.device.type, enabled=False):
        apart = points.float()[:, None] - points.float()[:, :, None]
        # no infinite slope at 0
        return gaussians((apart.square().sum(-1, keepdim=True) + 1e-6).sqrt(), count, near, far)
