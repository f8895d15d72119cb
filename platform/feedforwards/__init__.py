"""Feed-forwards: what every token does by itself."""

from .base import FeedForward
from .dense import MLP, SwiGLU

__all__ = ["MLP", "FeedForward", "SwiGLU"]
