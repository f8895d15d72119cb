"""Embedding and head of images, cut into square patches.

Shape legend: B batch, C channels, Y rows, X columns, P patch size, N = (Y / P)(X / P) tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from ..context import Context
from ..errors import ConfigurationError
from ..norms import LayerNorm
from ..state import Condition, State, Streams
from .base import Embedding, Head, clear_padding
from .blocks import modulate
from .initialisation import zero_linear
from .positions import Position, SinCosPosition
from .tokens import check_channels


def image_position(width: int) -> Position:
    """Sines and cosines of column, then row, as in the published DiT."""
    return SinCosPosition(width, axes=(1, 0))


class PatchEmbedding(Embedding):
    """Square patches of an image field through one linear map, in row-major order.

    Args:
        width: D; supplied by the denoiser.
        field: the image field [B, C, Y, X].
        in_channels: C.
        patch: P, must divide Y and X.
        channels: condition channel -> number of channels, each [B, C', Y, X]; one left out counts as zeros.
        position: builds the position embedding from the width; it is given rows and columns [1, N, 2].
    """

    def __init__(
        self,
        width: int,
        field: str = "image",
        in_channels: int = 4,
        patch: int = 2,
        channels: Mapping[str, int] | None = None,
        position: Callable[[int], Position] | None = image_position,
    ) -> None:
        super().__init__()
        self.field, self.patch, self.channels = field, patch, dict(channels or {})
        self.linear = nn.Linear((in_channels + sum(self.channels.values())) * patch**2, width)
        self.position = position(width) if position else None

    @property
    def streams(self) -> dict[str, str]:
        """The stream ``x`` with the mask and positions of the image."""
        return {"x": self.field}

    def positions(self, x_t: State, ctx: Context) -> dict[str, Tensor]:
        """Row and column of every patch, unless the context has positions of its own."""
        if "x" in ctx.positions:
            return ctx.positions
        rows, columns = grid_size(x_t[self.field], self.patch)
        device = x_t[self.field].device
        grid = torch.cartesian_prod(torch.arange(rows, device=device), torch.arange(columns, device=device))
        return {**ctx.positions, "x": grid[None]}

    def forward(self, x_t: State, cond: Condition, ctx: Context) -> Streams:
        """The stream ``x`` [B, N, D].

        Raises:
            ConfigurationError: if the patch does not divide the image, or a channel of the condition is not read here.
        """
        image = x_t[self.field]
        check_channels(cond, self.channels)
        parts = [image]
        for axis, count in self.channels.items():
            given = cond.channels.get(axis)
            parts.append(image.new_zeros(image.shape[0], count, *image.shape[2:]) if given is None else given)
        h = self.linear(cut_patches(torch.cat(parts, dim=1), self.patch).to(self.linear.weight.dtype))
        if self.position is not None:
            h = h + self.position(h, ctx.positions["x"])
        return {"x": h}

    def cost(self, tokens: int) -> int:
        """Operations of the linear map."""
        return 2 * tokens * self.linear.weight.numel()


class PatchHead(Head):
    """Norm, modulation and one linear map from each token to its patch; starts at zero.

    Args:
        width: D; supplied by the denoiser.
        field: the image field.
        out_channels: predicted channels; twice the image's where the variance is learnt too.
        patch: P, as in the embedding.
        norm: builds the norm from the width and whether it is affine.
        modulated: whether two vectors of the modulation shift and scale the normed tokens; without, the norm is affine.
    """

    def __init__(
        self,
        width: int,
        field: str = "image",
        out_channels: int = 4,
        patch: int = 2,
        norm: Callable[[int, bool], nn.Module] = LayerNorm,
        modulated: bool = True,
    ) -> None:
        super().__init__()
        self.field, self.patch, self.chunks = field, patch, 2 if modulated else 0
        self.norm = norm(width, not modulated)
        self.linear = nn.Linear(width, out_channels * patch**2)
        self.initialise()

    def initialise(self) -> None:
        """Zero, so that the output starts at zero."""
        zero_linear(self.linear)

    def forward(self, h: Streams, modulation: Sequence[Tensor], x_t: State, ctx: Context) -> State:
        """The predicted image [B, C, Y, X]."""
        x = self.norm(h["x"])
        if self.chunks:
            x = modulate(x, *modulation)
        output = clear_padding(self.linear(x), ctx.masks.get("x"))
        return {self.field: join_patches(output, grid_size(x_t[self.field], self.patch), self.patch)}

    def cost(self, tokens: int) -> int:
        """Operations of the linear map."""
        return 2 * tokens * self.linear.weight.numel()


def grid_size(image: Tensor, patch: int) -> tuple[int, int]:
    """Rows and columns of patches of an image [B, C, Y, X].

    Raises:
        ConfigurationError: if the patch does not divide the image.
    """
    rows, columns = image.shape[-2:]
    if rows % patch or columns % patch:
        raise ConfigurationError(
            f"patches of {patch} x {patch} do not tile an image of {rows} x {columns}: "
            "pad or resize it, or choose a divisor of both"
        )
    return rows // patch, columns // patch


def cut_patches(image: Tensor, patch: int) -> Tensor:
    """Patches [B, N, C * P * P] of an image [B, C, Y, X], row-major, channels outermost within a patch."""
    rows, columns = grid_size(image, patch)
    cells = image.reshape(image.shape[0], -1, rows, patch, columns, patch)
    return cells.permute(0, 2, 4, 1, 3, 5).reshape(image.shape[0], rows * columns, -1)


def join_patches(patches: Tensor, grid: tuple[int, int], patch: int) -> Tensor:
    """Image [B, C, Y, X] of patches [B, N, P * P * C], row-major, channels innermost within a patch."""
    rows, columns = grid
    cells = patches.reshape(patches.shape[0], rows, columns, patch, patch, -1)
    return cells.permute(0, 5, 1, 3, 2, 4).reshape(patches.shape[0], -1, rows * patch, columns * patch)
