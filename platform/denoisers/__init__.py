"""Denoisers: the diffusion transformer, its parts, and plain transformer stacks."""

from ..norms import LayerNorm, RMSNorm
from .base import Denoiser, Embedding, Head
from .blocks import BlockParts, DenoiserBlock, DiTBlock, TransformerBlock
from .dit import DiT
from .modulation import AdaLNLoRA, AdaLNSingle, AdaLNZero, Modulation
from .patch_tokens import PackedTokenEmbedding, PatchTokens, lay_grids, pack_images, pad_images, unpad_images
from .patches import PatchEmbedding, PatchHead
from .positions import LearntPosition, Position, SharePosition, SinCosPosition
from .stack import TransformerStack
from .switch import SwitchBlock
from .time import TimeEmbedding
from .tokens import TokenEmbedding, TokenHead

__all__ = [
    "AdaLNLoRA",
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
    "PackedTokenEmbedding",
    "PatchEmbedding",
    "PatchHead",
    "PatchTokens",
    "Position",
    "RMSNorm",
    "SharePosition",
    "SinCosPosition",
    "SwitchBlock",
    "TimeEmbedding",
    "TokenEmbedding",
    "TokenHead",
    "TransformerBlock",
    "TransformerStack",
    "lay_grids",
    "pack_images",
    "pad_images",
    "unpad_images",
]
