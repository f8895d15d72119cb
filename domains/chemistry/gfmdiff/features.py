"""What GFMDiff's tracks see of a molecule: distances and angles in bases (arXiv 2401.02683, section 4.1).

Shape legend: B batch, N atoms, R radial functions, Q angular functions.

The published network embeds a basis linearly and passes that, beside what it already holds, through another linear map.
Two linear maps in a row are one: their product is taken first, on the weights, so that the second never runs at full
width over all pairs or triplets. The numbers are the same up to rounding.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

SOFTENING = 1.0
"""Length, in the unit of the points, added to the distances that directions are divided by."""

STRAIGHT = 1e-6
"""How near to 1 a cosine may come: the slope of the arc cosine has no bound there."""

Distances = Literal["squared", "plain"]
"""What a pair's basis is of: squared distances up to 10, as released, or distances up to 6."""

Angles = Literal["recurrent", "gaussian", "harmonic", "none"]
"""What a triplet is told: a state of its own that every layer fuses with its new angle, as released; Gaussians of the
angle alone, which take no memory from layer to layer; Legendre polynomials of its cosine, for which no triplet is ever
looked at (see `spherical_harmonics`); nothing."""

DEGREES = (1, 3, 5, 7)
"""Spherical harmonics of degree 0 to 3: how many there are of each."""


class GaussianBasis(nn.Module):
    """Gaussians exp(-sharpness (x - centre)²) at evenly spaced centres from 0.

    Args:
        count: how many.
        step: between centres.
        sharpness: inverse square width.
    """

    centres: Tensor

    def __init__(self, count: int, step: float, sharpness: float) -> None:
        super().__init__()
        self.sharpness = sharpness
        self.register_buffer("centres", (torch.arange(count, dtype=torch.float64) * step).float(), persistent=False)

    def forward(self, values: Tensor) -> Tensor:
        """[..., count] for values [...]."""
        return torch.exp(-self.sharpness * (values[..., None] - self.centres).square())


class DistanceBasis(GaussianBasis):
    """R Gaussians of a pair's distance.

    Squared distances up to 10, as released, are lengths up to 3.2, beyond which a pair looks like any other; and their
    resolution falls as lengths grow.

    Args:
        kind: see `Distances`.
    """

    def __init__(self, kind: Distances = "squared") -> None:
        super().__init__(*((50, 0.2, 10.0) if kind == "squared" else (48, 0.125, 64.0)))
        self.kind = kind
        self.count = len(self.centres)

    def forward(self, squared: Tensor) -> Tensor:
        """[B, N, N, R] for squared distances [B, N, N]."""
        return super().forward(squared if self.kind == "squared" else (squared + 1e-8).sqrt())


class GaussianAngles(nn.Module):
    """Q = 32 Gaussians of the angle at an atom between the ways to two others, over 0 to π as released."""

    count = 32

    def __init__(self) -> None:
        super().__init__()
        self.basis = GaussianBasis(self.count, 0.1, 10.0)

    def forward(self, points: Tensor, centres: Tensor) -> Tensor:
        """[B, M, N, N, Q] for points [B, N, 3] seen from centres [B, M, 3], which are all or some of them."""
        cosine, lengths = cosines(points, centres)
        angle = torch.acos(cosine.clamp(-1 + STRAIGHT, 1 - STRAIGHT))
        return self.basis(torch.where(lengths[..., None] > 0, angle, torch.zeros_like(angle)))


def spherical_harmonics(directions: Tensor) -> Tensor:
    """Real spherical harmonics up to degree 3, [..., 16] of unit vectors [..., 3]; a vector of length 0 has the first.

    Scaled so that over the functions of degree l, Σ Y(u) Y(v) = P_l(u · v), the Legendre polynomial of the cosine
    between u and v (addition theorem). Linear functions of P_0 to P_3 of the angle at an atom between two neighbours
    are so
    products of something of the one neighbour with something of the other: attention over neighbours can be told angles
    by a longer query and key.
    """
    x, y, z = directions.unbind(-1)
    square = directions.square().sum(-1)
    functions = [
        torch.ones_like(x), x, y, z,
        3**0.5 * x * y, 3**0.5 * y * z, 3**0.5 * z * x, 3**0.5 / 2 * (x * x - y * y), (3 * z * z - square) / 2,
        (5 / 8) ** 0.5 * y * (3 * x * x - y * y), 15**0.5 * x * y * z, (3 / 8) ** 0.5 * y * (5 * z * z - square),
        z * (5 * z * z - 3 * square) / 2, (3 / 8) ** 0.5 * x * (5 * z * z - square), 15**0.5 / 2 * z * (x * x - y * y),
        (5 / 8) ** 0.5 * x * (x * x - 3 * y * y),
    ]
    return torch.stack(functions, dim=-1)


def unit_vectors(points: Tensor) -> Tensor:
    """[B, N, N, 3] unit vectors from i to j, 0 from a point to itself."""
    points = in_full(points)
    ways = points[:, None] - points[:, :, None]
    return ways / ((ways.square().sum(-1, keepdim=True) + 1e-12).sqrt() + 1e-5)


def pair_geometry(points: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distances [B, N, N], and softened directions [B, N, N, 3] from j to i, of points [B, N, 3]."""
    points = in_full(points)
    apart = points[:, :, None] - points[:, None]
    squared = apart.square().sum(-1)
    # no infinite slope where two points meet, as each does with itself
    return squared, apart / ((squared + 1e-12).sqrt() + SOFTENING)[..., None]


def in_full(points: Tensor) -> Tensor:
    """Points in 32 bits at least: geometry in fewer loses what a bond's length says."""
    return points.float() if points.dtype in (torch.bfloat16, torch.float16) else points


def cosines(points: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines [B, M, N, N] of angles at M centres between the ways to two points, and those ways' lengths [B, M, N].

    Lengths are softened by 1e-5 as released, so that a way without length gives 0.
    """
    with torch.autocast(points.device.type, enabled=False):
        ways = in_full(points)[:, None] - in_full(centres)[:, :, None]
        lengths = (ways.square().sum(-1) + 1e-24).sqrt()
        units = ways / (lengths + 1e-5)[..., None]
        return units @ units.transpose(-1, -2), ways.square().sum(-1)


class FusedEmbedding(nn.Module):
    """Linear embedding of a basis, fused with what is held: linear([embed(basis), held]), as one pass over each.

    Args:
        basis: functions of the basis.
        embedded: width of its embedding.
        held: width of what is held; 0: nothing ever is, and there is the embedding alone.
        width: of the result.
    """

    def __init__(self, basis: int, embedded: int, held: int, width: int) -> None:
        super().__init__()
        self.embed = nn.Linear(basis, embedded)
        self.fuse = nn.Linear(embedded + held, width) if held else None

    def forward(self, basis: Tensor, held: Tensor) -> Tensor:
        """[..., width] of basis [..., R] and held [..., H]."""
        assert self.fuse is not None
        into, over = self.fuse.weight.split([self.embed.out_features, held.shape[-1]], dim=1)
        bias = functional.linear(self.embed.bias, into, self.fuse.bias)
        folded = functional.linear(basis.to(into.dtype), into @ self.embed.weight, bias)
        return folded + functional.linear(held, over)

    def start(self, basis: Tensor) -> Tensor:
        """[..., embedded] of basis [..., R], where nothing is held yet."""
        return self.embed(basis.to(self.embed.weight.dtype))

    def cost(self) -> int:
        """Multiply-adds per pair or triplet."""
        if self.fuse is None:
            return 0
        held = self.fuse.in_features - self.embed.out_features
        return self.fuse.out_features * (self.embed.in_features + held)

    def fold_cost(self) -> int:
        """Multiply-adds of the product of the weights, once a pass."""
        if self.fuse is None:
            return 0
        return self.fuse.out_features * self.embed.out_features * (self.embed.in_features + 1)
