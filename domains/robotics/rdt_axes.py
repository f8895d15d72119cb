"""Axes of RDT's conditioner: frozen encoders' tokens through an adaptor, and the control frequency.

Shape legend: B batch, M tokens, K features of an encoded token, D width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from polydit.platform.conditioning import Axis
from polydit.platform.denoisers import SinCosPosition, TimeEmbedding
from polydit.platform.errors import ConfigurationError


class EncodedTokensAxis(Axis):
    """Tokens [B, M, K] of a frozen encoder through two linear maps, with learnt places; tokens of NaN are none.

    The table of places starts as sines and cosines of the axes of `grid`, so that tokens are told apart from the first
    step. Published: words of T5 (4096 features, up to 1024 tokens), and patches of SigLIP (1152 features, 2 time steps
    of 3 cameras of 729 patches, of which the first two axes are coded).

    Args:
        features: K.
        grid: sizes of the axes that tokens are laid out along, the last one fastest; M is at most their product.
        coded: how many of the axes, from the first, the table distinguishes at the start; None: all.
        dropout: probability that training withholds all of a sample's tokens.
    """

    role = "tokens"

    def __init__(
        self, width: int, features: int, grid: Sequence[int] = (1024,), coded: int | None = None, dropout: float = 0.1
    ) -> None:
        super().__init__(width, dropout)
        self.features = features
        self.adaptor = nn.Sequential(nn.Linear(features, width), nn.GELU("tanh"), nn.Linear(width, width))
        places = torch.cartesian_prod(*(torch.arange(size) for size in grid)).reshape(math.prod(grid), len(grid))
        self.table = nn.Parameter(sincos_table(places[:, :coded], width))

    def is_known(self, labels: Tensor) -> Tensor:
        """[B, M], where there is a token."""
        return labels.isfinite().all(dim=-1)

    def real(self, labels: Tensor) -> Tensor | None:
        """[B, M], where there is a token; the first place of a sample without any is, and holds the null."""
        found = self.is_known(labels)
        if found.device.type == "cpu" and bool(found.all()):  # without a mask attention is faster
            return None
        found[:, 0] = True
        return found

    def embed(self, labels: Tensor) -> Tensor:
        """[B, M, D].

        Raises:
            ConfigurationError: if there are more tokens than places, or they have other features.
        """
        count, features = labels.shape[1:]
        if count > len(self.table) or features != self.features:
            raise ConfigurationError(
                f"this policy was made for up to {len(self.table)} tokens of {self.features} features and was given "
                f"{count} of {features}: set the axis's `grid` and `features` to those of the encoder"
            )
        return self.adaptor(labels.nan_to_num(0.0, 0.0, 0.0)) + self.table[:count]

    def unknown(self, batch_size: int, device: torch.device) -> Tensor:
        """One token of NaN."""
        return torch.full((batch_size, 1, self.features), math.nan, device=device)


class FrequencyAxis(Axis):
    """The control frequency [B] in Hz, embedded as the noise level is but with its own weights; 0 or NaN is unknown.

    Args:
        frequencies: length of the sinusoid.
        dropout: probability that training withholds it.
    """

    def __init__(self, width: int, frequencies: int = 256, dropout: float = 0.1) -> None:
        super().__init__(width, dropout)
        self.embedding = TimeEmbedding(width, frequencies, scale=1.0)

    def is_known(self, labels: Tensor) -> Tensor:
        """Whether the frequency is above 0."""
        return labels > 0

    def embed(self, labels: Tensor) -> Tensor:
        """[B, D]."""
        return self.embedding(labels.nan_to_num(0.0))

    def unknown(self, batch_size: int, device: torch.device) -> Tensor:
        """0 Hz."""
        return torch.zeros(batch_size, device=device)


def sincos_table(places: Tensor, width: int) -> Tensor:
    """Sines and cosines [N, D] of places [N, A], an equal part of the width for each axis."""
    places = places.float()
    return SinCosPosition(width)(places, places[None])[0]
