"""The axis of PAD's conditioner that is its own: an instruction as one vector.

Shape legend: B batch, M words, K features of an encoded word, D width.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from .observations import InstructionAxis


class InstructionVectorAxis(InstructionAxis):
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

    role: Literal["vector", "channels", "tokens"] = "vector"

    def __init__(self, width: int, buckets: int = 4096, features: int = 0, dropout: float = 0.1) -> None:
        super().__init__(width, buckets, features, pooled=True, dropout=dropout)
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def is_known(self, labels: Tensor) -> Tensor:
        """[B], whether there is a word."""
        return super().is_known(labels)[:, 0]

    def embed(self, labels: Tensor) -> Tensor:
        """[B, D]."""
        return super().embed(labels)[:, 0]
