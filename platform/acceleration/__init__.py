"""Acceleration: the same model, faster."""

from .experts import ExpertFusion, FusedExperts, fuse_experts, sampling_levels
from .inference import Compilation, InferencePrecision, cast_denoiser

__all__ = [
    "Compilation",
    "ExpertFusion",
    "FusedExperts",
    "InferencePrecision",
    "cast_denoiser",
    "fuse_experts",
    "sampling_levels",
]
