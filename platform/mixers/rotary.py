"""Rotary positions: queries and keys turn by an angle that grows with their position.

Shape legend: B batch, H heads, N tokens, E width of a head, A position axes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..errors import ConfigurationError
from .rotary_scaling import Factor, RotaryScaling


class RotaryPosition(nn.Module):
    """Rotary position embedding (RoFormer, arXiv 2104.09864, equations 14-15), with one share of the head per axis.

    The dot product of a turned query and a turned key depends on the difference of their positions alone. A head is
    cut into one part per axis, and a part into two halves whose entries pair up.

    Args:
        head_width: E; supplied by the mixer.
        axes: width of the head given to each position axis; even numbers with a sum of at most E, what is left is
            not turned. Empty: the whole head for one axis.
        base: ratio of the longest to the shortest wavelength; larger means slower turning.
        scaling: how frequencies stretch over grids longer than those of training; None: not at all.

    Raises:
        ConfigurationError: if a share is odd, the shares exceed the head, or the scaling is of other axes.
    """

    def __init__(
        self, head_width: int, axes: Sequence[int] = (), base: float = 1e4, scaling: RotaryScaling | None = None
    ) -> None:
        super().__init__()
        self.axes = tuple(axes) or (head_width - head_width % 2,)
        self.base, self.scaling = base, scaling
        if any(share % 2 or share <= 0 for share in self.axes) or sum(self.axes) > head_width:
            raise ConfigurationError(
                f"rotary shares {self.axes} do not fit a head of width {head_width}: each must be even "
                "and positive, and their sum at most the head's width"
            )

        if scaling is not None and scaling.axes != len(self.axes):
            raise ConfigurationError(
                f"the rotary scaling has {scaling.axes} factors and the embedding {len(self.axes)} axes: give "
                "one for each"
            )

    def forward(self, x: Tensor, positions: Tensor | None, real: Tensor | None = None) -> Tensor:
        """Turned `x` [B, H, N, E].

        Args:
            x: queries or keys.
            positions: [B, N] or [B, N, A]; None: index 0..N-1.
            real: [B, N] bool, the tokens that say how long a sample is, for a scaling that asks; None: all.

        Raises:
            ConfigurationError: if the positions have another number of axes than this embedding.
        """
        if positions is None:
            positions = torch.arange(x.shape[-2], device=x.device)[None]
        if positions.ndim == 2:
            positions = positions[..., None]
        if positions.shape[-1] != len(self.axes):
            raise ConfigurationError(
                f"positions have {positions.shape[-1]} axes and the rotary embedding {len(self.axes)}: "
                f"set `axes` to {positions.shape[-1]} shares of the head"
            )
        factors = None if self.scaling is None else self.scaling.measure(positions, real)
        parts, start = [], 0
        for axis, share in enumerate(self.axes):
            part = x[..., start : start + share]
            parts.append(self._turn(part, positions[..., axis], axis, None if factors is None else factors[axis]))
            start += share
        turned = torch.cat([*parts, x[..., start:]], dim=-1)
        # queries and keys both pass here, so that each bears the root of what the logits are to be multiplied by
        if self.scaling is None or factors is None:
            return turned
        magnitude = torch.as_tensor(self.scaling.magnitude(factors), device=turned.device)
        return turned * magnitude.sqrt().to(turned.dtype)

    def _turn(self, x: Tensor, position: Tensor, axis: int, factor: Factor | None) -> Tensor:
        half = x.shape[-1] // 2
        # angles in float32: in bf16 positions beyond 256 would already collapse
        frequencies = self.base ** -(torch.arange(half, device=x.device, dtype=torch.float32) / half)
        if self.scaling is not None and factor is not None:
            frequencies = self.scaling.frequencies(axis, frequencies, self.base, factor)
        angle = position[:, None, :, None].float() * frequencies
        cosine, sine = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        first, second = x[..., :half], x[..., half:]
        return torch.cat([first * cosine - second * sine, first * sine + second * cosine], dim=-1)
