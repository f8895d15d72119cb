"""Losses beside the denoising loss: alignment, balance, geometry."""

from .diffusion_prior import DiffusionPrior
from .objective import Denoising, Objective, SideLoss
from .weights import LossWeight

__all__ = ["Denoising", "DiffusionPrior", "LossWeight", "Objective", "SideLoss"]
