"""Losses beside the denoising loss: alignment, balance, geometry."""

from .objective import Objective, SideLoss

__all__ = ["Objective", "SideLoss"]
