"""Denoisers: the diffusion transformer, its parts, and plain transformer stacks."""

from ..norms import LayerNorm, RMSNorm
from .base import Denoiser, Embedding, Head
from .blocks import BlockParts, DenoiserBlock, DiTBlock, TransformerBlock
from .dit import DiT
from .modulation import AdaLNSingle, AdaLNZero, Modulation
from .patches import PatchEmbedding, PatchHead
from .positions import LearntPosition, Position, SinCosPosition
from .stack import TransformerStack
from .switch import SwitchBlock
from .time import TimeEmbedding
from .tokens import TokenEmbedding, TokenHead

__all__ = [
    "AdaLNSingle",
    "AdaLNZero",
    "BlockParts",
    "Denoiser",
    "DenoiserBlock",
    "DiT",
    "DiTBlock",
    "Embedding",
    "Head",
    "LayerNorm",
    "LearntPosition",
    "Modulation",
    "PatchEmbedding",
    "PatchHead",
    "Position",
    "RMSNorm",
    "SinCosPosition",
    "SwitchBlock",
    "TimeEmbedding",
    "TokenEmbedding",
    "TokenHead",
    "TransformerBlock",
    "TransformerStack",
]
