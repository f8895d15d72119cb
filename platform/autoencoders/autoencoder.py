"""The contract of an autoencoder that a latent diffusion model stands on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Reconstruction:
    """An item and what the autoencoder made of it.

    Args:
        original: the held-out item.
        decoded: the same item, encoded to its mean and decoded.
    """

    original: Any
    decoded: Any


class Autoencoder(nn.Module, ABC):
    """Compresses a batch of the domain into latent tokens and back."""

    @abstractmethod
    def losses(self, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:
        """Named losses with the total under ``"loss"``."""

    @abstractmethod
    def reconstruct(self, batch: Any) -> list[Reconstruction]:
        """Every item of a batch beside its reconstruction from the posterior mean."""

    def prepare(self, datamodule: Any) -> None:
        """Take statistics from the training split."""
        return None
