"""Token mixers: attention and what replaces it."""

from .attention import Attention, CrossAttention
from .backends import DefaultAttention, FusedAttention, WrittenAttention, default_backend
from .base import PairBias, TokenMixer
from .dropout import AttentionDropout
from .geometric import GeometricAttention
from .pair_bias import DistanceBias
from .rotary import RotaryPosition

__all__ = [
    "Attention",
    "AttentionDropout",
    "CrossAttention",
    "DefaultAttention",
    "DistanceBias",
    "FusedAttention",
    "GeometricAttention",
    "PairBias",
    "RotaryPosition",
    "TokenMixer",
    "WrittenAttention",
    "default_backend",
]
