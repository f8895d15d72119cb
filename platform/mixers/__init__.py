"""Token mixers: attention and what replaces it."""

from .attention import Attention, CrossAttention
from .backends import DefaultAttention, FusedAttention, WrittenAttention, default_backend
from .base import TokenMixer
from .dropout import AttentionDropout
from .geometric import GeometricAttention
from .rotary import RotaryPosition

__all__ = [
    "Attention",
    "AttentionDropout",
    "CrossAttention",
    "DefaultAttention",
    "FusedAttention",
    "GeometricAttention",
    "RotaryPosition",
    "TokenMixer",
    "WrittenAttention",
    "default_backend",
]
