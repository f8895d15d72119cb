"""Priors: what noise a field starts from, made from standard normal numbers.

Shape legend: B batch, N tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from ..state import expand_time


class Prior(ABC):
    """Turns standard normal numbers into a field's noise."""

    @abstractmethod
    def __call__(self, noise: Tensor, mask: Tensor | None = None) -> Tensor:
        """Noise [B, N, ...] of the prior, zero where `mask` [B, N] is False, from standard normal `noise`."""


class GaussianPrior(Prior):
    """Independent normal numbers."""

    def __call__(self, noise: Tensor, mask: Tensor | None = None) -> Tensor:
        """The noise itself, masked."""
        return noise if mask is None else noise * expand_time(mask, noise).to(noise.dtype)


class CentredGaussianPrior(Prior):
    """Normal numbers less their mean over a sample's real tokens, for fields without a preferred origin.

    Args:
        count_padding: take the mean over padded tokens too, as ADiT's public code does; n real among N tokens then keep
            a mean of variance 1/n - 1/N. Needs noise drawn for the padding as well; only for comparison with it.
    """

    def __init__(self, *, count_padding: bool = False) -> None:
        self.count_padding = count_padding

    def __call__(self, noise: Tensor, mask: Tensor | None = None) -> Tensor:
        """Noise centred over axis 1, masked."""
        if mask is None:
            return noise - noise.mean(1, keepdim=True)
        real = expand_time(mask, noise).to(noise.dtype)
        if self.count_padding:
            mean = noise.mean(1, keepdim=True)
        else:
            mean = (noise * real).sum(1, keepdim=True) / real.sum(1, keepdim=True).clamp(min=1)
        return (noise - mean) * real
