"""What learns beside a frozen block of AV-DiT: bottlenecks, attention along time, and what a fusion needs.

Shape legend: B clips, N tokens, D width, R rank of an adapter, H heads.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from polydit.platform.denoisers.initialisation import zero_linear
from polydit.platform.mixers import Attention, RotaryPosition
from polydit.platform.norms import LayerNorm

from .bridgedit import SOUND, VIDEO

FLATTEST = 64.0
"""Ratio of the steepest head's slope to that of the flattest, before training."""


class Adapter(nn.Module):
    """A bottleneck beside a frozen part; its output starts at zero.

    Args:
        width: D.
        rank: R.
    """

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.squeeze, self.expand = nn.Linear(width, rank), nn.Linear(rank, width)

    def initialise(self) -> None:
        """Zero what it adds."""
        zero_linear(self.expand)

    def forward(self, x: Tensor) -> Tensor:
        """What is added to the frozen part's output for its input `x` [..., D]."""
        return self.expand(functional.gelu(self.squeeze(x)))

    def cost(self, tokens: int) -> int:
        """Operations of both maps."""
        return 4 * tokens * self.squeeze.weight.numel()


class Additions(nn.Module):
    """All that learns beside one frozen block.

    Args:
        width: D.
        rank: R.
        heads: of the temporal attention.
        fusion: whether frames and sound meet after the block.
    """

    def __init__(self, width: int, rank: int, heads: int | None, fusion: bool) -> None:
        super().__init__()
        self.temporal_norm = LayerNorm(width, True)
        self.temporal = Attention(width, heads, rotary=RotaryPosition)
        self.mixers = nn.ModuleDict({name: Adapter(width, rank) for name in (VIDEO, SOUND)})
        self.feedforwards = nn.ModuleDict({name: Adapter(width, rank) for name in (VIDEO, SOUND)})
        self.fusion = Adapter(width, rank) if fusion else None
        gated = (VIDEO, SOUND) if fusion else ()
        self.gates = nn.ParameterDict({name: nn.Parameter(torch.zeros(width)) for name in gated})

    def initialise(self) -> None:
        """Zero what the temporal attention adds; the gates are zero."""
        zero_linear(self.temporal.output)


class MomentBias(nn.Module):
    """What each head takes off its logits for every second that two tokens stand apart (after ALiBi, arXiv 2108.12409).

    Tokens of one frame stand at one second, so that what a trained attention sees within an image is as it was. Slopes
    learn, and start evenly spread in their logarithm: some heads see the moment, others the clip.

    Args:
        heads: H.
        unit: seconds over which the attention of the steepest head falls by a factor of e at first.
    """

    def __init__(self, heads: int, unit: float) -> None:
        super().__init__()
        self.unit = unit
        self.log_slopes = nn.Parameter(-torch.linspace(0, math.log(FLATTEST), heads))

    def forward(self, seconds: Tensor) -> Tensor:
        """Bias [B, H, N, N] of tokens at these seconds [B, N]."""
        apart = (seconds[:, None, :, None] - seconds[:, None, None]).abs() / self.unit
        return -self.log_slopes.exp()[:, None, None] * apart
