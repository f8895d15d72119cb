"""The axis of PAD's conditioner that is its own: an instruction as one vector.

Shape legend: B batch, M words, K features of an encoded word, D width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from polydit.platform.conditioning import Axis
from polydit.platform.errors import ConfigurationError


class InstructionVectorAxis(Axis):
    """An instruction as the mean of its words: labels [B, M] through an embedding, or encoded [B, M, K], a linear map.

    It starts at zero, so that a denoiser that was warm-started from one without language does at first what that did.
    Published: the pooled vector of CLIP's text encoder, K = 512 and M = 1.

    Args:
        buckets: number of word embeddings, as `WordHashes` counts them; 0 where words come encoded.
        features: K of encoded words; 0 where words come as labels. Words of NaN are none.
        dropout: probability that training withholds the instruction.

    Raises:
        ConfigurationError: if not exactly one of `buckets` and `features` is given.
    """

    def __init__(self, width: int, buckets: int = 4096, features: int = 0, dropout: float = 0.1) -> None:
        super().__init__(width, dropout)
        if (buckets > 0) == (features > 0):
            raise ConfigurationError(
                f"buckets {buckets} and features {features}: give the one that is as the instruction's labels are"
            )
        self.features = features
        self.table = nn.Embedding(buckets, width) if buckets else None
        self.projection = nn.Linear(features, width) if features else None
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def is_known(self, labels: Tensor) -> Tensor:
        """[B], whether there is a word."""
        return self._words(labels).any(dim=1)

    def embed(self, labels: Tensor) -> Tensor:
        """[B, D]."""
        words = self._words(labels)[..., None]
        if self.table is not None:
            values = self.table((labels - 1).clamp(min=0))
        else:
            assert self.projection is not None
            values = self.projection(labels.nan_to_num(0.0))
        return (values * words).sum(dim=1) / words.sum(dim=1).clamp(min=1)

    def unknown(self, batch_size: int, device: torch.device) -> Tensor:
        """A sentence without words."""
        if self.table is not None:
            return torch.zeros(batch_size, 1, dtype=torch.long, device=device)
        return torch.full((batch_size, 1, self.features), math.nan, device=device)

    def _words(self, labels: Tensor) -> Tensor:
        return labels > 0 if self.table is not None else labels.isfinite().all(dim=-1)
