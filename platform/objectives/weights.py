"""Weights of denoising losses that change as training goes on."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LossWeight(nn.Module):
    """A weight that is 0 at first, jumps to `start`, and goes to `end` on a straight line.

    It counts the training batches itself and keeps the count in the checkpoint, so a resumed run goes on where it was;
    in validation it stands still.

    Args:
        end: the weight in the end; with the other arguments left out, the weight all along.
        start: the weight at the beginning of the line.
        steps: training batches from `start` to `end`; 0: a jump.
        delay: training batches of weight 0 before the line.

    Raises:
        ValueError: if a weight or a number of batches is negative.
    """

    batches: Tensor

    def __init__(self, end: float = 1.0, start: float = 0.0, steps: int = 0, delay: int = 0) -> None:
        super().__init__()
        if min(end, start, steps, delay) < 0:
            raise ValueError(f"end {end}, start {start}, steps {steps} and delay {delay} must be at least 0")
        self.start, self.end, self.steps, self.delay = start, end, steps, delay
        # not a whole number, which an average of weights over training would leave at 0
        self.register_buffer("batches", torch.tensor(0.0))

    def forward(self, loss: Tensor) -> Tensor:
        """`loss` times the weight of this batch."""
        since = (self.batches - self.delay).to(loss.dtype)
        share = (since / self.steps).clamp(max=1.0) if self.steps else torch.ones_like(since)
        weight = torch.where(since < 0, 0.0, self.start + (self.end - self.start) * share)
        if self.training:
            self.batches += 1
        return weight * loss
