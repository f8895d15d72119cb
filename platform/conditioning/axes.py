"""Condition axes: one label each, embedded as a vector, channels or tokens, with a learnt null for "not told".

Shape legend: B batch, N tokens, M condition tokens, D width, K features of a vector label.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn


class Axis(nn.Module, ABC):
    """Embeds one label; where the label is unknown, or dropped in training, the learnt null stands instead.

    Args:
        width: D.
        dropout: probability that training drops a known label, so that guidance has a null to compare with.
    """

    role: Literal["vector", "channels", "tokens"] = "vector"
    """What the embedding becomes: a vector [B, D] for modulation, channels [B, N, C] beside the state, or condition
    tokens [B, M, D] for attention."""

    def __init__(self, width: int, dropout: float = 0.1) -> None:
        super().__init__()
        if not 0.0 <= dropout <= 1.0:
            raise ValueError(f"an axis's dropout is a probability, not {dropout}: choose one from 0 to 1")
        self.dropout = dropout
        self.null = nn.Parameter(torch.randn(width) * 0.02)

    @abstractmethod
    def is_known(self, labels: Tensor) -> Tensor:
        """[B], [B, N] or [B, M] bool, or broadcastable to that, True where a label says something."""

    @abstractmethod
    def embed(self, labels: Tensor) -> Tensor:
        """[B, D], [B, N, C] or [B, M, D]; finite also where labels are unknown."""

    @abstractmethod
    def unknown(self, batch_size: int, device: torch.device) -> Tensor:
        """Labels [B, ...] that tell nothing."""

    def forward(self, labels: Tensor, keep: Tensor | None = None) -> Tensor:
        """Embedding of `labels`; `keep` [B] bool is False where a sample's label is to be dropped."""
        known = self.is_known(labels)
        if keep is not None:
            known = known & keep.reshape(keep.shape + (1,) * (known.ndim - 1))
        return torch.where(known[..., None], self.embed(labels), self.null)

    def real(self, labels: Tensor) -> Tensor | None:
        """[B, M] bool, which of an axis's condition tokens are real; None: all. Asked of axes that give tokens."""
        return None

    def prepare(self, mean: float, std: float) -> None:
        """Take the statistics of a scalar label; other axes have none."""
        return None


class CategoricalAxis(Axis):
    """A class label [B] long, 1..num_classes; 0 is unknown.

    Args:
        num_classes: number of classes beside the null.
    """

    def __init__(self, width: int, num_classes: int, dropout: float = 0.1) -> None:
        super().__init__(width, dropout)
        self.table = nn.Embedding(num_classes, width)
        nn.init.normal_(self.table.weight, std=0.02)

    def is_known(self, labels: Tensor) -> Tensor:
        """Whether the label says something."""
        return labels > 0

    def embed(self, labels: Tensor) -> Tensor:
        """Embedding of the label."""
        return self.table((labels - 1).clamp(min=0))

    def unknown(self, batch_size: int, device: torch.device) -> Tensor:
        """Labels that tell nothing."""
        return torch.zeros(batch_size, dtype=torch.long, device=device)


class TokenCategoricalAxis(CategoricalAxis):
    """A class label for every token [B, N] long, 1..num_classes; 0 is unknown.

    It enters as channels beside the state rather than by modulation, which would have to be computed per token.

    Args:
        channels: number of channels, as the denoiser's embedding declares them.
    """

    role = "channels"

    def __init__(self, width: int, num_classes: int, channels: int = 32, dropout: float = 0.1) -> None:
        super().__init__(channels, num_classes, dropout)

    def unknown(self, batch_size: int, device: torch.device) -> Tensor:
        """Labels that tell nothing."""
        return torch.zeros(batch_size, 1, dtype=torch.long, device=device)


class ScalarAxis(Axis):
    """A real number [B], standardised by the training split's statistics; NaN is unknown.

    Args:
        frequencies: number of sine and cosine pairs, of periods from 1/4 to 64 standard deviations.
    """

    mean: Tensor
    std: Tensor
    frequency: Tensor

    def __init__(self, width: int, dropout: float = 0.1, frequencies: int = 32) -> None:
        super().__init__(width, dropout)
        self.register_buffer("mean", torch.tensor(0.0))
        self.register_buffer("std", torch.tensor(1.0))
        periods = torch.logspace(math.log2(1 / 4), math.log2(64), frequencies, base=2.0)
        self.register_buffer("frequency", 2 * math.pi / periods, persistent=False)
        self.projection = nn.Sequential(nn.Linear(2 * frequencies + 1, width), nn.SiLU(), nn.Linear(width, width))

    def is_known(self, labels: Tensor) -> Tensor:
        """Whether the label says something."""
        return labels.isfinite()

    def embed(self, labels: Tensor) -> Tensor:
        """Embedding of the label."""
        standard = ((labels.nan_to_num(0.0, 0.0, 0.0) - self.mean) / self.std)[..., None]
        phase = standard * self.frequency
        return self.projection(torch.cat([standard, phase.sin(), phase.cos()], dim=-1))

    def unknown(self, batch_size: int, device: torch.device) -> Tensor:
        """Labels that tell nothing."""
        return torch.full((batch_size,), math.nan, device=device)

    def prepare(self, mean: float, std: float) -> None:
        """Standardise by these from now on."""
        self.mean.fill_(mean)
        self.std.fill_(max(std, 1e-6))


class VectorAxis(Axis):
    """A vector [B, K], such as element fractions; all zero is unknown.

    Args:
        features: K.
    """

    def __init__(self, width: int, features: int, dropout: float = 0.1) -> None:
        super().__init__(width, dropout)
        self.features = features
        self.projection = nn.Sequential(nn.Linear(features, width), nn.SiLU(), nn.Linear(width, width))

    def is_known(self, labels: Tensor) -> Tensor:
        """Whether the label says something."""
        return (labels != 0).any(dim=-1)

    def embed(self, labels: Tensor) -> Tensor:
        """Embedding of the label."""
        return self.projection(labels)

    def unknown(self, batch_size: int, device: torch.device) -> Tensor:
        """Labels that tell nothing."""
        return torch.zeros(batch_size, self.features, device=device)
