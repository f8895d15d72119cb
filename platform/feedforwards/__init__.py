"""Feed-forwards: what every token does by itself."""

from .base import FeedForward
from .dense import MLP, SwiGLU
from .mixture import MixtureOfExperts, count_active_parameters
from .routers import NoiseRouter, Router, Routing, TokenNoiseRouter, TokenRouter
from .upcycling import upcycle_experts

__all__ = [
    "MLP",
    "FeedForward",
    "MixtureOfExperts",
    "NoiseRouter",
    "Router",
    "Routing",
    "SwiGLU",
    "TokenNoiseRouter",
    "TokenRouter",
    "count_active_parameters",
    "upcycle_experts",
]
