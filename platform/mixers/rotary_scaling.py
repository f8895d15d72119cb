"""Rotary positions over longer grids than those of training: how frequencies stretch.

Shape legend: A position axes, d width of the head given to an axis, F = d / 2 frequencies.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import ConfigurationError


class RotaryScaling(ABC):
    """Stretches the frequencies of each position axis by its own factor.

    Args:
        factors: s of each axis, length of the grid asked for over that of training; 1 stretches nothing. Height and
            width may differ.
        magnitude: what the attention logits are multiplied by.

    Raises:
        ConfigurationError: if a factor is below one.
    """

    def __init__(self, factors: Sequence[float], magnitude: float = 1.0) -> None:
        self.factors, self.magnitude = tuple(factors), magnitude
        if not self.factors or min(self.factors) < 1:
            raise ConfigurationError(
                f"rotary factors {self.factors} must each be 1 or more: grids shorter than in training need none"
            )

    @abstractmethod
    def frequencies(self, axis: int, frequencies: Tensor, base: float) -> Tensor:
        """Stretched frequencies [F] of an axis.

        Args:
            axis: its number.
            frequencies: [F] as in training, ``base^(-i / F)``, radians a step.
            base: of the embedding.
        """


class InterpolatedRotary(RotaryScaling):
    """Position interpolation (arXiv 2306.15595): all frequencies divided by s."""

    def frequencies(self, axis: int, frequencies: Tensor, base: float) -> Tensor:
        """All divided by s."""
        return frequencies / self.factors[axis]


class NTKRotary(RotaryScaling):
    """Base times s^(d / (d - 2)): the highest frequency stays, the lowest is divided by s."""

    def frequencies(self, axis: int, frequencies: Tensor, base: float) -> Tensor:
        """Of the larger base."""
        count = len(frequencies)
        if count < 2:
            return frequencies / self.factors[axis]
        larger = base * self.factors[axis] ** (count / (count - 1))
        return larger ** -(torch.arange(count, device=frequencies.device, dtype=frequencies.dtype) / count)


class YaRNRotary(RotaryScaling):
    """Frequencies by parts (YaRN, arXiv 2309.00071, section 3.2): slow ones divided by s, fast ones as they were.

    A frequency that turns fewer than `slow` times over the grid of training is divided by s, one that turns more than
    `fast` times stays, and in between the two are mixed.

    Args:
        factors: see `RotaryScaling`.
        trained: length of each axis in training, in tokens.
        slow, fast: numbers of turns.
        attention: whether logits are multiplied by (0.1 ln s + 1)², with s the largest factor; without, frequencies are
            stretched by parts and that is all.

    Raises:
        ConfigurationError: if factors and lengths differ in number, or `slow` is not below `fast`.
    """

    def __init__(
        self, factors: Sequence[float], trained: Sequence[int], slow: float = 1.0, fast: float = 32.0,
        attention: bool = True,
    ) -> None:
        super().__init__(factors)
        if len(trained) != len(self.factors) or not slow < fast:
            raise ConfigurationError(
                f"YaRN needs a trained length for each of {len(self.factors)} factors and slow below fast, not "
                f"{tuple(trained)}, {slow} and {fast}"
            )
        self.trained, self.slow, self.fast = tuple(trained), slow, fast
        self.magnitude = (0.1 * math.log(max(self.factors)) + 1) ** 2 if attention else 1.0

    def frequencies(self, axis: int, frequencies: Tensor, base: float) -> Tensor:
        """A mix of divided and kept."""
        turns = self.trained[axis] * frequencies / (2 * math.pi)
        kept = ((turns - self.slow) / (self.fast - self.slow)).clamp(0, 1)
        return frequencies * (kept + (1 - kept) / self.factors[axis])


def attention_magnitude(tokens: int, trained: int) -> float:
    """sqrt(ln N / ln N_train), a factor of the logits that keeps attention as sharp over N tokens as over N_train."""
    return math.sqrt(math.log(tokens) / math.log(trained))
