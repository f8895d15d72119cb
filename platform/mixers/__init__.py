"""Token mixers: attention and what replaces it."""

from .attention import Attention, CrossAttention
from .backends import DefaultAttention, FusedAttention, WrittenAttention, default_backend
from .base import TokenMixer
from .rotary import RotaryPosition

__all__ = [
    "Attention",
    "CrossAttention",
    "DefaultAttention",
    "FusedAttention",
    "RotaryPosition",
    "TokenMixer",
    "WrittenAttention",
    "default_backend",
]
