"""The axis of H&E: an image as tokens for every branch.

Shape legend: B images, Y, X height and width of an image, s side of a window, W windows of an image, P patch size,
N = (s / P)² tokens of a window, D width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from polydit.platform.conditioning import Axis
from polydit.platform.context import Context
from polydit.platform.denoisers import Position, TransformerStack
from polydit.platform.denoisers.patches import cut_patches, image_position
from polydit.platform.errors import ConfigurationError
from polydit.platform.feedforwards import FeedForward
from polydit.platform.mixers import Attention, TokenMixer

from .windows import Windows


class TissueAxis(Axis):
    """An H&E image [B, 3, Y, X] uint8 through a plain transformer without time: tokens [B, W N, D], window by window.

    This is the encoder that both tasks share. It stands in the conditioner and not in the denoiser because it does not
    depend on the noise: sampling runs it once, not once a step, and guidance finds its null here. An image of the size
    of a window gives N tokens; a larger one those of each of its windows, which the denoiser takes apart again.

    Args:
        width: D.
        tile: s, of the tiles of training.
        patch: P, that of the denoiser; must divide the tile.
        depth: number of blocks.
        mixer: builds the token mixer from the width; None: `Attention`.
        feedforward: builds the feed-forward from the width; None: `MLP`.
        overlap: of windows, that of the denoiser.
        dropout: probability that training hides the tissue, so that guidance has a null to compare with.
        position: builds the position embedding from the width.
        chunk: most windows encoded at once in sampling.

    Raises:
        ConfigurationError: if the patch does not divide the tile.
    """

    role = "tokens"

    def __init__(
        self,
        width: int,
        tile: int = 256,
        patch: int = 8,
        depth: int = 6,
        mixer: Callable[[int], TokenMixer] | None = None,
        feedforward: Callable[[int], FeedForward] | None = None,
        overlap: float = 0.5,
        dropout: float = 0.0,
        position: Callable[[int], Position] = image_position,
        chunk: int = 64,
    ) -> None:
        super().__init__(width, dropout)
        if tile % patch:
            raise ConfigurationError(f"patches of {patch} do not tile windows of {tile}: choose a divisor")
        self.windows, self.patch, self.chunk = Windows(tile, overlap), patch, chunk
        self.linear = nn.Linear(3 * patch**2, width)
        self.position = position(width)
        self.stack = TransformerStack(width, depth, mixer or Attention, feedforward, name="tissue")
        side = tile // patch
        grid = torch.cartesian_prod(torch.arange(side), torch.arange(side))[None]
        self.register_buffer("grid", grid, persistent=False)

    def is_known(self, labels: Tensor) -> Tensor:
        """[B, 1], whether there is an image of numbers."""
        return labels.flatten(1).float().isfinite().all(dim=1, keepdim=True)

    def embed(self, labels: Tensor) -> Tensor:
        """[B, W N, D]."""
        if labels.shape[-2:] == (self.windows.side, self.windows.side):
            return self._encode(labels)
        places = self.windows.places(*labels.shape[-2:])
        # gradients of hundreds of windows are never wanted at once: training is on tiles
        parts = [
            self._encode(self.windows.cut(labels, places[start : start + self.chunk])).unflatten(0, (len(labels), -1))
            for start in range(0, len(places), self.chunk)
        ]
        return torch.cat(parts, dim=1).flatten(1, 2)

    def unknown(self, batch_size: int, device: torch.device) -> Tensor:
        """A tile of NaN."""
        return torch.full((batch_size, 3, self.windows.side, self.windows.side), math.nan, device=device)

    def cost(self) -> int:
        """Floating-point operations of one window, two per multiply-add, products only."""
        tokens = (self.windows.side // self.patch) ** 2
        return 2 * tokens * self.linear.weight.numel() + self.stack.cost(tokens)

    def _encode(self, tiles: Tensor) -> Tensor:
        values = tiles.to(self.linear.weight.dtype).nan_to_num(0.0) / 127.5 - 1
        h = self.linear(cut_patches(values, self.patch))
        h = h + self.position(h, cast(Tensor, self.grid))
        return self.stack(h, Context(positions={"x": cast(Tensor, self.grid)}))
