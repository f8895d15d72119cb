"""Acceleration: the same model, faster."""

from .inference import Compilation, InferencePrecision, cast_denoiser

__all__ = ["Compilation", "InferencePrecision", "cast_denoiser"]
