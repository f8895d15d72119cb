"""Losses beside the denoising loss: alignment, balance, geometry."""

from .objective import Denoising, Objective, SideLoss
from .weights import LossWeight

__all__ = ["Denoising", "LossWeight", "Objective", "SideLoss"]
