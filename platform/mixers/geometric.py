"""Attention that knows where its tokens are in space.

A transformer on coordinates must learn distances from products of coordinates, which takes long; where little noise is
left, distances are nearly all there is to learn. Here every pair brings its distance in a radial basis, and a broader
basis times its direction. The first biases each layer's attention logits; both are summed over what a head attends to,
which spans pair forces. Sums, because forces add; means learn more slowly. The radial basis is SchNet's
(arXiv:1706.08566, section 4); bias and pair sums follow AlphaFold's invariant point attention (Jumper et al. 2021,
supplement, algorithm 22) without its frames: directions are in the pose the tokens come in, nothing is equivariant.

Shape legend: B batch, N tokens, D width, H heads, R radial functions, V radial functions that also carry a direction,
F = R + 3 V features of a pair.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..context import Context, estimate_of
from ..errors import ConfigurationError
from .attention import check_heads, split_heads
from .base import TokenMixer
from .masks import visible_keys

SOFTENING = 0.1
"""Length added where a direction is divided by a distance, in the unit of the points, so that none is undefined."""

NEIGHBOURS = 4
"""Neighbours of a typical atom."""


class GeometricAttention(TokenMixer):
    """Multi-head self-attention over the stream, with the geometry of ``ctx.points``.

    The attention weights are needed by themselves, so it is written out and does not run through ``ctx.attend``.

    Args:
        width: D; supplied by the stack.
        heads: H, must divide the width; None: one per 64 of the width.
        radial: R, Gaussians spread evenly from `near` to `far`.
        directed: V, the broader Gaussians that also carry the direction.
        near, far: distances of the first and the last Gaussian, in the unit of the points.
        bias: whether the projections have biases.
        stream: whose mask and points hold here.
        estimate: whether the geometry of the last estimate counts beside that of the noised points, with weights of its
            own; where a pass has no estimate its part is left out (several devices then need a strategy that
            allows parameters without gradients).

    Raises:
        ConfigurationError: if the heads do not divide the width.
    """

    def __init__(
        self,
        width: int,
        heads: int | None = None,
        radial: int = 16,
        directed: int = 8,
        near: float = 0.7,
        far: float = 4.0,
        bias: bool = True,
        stream: str = "x",
        estimate: bool = False,
    ) -> None:
        super().__init__()
        heads = check_heads(width, heads)
        if radial < 2 or directed < 2 or not 0 <= near < far:
            raise ConfigurationError(
                f"radial {radial} and directed {directed} must be at least 2, and near {near} below far {far}"
            )
        self.width, self.heads, self.stream = width, heads, stream
        self.radial, self.directed, self.near, self.far = radial, directed, near, far
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.output = nn.Linear(width, width, bias=bias)
        self.logits = nn.Linear(radial, heads, bias=False)
        self.pairs = nn.Linear(heads * (radial + 3 * directed), width, bias=False)
        self.estimate_logits = nn.Linear(radial, heads, bias=False) if estimate else None
        self.estimate_pairs = nn.Linear(heads * (radial + 3 * directed), width, bias=False) if estimate else None

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        """Mixed tokens [B, N, D] of `x` [B, N, D].

        Raises:
            ConfigurationError: if the context has no points for these tokens.
        """
        geometry = self._geometry(x, ctx)
        q, k, v = (split_heads(part, self.heads) for part in self.qkv(x).chunk(3, dim=-1))
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        for features, logits, _ in geometry:
            scores = scores + logits(features[..., : self.radial]).permute(0, 3, 1, 2)
        visible = visible_keys(ctx.masks.get(self.stream), x.shape[1], x.shape[1], x.device)
        if visible is not None:
            scores = scores.masked_fill(~visible, torch.finfo(scores.dtype).min)
        weights = scores.softmax(-1).to(v.dtype)
        output = self.output((weights @ v).transpose(1, 2).flatten(2))
        for features, _, pairs in geometry:
            # [B, N, H, N] by [B, N, N, F]: for every token and head, the weighted features of its pairs.
            summed = (weights.transpose(1, 2) @ features.to(v.dtype)) * self._gain(visible, x)
            output = output + pairs(summed.flatten(2))
        return output

    def _geometry(self, x: Tensor, ctx: Context) -> list[tuple[Tensor, nn.Linear, nn.Linear]]:
        """Pair features and the maps that turn them into logits and sum them: of the points, of their estimate."""
        found = [(self._features(x, ctx, self.stream), self.logits, self.pairs)]
        name = estimate_of(self.stream)
        if self.estimate_logits is not None and self.estimate_pairs is not None and name in ctx.points:
            found.append((self._features(x, ctx, name), self.estimate_logits, self.estimate_pairs))
        return found

    def _features(self, x: Tensor, ctx: Context, name: str) -> Tensor:
        points = ctx.points.get(name)
        if points is None or points.shape[:2] != x.shape[:2]:
            found = "none" if points is None else f"{points.shape[1]} for {x.shape[1]} tokens"
            raise ConfigurationError(
                f"geometric attention needs the points of its tokens and has {found}: "
                "set the embedding's `points`, or use plain attention"
            )
        key = ("pair features", name, self.radial, self.directed, self.near, self.far)
        return ctx.once(key, lambda: pair_features(points, self.radial, self.directed, self.near, self.far)).to(x.dtype)

    @staticmethod
    def _gain(visible: Tensor | None, x: Tensor) -> Tensor | float:
        """Turns the mean over what a token sees into a sum, as forces add up, in units of a few neighbours."""
        if visible is None:
            return x.shape[1] / NEIGHBOURS
        return visible.sum(dim=-1).transpose(1, 2)[..., None].to(x.dtype) / NEIGHBOURS

    def cost(self, tokens: int, condition_tokens: int = 0) -> int:
        """Operations per sample: 8 N D² + 4 N² D as in plain attention, and 2 N² H (R + F) + 2 N H F D per geometry."""
        features = self.pairs.in_features
        plain = 8 * tokens * self.width**2 + 4 * tokens**2 * self.width
        geometric = 2 * tokens**2 * (self.radial * self.heads + features) + 2 * tokens * features * self.width
        if self.estimate_pairs is not None:
            geometric *= 2
        return plain + geometric


def pair_features(points: Tensor, radial: int, directed: int, near: float, far: float) -> Tensor:
    """Radial basis of all distances, then a broader one times the direction: [B, N, N, R + 3 V] float32.

    Args:
        points: [B, N, 3]; row i, column j of the result looks from point i to point j.
        radial: R.
        directed: V.
        near, far: distances of the first and the last Gaussian.
    """
    with torch.autocast(points.device.type, enabled=False):
        points = points.float()
        apart = points[:, None, :] - points[:, :, None]
        distance = (apart.square().sum(dim=-1, keepdim=True) + 1e-6).sqrt()  # no infinite slope at 0
        broad = gaussians(distance, directed, near, far)
        directions = broad[..., None] * (apart / (distance + SOFTENING))[..., None, :]
        return torch.cat([gaussians(distance, radial, near, far), directions.flatten(-2)], dim=-1)


def gaussians(distance: Tensor, count: int, near: float, far: float) -> Tensor:
    """[..., count] values at `distance` [..., 1] of Gaussians as wide as they lie apart."""
    centres = torch.linspace(near, far, count, device=distance.device)
    return torch.exp(-(((distance - centres) * ((count - 1) / (far - near))) ** 2))
