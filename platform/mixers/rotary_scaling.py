"""Rotary positions over longer grids than those of training: how frequencies stretch.

Shape legend: B batch, N tokens, A position axes, d width of the head given to an axis, F = d / 2 frequencies.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import ConfigurationError

Factor = float | Tensor
"""s of an axis: one for all samples, or [B, 1, 1, 1], one for each."""


class RotaryScaling(ABC):
    """Stretches the frequencies of each position axis by its own factor.

    Args:
        factors: s of each axis, length of the grid asked for over that of training; 1 stretches nothing. Height and
            width may differ. None: each sample's own, its length over `trained` where that is more than 1, so that
            samples of any size may stand in one batch and those no larger than in training stay as they are.
        trained: length of each axis in training, in tokens: the longest that was seen. Wanted where factors are None.

    Raises:
        ConfigurationError: if a factor is below one, or neither factors nor lengths are given.
    """

    def __init__(self, factors: Sequence[float] | None = None, trained: Sequence[int] = ()) -> None:
        self.factors, self.trained = None if factors is None else tuple(factors), tuple(trained)
        if self.factors is not None and (not self.factors or min(self.factors) < 1):
            raise ConfigurationError(
                f"rotary factors {self.factors} must each be 1 or more: grids shorter than in training need none"
            )
        if self.factors is None and (not self.trained or min(self.trained) < 1):
            raise ConfigurationError(
                f"a rotary scaling without factors needs the positive length of each axis in training, not "
                f"{self.trained}: set `trained`"
            )

    @property
    def axes(self) -> int:
        """Number A of axes."""
        return len(self.trained if self.factors is None else self.factors)

    def measure(self, positions: Tensor, real: Tensor | None = None) -> tuple[Factor, ...]:
        """Factor of each axis for samples at these positions [B, N, A], which begin at 0.

        Args:
            positions: of the tokens.
            real: [B, N] bool, which of them count; None: all.
        """
        if self.factors is not None:
            return self.factors
        if real is not None:
            positions = torch.where(real[..., None], positions, 0)
        lengths = positions.amax(dim=1).float() + 1
        factors = (lengths / lengths.new_tensor(self.trained)).clamp(min=1)
        return tuple(factor[:, None, None, None] for factor in factors.unbind(dim=-1))

    def magnitude(self, factors: Sequence[Factor]) -> Factor:
        """What the attention logits are multiplied by; 1 unless a rule says otherwise."""
        return 1.0

    @abstractmethod
    def frequencies(self, axis: int, frequencies: Tensor, base: float, factor: Factor) -> Tensor:
        """Stretched frequencies [F], or [B, 1, 1, F], of an axis.

        Args:
            axis: its number.
            frequencies: [F] as in training, ``base^(-i / F)``, radians a step.
            base: of the embedding.
            factor: of the axis.
        """


class InterpolatedRotary(RotaryScaling):
    """Position interpolation (arXiv 2306.15595): all frequencies divided by s."""

    def frequencies(self, axis: int, frequencies: Tensor, base: float, factor: Factor) -> Tensor:
        """All divided by s."""
        return frequencies / factor


class NTKRotary(RotaryScaling):
    """Base times s^(d / (d - 2)): the highest frequency stays, the lowest is divided by s."""

    def frequencies(self, axis: int, frequencies: Tensor, base: float, factor: Factor) -> Tensor:
        """Of the larger base."""
        count = len(frequencies)
        if count < 2:
            return frequencies / factor
        larger = base * factor ** (count / (count - 1))
        return larger ** -(torch.arange(count, device=frequencies.device, dtype=frequencies.dtype) / count)


class YaRNRotary(RotaryScaling):
    """Frequencies by parts (YaRN, arXiv 2309.00071, section 3.2): slow ones divided by s, fast ones as they were.

    A frequency that turns fewer than `slow` times over the grid of training is divided by s, one that turns more than
    `fast` times stays, and in between the two are mixed.

    Args:
        factors: see `RotaryScaling`.
        trained: length of each axis in training, in tokens, which this rule always wants.
        slow, fast: numbers of turns.
        attention: whether logits are multiplied by (0.1 ln s + 1)², with s the largest factor; without, frequencies are
            stretched by parts and that is all.

    Raises:
        ConfigurationError: if factors and lengths differ in number, or `slow` is not below `fast`.
    """

    def __init__(
        self, factors: Sequence[float] | None, trained: Sequence[int], slow: float = 1.0, fast: float = 32.0,
        attention: bool = True,
    ) -> None:
        super().__init__(factors, trained)
        if len(self.trained) != self.axes or not slow < fast:
            raise ConfigurationError(
                f"YaRN needs a trained length for each of {self.axes} factors and slow below fast, not "
                f"{self.trained}, {slow} and {fast}"
            )
        self.slow, self.fast, self.attention = slow, fast, attention

    def magnitude(self, factors: Sequence[Factor]) -> Factor:
        """(0.1 ln s + 1)² of the largest factor."""
        if not self.attention:
            return 1.0
        largest = torch.stack([torch.as_tensor(s) for s in factors]).amax(dim=0)
        return (0.1 * largest.log() + 1) ** 2

    def frequencies(self, axis: int, frequencies: Tensor, base: float, factor: Factor) -> Tensor:
        """A mix of divided and kept."""
        turns = self.trained[axis] * frequencies / (2 * math.pi)
        kept = ((turns - self.slow) / (self.fast - self.slow)).clamp(0, 1)
        return frequencies * (kept + (1 - kept) / factor)


def attention_magnitude(tokens: int, trained: int) -> float:
    """sqrt(ln N / ln N_train), a factor of the logits that keeps attention as sharp over N tokens as over N_train."""
    return math.sqrt(math.log(tokens) / math.log(trained))
