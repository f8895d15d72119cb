"""Positions that are added to the tokens, and the sinusoid that also embeds the time.

Shape legend: B batch, N tokens, D width, A position axes, F frequencies.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..errors import ConfigurationError


def angles(values: Tensor, count: int, base: float, include_base: bool = False) -> Tensor:
    """``values * base^(-k / F)`` for k = 0..F-1: [..., F] float32 for values [...].

    Args:
        values: what to embed.
        count: F.
        base: ratio of the longest wavelength to the shortest.
        include_base: divide by F - 1 instead of F, so that the slowest frequency is exactly 1 / base (as in diffusers'
            time embedding) instead of one step short of it (as in the published DiT).
    """
    index = torch.arange(count, device=values.device, dtype=torch.float32)
    frequencies = torch.exp(-math.log(base) * index / (count - 1 if include_base else count))
    return values[..., None].float() * frequencies


class Position(nn.Module):
    """Embeds positions to be added to tokens; built as ``Position(width, **options)``."""

    @abstractmethod
    def forward(self, h: Tensor, positions: Tensor | None) -> Tensor:
        """What to add to `h`: [B, N, D] or [1, N, D].

        Args:
            h: [B, N, D] tokens, for their number and type.
            positions: [B, N] or [B, N, A]; None: index 0..N-1.
        """


class SinCosPosition(Position):
    """Fixed sines and cosines of the positions, an equal part of the width for each axis.

    Args:
        width: D; supplied by the embedding.
        base: ratio of the longest wavelength to the shortest.
        scale: multiplies the positions. ADiT's atom index has base 2048 and scale pi.
        axes: order of the position axes along the width; empty: as they come. The published DiT puts an image's column
            before its row: ``(1, 0)``.
    """

    def __init__(self, width: int, base: float = 1e4, scale: float = 1.0, axes: Sequence[int] = ()) -> None:
        super().__init__()
        self.width, self.base, self.scale, self.axes = width, base, scale, tuple(axes)

    def forward(self, h: Tensor, positions: Tensor | None) -> Tensor:
        """Sines, then cosines, axis by axis.

        Raises:
            ConfigurationError: if the width is no multiple of twice the number of axes, or `axes` do not fit.
        """
        if positions is None:
            positions = torch.arange(h.shape[1], device=h.device)[None]
        if positions.ndim == 2:
            positions = positions[..., None]
        axes = self.axes or tuple(range(positions.shape[-1]))
        if sorted(axes) != list(range(positions.shape[-1])):
            raise ConfigurationError(f"axes {axes} do not order {positions.shape[-1]} position axes: name each once")
        if self.width % (2 * len(axes)):
            raise ConfigurationError(
                f"a width of {self.width} cannot hold sines and cosines of {len(axes)} axes: "
                f"make it a multiple of {2 * len(axes)}"
            )
        count = self.width // (2 * len(axes))
        turned = [angles(positions[..., axis] * self.scale, count, self.base) for axis in axes]
        return torch.cat([part for angle in turned for part in (angle.sin(), angle.cos())], dim=-1).to(h.dtype)


class SharePosition(SinCosPosition):
    """Sines and cosines of where a token lies within its own sample, as a share of its length on each axis.

    Half a step from the near edge of a sample it is half a step over the length, whatever the length is, so that a
    model knows edges and middle of samples of every size. Rotary positions tell tokens' differences alone, and where
    the edges are has to be found out.

    Args:
        width: D; supplied by the embedding.
        cycles: of the fastest sine over a sample. More than half the tokens of the shortest axis in training fold over,
            and samples of other sizes show stripes.
        base: ratio of the longest wavelength to the shortest.
        axes: see `SinCosPosition`.
    """

    def __init__(self, width: int, cycles: float = 1.0, base: float = 16.0, axes: Sequence[int] = ()) -> None:
        super().__init__(width, base, 2 * math.pi * cycles, axes)

    def forward(self, h: Tensor, positions: Tensor | None) -> Tensor:
        """As of `SinCosPosition`, for positions that begin at 0; padded tokens have none or 0."""
        if positions is None:
            positions = torch.arange(h.shape[1], device=h.device)[None]
        lengths = positions.amax(dim=1, keepdim=True) + 1
        return super().forward(h, (positions + 0.5) / lengths)


class LearntPosition(Position):
    """A learnt table, indexed by position.

    Args:
        width: D; supplied by the embedding.
        count: rows of the table; the longest sequence it can take.
    """

    def __init__(self, width: int, count: int = 256) -> None:
        super().__init__()
        self.table = nn.Embedding(count, width)
        self.initialise()

    def initialise(self) -> None:
        """Normal with standard deviation 0.02."""
        nn.init.normal_(self.table.weight, std=0.02)

    def forward(self, h: Tensor, positions: Tensor | None) -> Tensor:
        """Rows of the table.

        Raises:
            ConfigurationError: if the sequence is longer than the table, or positions have several axes.
        """
        if positions is None:
            if h.shape[1] > self.table.num_embeddings:
                raise ConfigurationError(
                    f"{h.shape[1]} tokens exceed the {self.table.num_embeddings} learnt positions: "
                    "raise `count`, or use SinCosPosition"
                )
            positions = torch.arange(h.shape[1], device=h.device)[None]
        if positions.ndim != 2:
            raise ConfigurationError(
                f"learnt positions take one index per token, not shape {tuple(positions.shape)}: "
                "use SinCosPosition for several axes"
            )
        return self.table(positions.long()).to(h.dtype)
