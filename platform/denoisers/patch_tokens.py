"""Images of any size and aspect ratio as padded or packed sequences of patches (FiTv2, arXiv 2410.13925).

The field of such a state is ``[B, N, C * P * P]``, one patch a token, with a mask of the real ones and positions
``[B, N, 2]``, row and column; `TokenEmbedding` and `TokenHead` read it as they read any set of tokens, and rotary
positions with two axes give it its plane.

Shape legend: B sequences, N tokens, C channels, Y rows and X columns of pixels, P patch size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..context import Context
from ..errors import ConfigurationError
from ..state import MaskSpec, State
from .patches import cut_patches, grid_size
from .positions import Position
from .tokens import TokenEmbedding


@dataclass(frozen=True)
class PatchTokens:
    """Images as sequences of patches.

    Args:
        tokens: [B, N, C * P * P], row-major, channels outermost within a patch; zero where padded.
        mask: [B, N] bool, True where a patch is real.
        positions: [B, N, 2] row and column, or [B, N, 3] with the number of the image in its sequence before them.
    """

    tokens: Tensor
    mask: Tensor
    positions: Tensor


def pad_images(images: Sequence[Tensor], patch: int, tokens: int | None = None) -> PatchTokens:
    """One image a sequence.

    Args:
        images: [C, Y, X] each, of like channels.
        patch: P, must divide every Y and X.
        tokens: N; None: those of the largest image.

    Raises:
        ConfigurationError: if the patch does not divide an image, or an image has more patches than `tokens`.
    """
    padded = pack_images([[image] for image in images], patch, tokens)
    return replace(padded, positions=padded.positions[..., 1:])


def pack_images(sequences: Sequence[Sequence[Tensor]], patch: int, tokens: int | None = None) -> PatchTokens:
    """Several images a sequence, one after the other; `PackedTokenEmbedding` keeps them apart.

    Args:
        sequences: images [C, Y, X] of each sequence.
        patch, tokens: as of `pad_images`.

    Raises:
        ConfigurationError: if the patch does not divide an image, or a sequence has more patches than `tokens`.
    """
    rows = [[cut_patches(image[None], patch)[0] for image in images] for images in sequences]
    lengths = [sum(len(part) for part in parts) for parts in rows]
    count = max(lengths) if tokens is None else tokens
    _check_room(lengths, count)
    first = rows[0][0]
    values = first.new_zeros(len(rows), count, first.shape[-1])
    positions = torch.zeros(len(rows), count, 3, dtype=torch.long, device=first.device)
    for row, (parts, images) in enumerate(zip(rows, sequences, strict=True)):
        values[row, : lengths[row]] = torch.cat(parts)
        positions[row, : lengths[row]] = torch.cat(
            [number_patches(grid_size(image, patch), number) for number, image in enumerate(images)]
        ).to(first.device)
    mask = torch.arange(count, device=first.device)[None] < torch.tensor(lengths, device=first.device)[:, None]
    return PatchTokens(values, mask, positions)


def lay_grids(grids: Sequence[tuple[int, int]], tokens: int | None = None) -> tuple[Tensor, Tensor]:
    """Mask [B, N] and positions [B, N, 2] of images with these grids, one a sequence, as `pad_images` gives them.

    Args:
        grids: rows and columns of patches of each image.
        tokens: N; None: those of the largest image.

    Raises:
        ConfigurationError: if a grid has more patches than `tokens`.
    """
    lengths = [rows * columns for rows, columns in grids]
    count = max(lengths) if tokens is None else tokens
    _check_room(lengths, count)
    index = torch.arange(count)[None]
    mask = index < torch.tensor(lengths)[:, None]
    columns = torch.tensor([columns for _, columns in grids])[:, None]
    positions = torch.stack([index // columns, index % columns], dim=-1)
    return mask, positions * mask[..., None]


def number_patches(grid: tuple[int, int], number: int = 0) -> Tensor:
    """[N, 3] number of the image, row and column of each patch of a grid, row-major."""
    rows, columns = (torch.arange(length) for length in grid)
    return torch.cartesian_prod(torch.tensor([number]), rows, columns)


def unpad_images(tokens: Tensor, grids: Sequence[tuple[int, int]], patch: int) -> list[Tensor]:
    """Images [C, Y, X] of the first tokens of each sequence.

    Args:
        tokens: [B, N, C * P * P].
        grids: rows and columns of patches of each image.
        patch: P.

    Raises:
        ConfigurationError: if a grid has more patches than there are tokens.
    """
    images = []
    for row, (height, width) in zip(tokens, grids, strict=True):
        if height * width > len(row):
            raise ConfigurationError(f"a grid of {height} x {width} patches exceeds {len(row)} tokens: name its own")
        cells = row[: height * width].reshape(height, width, -1, patch, patch)
        images.append(cells.permute(2, 0, 3, 1, 4).reshape(-1, height * patch, width * patch))
    return images


def _check_room(lengths: Sequence[int], tokens: int) -> None:
    if max(lengths) > tokens:
        raise ConfigurationError(f"{max(lengths)} patches exceed {tokens} tokens: shrink the image, or raise `tokens`")


class PackedTokenEmbedding(TokenEmbedding):
    """Tokens of several samples in one sequence, which see those of their own sample alone.

    Positions have the number of the sample in its sequence before their other axes; it never reaches the position
    embedding. Noise levels and labels of packed samples are given per token.

    Args:
        width, fields, channels, position, bias: see `TokenEmbedding`.
        samples: most samples in a sequence.
    """

    def __init__(
        self,
        width: int,
        fields: Mapping[str, int],
        channels: Mapping[str, int] | None = None,
        position: Callable[[int], Position] | None = None,
        bias: bool = True,
        samples: int = 8,
    ) -> None:
        super().__init__(width, fields, channels, position, bias)
        self.samples = samples

    def masks(self, x_t: State, ctx: Context) -> dict[str, MaskSpec]:
        """The stream's mask, with each sample as a group that sees itself."""
        groups = self._positions(ctx)[..., 0].long()
        table = torch.eye(self.samples, dtype=torch.bool, device=groups.device)
        return {**ctx.masks, "x": replace(ctx.masks.get("x", MaskSpec()), groups=groups, table=table)}

    def positions(self, x_t: State, ctx: Context) -> dict[str, Tensor]:
        """Positions within each sample."""
        return {**ctx.positions, "x": self._positions(ctx)[..., 1:]}

    def _positions(self, ctx: Context) -> Tensor:
        positions = ctx.positions.get("x")
        if positions is None or positions.ndim != 3 or positions.shape[-1] < 2:
            raise ConfigurationError(
                "packed tokens need positions [B, N, 1 + A] that begin with the number of the sample: see `pack_images`"
            )
        return positions
