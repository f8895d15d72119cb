"""The axis of what a policy's denoiser reads raw, beside the values that it denoises.

Shape legend: B batch, ... the shape of one sample's values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from polydit.platform.conditioning import Axis
from polydit.platform.errors import ConfigurationError


class ChannelAxis(Axis):
    """Values [B, ...] as they are, for a denoiser whose embedding has weights of its own for them; NaN is unknown.

    So RDT reads the state with the weights that read the actions, and PAD the current frame beside the noised ones.
    Where they are unknown a learnt number stands in all places, at first 0.

    Args:
        width: supplied by the conditioner; these values have their own.
        shape: of one sample's values.
        dropout: probability that training hides the values of a sample.
    """

    role = "channels"

    def __init__(self, width: int, shape: Sequence[int], dropout: float = 0.0) -> None:
        super().__init__(1, dropout)
        self.shape = tuple(shape)
        nn.init.zeros_(self.null)

    def is_known(self, labels: Tensor) -> Tensor:
        """[B, 1, ...], whether all of a sample's values are numbers."""
        return labels.flatten(1).isfinite().all(dim=1).reshape(-1, *(1,) * (labels.ndim - 2))

    def embed(self, labels: Tensor) -> Tensor:
        """The values.

        Raises:
            ConfigurationError: if they have another shape.
        """
        if tuple(labels.shape[1:]) != self.shape:
            raise ConfigurationError(
                f"this policy was made for values of shape {self.shape} and was given {tuple(labels.shape[1:])}: "
                "set the axis's `shape` to that of the data"
            )
        return labels.nan_to_num(0.0, 0.0, 0.0).to(self.null.dtype)

    def unknown(self, batch_size: int, device: torch.device) -> Tensor:
        """NaN."""
        return torch.full((batch_size, *self.shape), math.nan, device=device)
