"""Token mixers: attention and what replaces it."""

from .attention import Attention, CrossAttention
from .backends import DefaultAttention, FusedAttention, WrittenAttention, default_backend
from .base import PairBias, TokenMixer
from .dropout import AttentionDropout
from .geometric import GeometricAttention
from .pair_bias import DistanceBias
from .rotary import RotaryPosition
from .rotary_scaling import InterpolatedRotary, NTKRotary, RotaryScaling, YaRNRotary

__all__ = [
    "Attention",
    "AttentionDropout",
    "CrossAttention",
    "DefaultAttention",
    "DistanceBias",
    "FusedAttention",
    "GeometricAttention",
    "InterpolatedRotary",
    "NTKRotary",
    "PairBias",
    "RotaryPosition",
    "RotaryScaling",
    "TokenMixer",
    "WrittenAttention",
    "YaRNRotary",
    "default_backend",
]
