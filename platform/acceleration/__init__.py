"""Acceleration: the same model, faster."""

from .cg_taylor import CGTaylor
from .delta_dit import DeltaDiT
from .experts import ExpertFusion, FusedExperts, fuse_experts, sampling_levels
from .inference import Compilation, InferencePrecision, cast_denoiser
from .ladder import Ladder
from .step_cache import Policies, StepCache
from .taylorseer import TaylorSeer

__all__ = [
    "CGTaylor",
    "Compilation",
    "DeltaDiT",
    "ExpertFusion",
    "FusedExperts",
    "InferencePrecision",
    "Ladder",
    "Policies",
    "StepCache",
    "TaylorSeer",
    "cast_denoiser",
    "fuse_experts",
    "sampling_levels",
]
