"""How weights start: one rule for all linears, and each module's own exceptions."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import nn


@runtime_checkable
class HasOwnStart(Protocol):
    """A module whose weights do not follow the common rule."""

    def initialise(self) -> None:
        """Set them."""
        ...


def initialise_weights(root: nn.Module) -> None:
    """Xavier-uniform linears with zero biases, then every module's own `initialise`, children before parents.

    The rule of the published DiT (arXiv 2212.09748): with it, modulation and head start at zero, so that every block is
    the identity and the output is zero until the first step of training.
    """
    for module in root.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in reversed(list(root.modules())):
        if isinstance(module, HasOwnStart):
            module.initialise()


def zero_linear(linear: nn.Linear) -> None:
    """Set weight and bias of `linear` to zero."""
    nn.init.zeros_(linear.weight)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)
