"""How fractional coordinates enter and leave the network.

A fractional coordinate lives on a circle: 0.99 and 0.01 are near. A decoder of plain numbers under a loss measured
around the circle can settle on different windings in different places and is then torn between them; under a plain
loss, near places look far apart. Points on the unit circle have neither fault.

Shape legend: any leading dimensions, then 3 axes.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

TURN = 2 * math.pi


class FractionalCode(ABC):
    """Between fractional coordinates [..., 3] and the numbers that the network reads and writes."""

    channels: int

    @abstractmethod
    def encode(self, fractional: Tensor) -> Tensor:
        """What the network reads: [..., channels]."""

    @abstractmethod
    def decode(self, output: Tensor) -> Tensor:
        """Fractional coordinates [..., 3] of what the network wrote."""

    @abstractmethod
    def error(self, output: Tensor, fractional: Tensor) -> Tensor:
        """Squared error [...] of what the network wrote, mean over axes, in units of the cell."""


class CircleCode(FractionalCode):
    """Cosine and sine of each coordinate; the error is the squared chord, which for small errors is the squared arc."""

    channels = 6

    def encode(self, fractional: Tensor) -> Tensor:
        """Points on three unit circles."""
        return torch.cat([(TURN * fractional).cos(), (TURN * fractional).sin()], dim=-1)

    def decode(self, output: Tensor) -> Tensor:
        """Angles of the points, in [0, 1)."""
        cosine, sine = output.chunk(2, dim=-1)
        return (torch.atan2(sine, cosine) / TURN) % 1.0

    def error(self, output: Tensor, fractional: Tensor) -> Tensor:
        """Squared distance from the true point over (2 pi)^2."""
        return (output - self.encode(fractional)).square().sum(dim=-1) / (3 * TURN**2)


class PlainCode(FractionalCode):
    """The published one: the numbers themselves, and an error by which 0.01 and 0.99 are 0.98 apart."""

    channels = 3

    def encode(self, fractional: Tensor) -> Tensor:
        """The coordinates."""
        return fractional

    def decode(self, output: Tensor) -> Tensor:
        """The output wrapped into [0, 1)."""
        return output % 1.0

    def error(self, output: Tensor, fractional: Tensor) -> Tensor:
        """Mean squared difference."""
        return (output - fractional).square().mean(dim=-1)
