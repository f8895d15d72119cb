"""Modulation: from one condition vector to shifts, scales and gates of every layer, in one matrix product.

Shape legend: B batch, N tokens, D width, K vectors of all layers together.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import ConfigurationError
from .initialisation import zero_linear

Vectors = tuple[Tensor, ...]
"""Modulation vectors of one layer, [B, 1, D] or [B, N, D] each."""


class Modulation(nn.Module):
    """Modulates a stack; built as ``Modulation(width, chunks, **options)``.

    Args:
        width: D.
        chunks: how many vectors each layer asks for, in order; the head comes last.
    """

    def __init__(self, width: int, chunks: Sequence[int]) -> None:
        super().__init__()
        self.width, self.chunks = width, tuple(chunks)

    @abstractmethod
    def forward(self, c: Tensor) -> list[Vectors]:
        """Vectors of every layer, for the condition `c` [B, D] or [B, N, D]."""

    @abstractmethod
    def cost(self) -> int:
        """Floating-point operations for one condition vector, two per multiply-add, products only."""

    def split(self, vectors: Tensor) -> list[Vectors]:
        """[B, K * D] or [B, N, K * D] as vectors by layer."""
        if vectors.ndim == 2:
            vectors = vectors[:, None]
        parts = iter(vectors.split(self.width, dim=-1))
        return [tuple(next(parts) for _ in range(count)) for count in self.chunks]


class AdaLNZero(Modulation):
    """Adaptive LayerNorm with gates that start at zero (arXiv 2212.09748, section 3.2), weights of its own per layer.

    Args:
        width: D; supplied by the denoiser.
        chunks: vectors per layer; supplied by the denoiser.
    """

    def __init__(self, width: int, chunks: Sequence[int]) -> None:
        super().__init__(width, chunks)
        self.linear = nn.Linear(width, sum(self.chunks) * width)
        self.initialise()

    def initialise(self) -> None:
        """Zero, so that every modulated block starts as the identity."""
        zero_linear(self.linear)

    def forward(self, c: Tensor) -> list[Vectors]:
        """Vectors of every layer from one product of the condition."""
        return self.split(self.linear(functional.silu(c)))

    def cost(self) -> int:
        """Operations per condition vector: 2 K D²."""
        return 2 * self.linear.weight.numel()


class AdaLNSingle(Modulation):
    """One projection shared by all layers plus a table of each layer's own (PixArt-alpha, arXiv 2310.00426, 2.3).

    Needs about K / max(chunks) times fewer weights than `AdaLNZero`. Starts at zero, as that does.

    Args:
        width: D; supplied by the denoiser.
        chunks: vectors per layer; supplied by the denoiser.
    """

    def __init__(self, width: int, chunks: Sequence[int]) -> None:
        super().__init__(width, chunks)
        self.shared = nn.Linear(width, max(self.chunks) * width)
        self.table = nn.Parameter(torch.zeros(sum(self.chunks) * width))
        self.initialise()

    def initialise(self) -> None:
        """Zero, so that every modulated block starts as the identity."""
        zero_linear(self.shared)
        nn.init.zeros_(self.table)

    def forward(self, c: Tensor) -> list[Vectors]:
        """Shared vectors plus each layer's row of the table."""
        shared = self.shared(functional.silu(c))
        joined = torch.cat([shared[..., : count * self.width] for count in self.chunks], dim=-1)
        return self.split(joined + self.table)

    def cost(self) -> int:
        """Operations per condition vector: 2 max(chunks) D²."""
        return 2 * self.shared.weight.numel()


class AdaLNLoRA(Modulation):
    """One full projection shared by all blocks plus one of low rank for each (FiTv2, arXiv 2410.13925, section 3.2).

    The head keeps a full projection of its own. A block has 7 D r weights instead of 6 D². Starts at zero.

    Args:
        width: D; supplied by the denoiser.
        chunks: vectors per layer; supplied by the denoiser.
        rank: r; None: D / 4, as published.

    Raises:
        ConfigurationError: if the rank is below one.
    """

    def __init__(self, width: int, chunks: Sequence[int], rank: int | None = None) -> None:
        super().__init__(width, chunks)
        self.rank = width // 4 if rank is None else rank
        if self.rank < 1:
            raise ConfigurationError(f"rank {self.rank} of a modulation of width {width} is below 1: raise it")
        blocks = self.chunks[:-1]
        self.shared = nn.Linear(width, max(blocks, default=0) * width)
        self.down = nn.Linear(width, len(blocks) * self.rank)
        self.up = nn.ModuleList([nn.Linear(self.rank, count * width) for count in blocks])
        self.head = nn.Linear(width, self.chunks[-1] * width)
        self.initialise()

    def initialise(self) -> None:
        """Zero but for the maps to low rank, so that every modulated block starts as the identity."""
        for linear in (self.shared, self.head, *self.up):
            zero_linear(cast(nn.Linear, linear))
        for part in self.down.weight.split(self.rank):  # as the maps of their own that they are
            nn.init.xavier_uniform_(part)

    def forward(self, c: Tensor) -> list[Vectors]:
        """Shared vectors plus each block's own, and the head's."""
        c = functional.silu(c)
        shared, low = self.shared(c), self.down(c).split(self.rank, dim=-1)
        joined = [
            shared[..., : count * self.width] + up(part)
            for count, up, part in zip(self.chunks[:-1], self.up, low, strict=True)
        ]
        return self.split(torch.cat([*joined, self.head(c)], dim=-1))

    def cost(self) -> int:
        """Operations per condition vector: those of every map."""
        maps = (self.shared, self.down, self.head, *self.up)
        return 2 * sum(cast(nn.Linear, linear).weight.numel() for linear in maps)
