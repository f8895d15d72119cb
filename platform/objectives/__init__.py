"""Losses beside the denoising loss: alignment, balance, geometry."""

from .objective import Objective, SideLoss
from .weights import LossWeight

__all__ = ["LossWeight", "Objective", "SideLoss"]
