"""The contract of an objective, and the one that collects what blocks leave behind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..context import Context
from ..processes import Process
from ..state import Layout, State, Time, time_of


@dataclass(frozen=True)
class Denoising:
    """One denoising of a training batch, as objectives read it after the denoiser ran.

    Args:
        prediction: what the denoiser said, field -> [B, ...].
        x_t: what it was given, before its process scaled it.
        x0: the truth.
        t: [B] noise levels, or one a field.
        layout: masks and labels of the batch.
        context: taps and side losses of the pass.
        processes: field -> its noising law.
    """

    prediction: State
    x_t: State
    x0: State
    t: Time
    layout: Layout
    context: Context
    processes: Mapping[str, Process]

    def clean_estimate(self, field: str) -> Tensor:
        """[B, ...] the clean field that the prediction amounts to, in the type of the field; differentiable."""
        x_t = self.x_t[field]
        return self.processes[field].convert(self.prediction[field].to(x_t.dtype), x_t, self.time(field), to="x0")

    def time(self, field: str) -> Tensor:
        """[B] noise level of the field."""
        return time_of(self.t, field)

    def mask(self, field: str) -> Tensor | None:
        """[B, N] bool, which tokens of the field are real; None: all."""
        return self.layout.masks.get(field)


class Objective(nn.Module, ABC):
    """A named loss added to the denoising loss.

    Args:
        weight: factor in the total.
    """

    wanted_taps: frozenset[str] = frozenset()
    """Intermediate features to keep in ``context.taps``."""

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    @abstractmethod
    def loss(self, denoising: Denoising) -> Tensor:
        """Scalar loss of one training batch."""


class SideLoss(Objective):
    """Mean of the side losses that blocks left in the context under one name, such as a router's load balance.

    Args:
        name: the name given to ``context.add_loss``.
    """

    def __init__(self, name: str, weight: float = 1.0) -> None:
        super().__init__(weight)
        self.name = name

    def loss(self, denoising: Denoising) -> Tensor:
        """Mean of what was left under the name.

        Raises:
            ValueError: if no block left any.
        """
        left = denoising.context.losses
        if self.name not in left:
            raise ValueError(
                f"no block left a side loss {self.name!r}; left were {sorted(left)}: "
                "name one of these, or drop the objective"
            )
        return torch.stack(left[self.name]).mean()
