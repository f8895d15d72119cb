"""What a denoiser is, and the parts it is made of.

Shape legend: B batch, N tokens, C channels, D width.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ..context import Context
from ..state import Condition, Layout, MaskSpec, State, Streams, Time


class Denoiser(nn.Module):
    """Predicts, for every field, what the process asks for (noise, clean data or velocity)."""

    @abstractmethod
    def forward(self, x_t: State, t: Time, cond: Condition, ctx: Context) -> State:
        """Prediction per field, in the type of `x_t`; differentiable in `x_t`.

        Args:
            x_t: noised fields.
            t: noise level in [0, 1], [B] or [B, N], or one per field.
            cond: the encoded condition.
            ctx: masks, positions, policies and taps of this pass; made anew for every pass, see `context`.
        """

    @property
    @abstractmethod
    def streams(self) -> dict[str, str]:
        """Stream -> the field whose mask and positions are its own."""

    @abstractmethod
    def cost(self, tokens: int, condition_tokens: int = 0) -> int:
        """Floating-point operations of one forward pass of one sample, two per multiply-add, products only."""

    def portable_config(self, config: dict[str, Any]) -> dict[str, Any]:
        """`config` (this denoiser's init_args) with every path to another checkpoint replaced by what it held."""
        return config

    def context(self, layout: Layout) -> Context:
        """Fresh context with the masks and positions of `layout`, by stream.

        On the CPU a mask without any padding is left out, so that attention runs unmasked; elsewhere asking would stall
        the device.
        """
        masks, positions = {}, {}
        for stream, name in self.streams.items():
            keys = layout.masks.get(name)
            if keys is not None and not (keys.device.type == "cpu" and bool(keys.all())):
                masks[stream] = MaskSpec(keys=keys)
            if name in layout.positions:
                positions[stream] = layout.positions[name]
        return Context(masks=masks, positions=positions)


class Embedding(nn.Module):
    """Turns noised fields and condition channels into token streams; built as ``Embedding(width, **options)``."""

    @abstractmethod
    def forward(self, x_t: State, cond: Condition, ctx: Context) -> Streams:
        """Streams [B, N, D]."""

    @property
    @abstractmethod
    def streams(self) -> dict[str, str]:
        """Stream -> the field whose mask and positions are its own.

        An embedding that puts several fields into one stream names each field's part here, and joins them in `masks`.
        """

    @abstractmethod
    def cost(self, tokens: int) -> int:
        """Floating-point operations per sample, two per multiply-add, products only."""

    def masks(self, x_t: State, ctx: Context) -> dict[str, MaskSpec]:
        """Masks by stream; those of the context unless a stream has other tokens than the field it is made of."""
        return ctx.masks

    def positions(self, x_t: State, ctx: Context) -> dict[str, Tensor]:
        """Positions by stream; those of the context unless the fields themselves have a grid."""
        return ctx.positions

    def grids(self, x_t: State, ctx: Context) -> dict[str, tuple[int, ...]]:
        """Lengths of the axes of streams on a grid; those of the context unless the fields themselves have one."""
        return ctx.grids

    def points(self, x_t: State, ctx: Context) -> dict[str, Tensor]:
        """Places in space by stream [B, N, 3]; those of the context unless the fields themselves say."""
        return ctx.points


class Head(nn.Module):
    """Turns streams into predictions; built as ``Head(width, **options)``.

    Attributes:
        chunks: how many modulation vectors it asks for; 0 for none.
    """

    chunks: int

    @abstractmethod
    def forward(self, h: Streams, modulation: Sequence[Tensor], x_t: State, ctx: Context) -> State:
        """Prediction per field; `x_t` gives the shapes."""

    @abstractmethod
    def cost(self, tokens: int) -> int:
        """Floating-point operations per sample, two per multiply-add, products only."""


def clear_padding(values: Tensor, mask: MaskSpec | None) -> Tensor:
    """`values` [B, N, C] with zeros at padded tokens."""
    if mask is None or mask.keys is None:
        return values
    return values * mask.keys[..., None].to(values.dtype)
