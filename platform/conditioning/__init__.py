"""Conditioners: what guides a denoiser, axis by axis, each with its own null."""

from .axes import Axis, CategoricalAxis, ScalarAxis, TokenCategoricalAxis, VectorAxis
from .conditioner import Conditioner

__all__ = ["Axis", "CategoricalAxis", "Conditioner", "ScalarAxis", "TokenCategoricalAxis", "VectorAxis"]
