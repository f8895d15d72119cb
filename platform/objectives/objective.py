"""The contract of an objective, and the one that collects what blocks leave behind."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from ..context import Context
from ..state import Layout, State


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
    def loss(self, prediction: State, x_t: State, x0: State, t: Tensor, layout: Layout, context: Context) -> Tensor:
        """Scalar loss of one training batch, read after the denoiser ran."""


class SideLoss(Objective):
    """Mean of the side losses that blocks left in the context under one name, such as a router's load balance.

    Args:
        name: the name given to ``context.add_loss``.
    """

    def __init__(self, name: str, weight: float = 1.0) -> None:
        super().__init__(weight)
        self.name = name

    def loss(self, prediction: State, x_t: State, x0: State, t: Tensor, layout: Layout, context: Context) -> Tensor:
        """Mean of what was left under the name.

        Raises:
            ValueError: if no block left any.
        """
        if self.name not in context.losses:
            raise ValueError(
                f"no block left a side loss {self.name!r}; left were {sorted(context.losses)}: "
                "name one of these, or drop the objective"
            )
        return torch.stack(context.losses[self.name]).mean()
