"""How attention is computed, and which way when: the one place that chooses.

Shape legend: B batch, H heads, N query tokens, M key tokens, E width of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..context import Context
from ..state import MaskSpec
from .masks import logit_mask, visible_keys

# Older releases of torch cannot say.
_capabilities: Callable[[], dict[str, Any]] = getattr(torch.cpu, "get_capabilities", dict)

VECTOR_BF16 = bool(_capabilities().get("avx512_bf16", False)) and not _capabilities().get("amx_tile", False)
"""Whether this CPU multiplies in bf16 by vectors, and not by matrix units (AMX): the kind that was measured."""

LONGEST_TRAINED, LONGEST_SAMPLED = (512, 1024) if VECTOR_BF16 else (128, 0)
"""Most keys for which written-out attention is chosen in training and without, see `DefaultAttention`."""


class FusedAttention:
    """PyTorch's fused kernel."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: MaskSpec | None, ctx: Context) -> Tensor:
        """Attention of q [B, H, N, E] to k, v [B, H, M, E]: [B, H, N, E]."""
        shown = logit_mask(mask, q.shape[-2], k.shape[-2], q)
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=shown)


class WrittenAttention:
    """Attention as two matrix products and a softmax; also what counts its operations truly."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: MaskSpec | None, ctx: Context) -> Tensor:
        """Attention of q [B, H, N, E] to k, v [B, H, M, E]: [B, H, N, E]."""
        visible = visible_keys(mask, q.shape[-2], k.shape[-2], q.device)
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        if mask is not None and mask.bias is not None:
            scores = scores + mask.bias.to(scores.dtype)
        if visible is not None:
            scores = scores.masked_fill_(~visible, torch.finfo(scores.dtype).min)
        return scores.softmax(-1) @ v


class DefaultAttention:
    """The faster of the two for the shape at hand.

    Measured on one thread of an AVX-512 CPU with bf16 products but no matrix units, torch 2.13, H = 6, E = 64;
    milliseconds fused / written out, forward, then forward and backward; fp32 and the right half under a
    key mask:

    ==========  =============  =============  ============  =============  ============  =============
    N           fp32 fwd       fp32 fwd+bwd   bf16 fwd      bf16 fwd+bwd   bf16, masked  masked
    ==========  =============  =============  ============  =============  ============  =============
    8, B 64     0.8 / 1.5      2.1 / 3.6      1.1 / 0.7     4.5 / 1.7      1.4 / 0.7     4.9 / 2.1
    19, B 64    2.5 / 4.7      8.5 / 8.5      2.4 / 1.5     30 / 4.7       2.9 / 2.0     31 / 5.5
    32, B 64    3.8 / 6.6      12 / 17        3.8 / 2.4     34 / 5.8       4.3 / 2.9     35 / 6.8
    128, B 16   7.7 / 12       25 / 33        10 / 6.0      48 / 12        11 / 6.8      50 / 15
    256, B 8    12 / 21        39 / 51        13 / 8.4      47 / 21        13 / 14       46 / 24
    512, B 4    22 / 56        77 / 95        23 / 15       79 / 39        25 / 25       84 / 52
    1024, B 2   45 / 83        153 / 279      46 / 30       134 / 76       47 / 36       128 / 92
    ==========  =============  =============  ============  =============  ============  =============

    So the fused kernel everywhere, except in bf16 on such a CPU; in training up to a length whose weights, which the
    backward pass keeps, are still small. On a CPU without bf16 products the fused one took a half to a third of the
    time forward, and with backward two to four times as long at 19 to 128 keys. CPUs with matrix units were not
    measured and are taken alike. In fp16, written out took longer at 32, 256 and 1,024 keys, up to ten times.
    """

    fused = FusedAttention()
    written = WrittenAttention()

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: MaskSpec | None, ctx: Context) -> Tensor:
        """Attention of q [B, H, N, E] to k, v [B, H, M, E]: [B, H, N, E]."""
        backend = self.written if prefers_written_out(q, k) else self.fused
        return backend.attend(q, k, v, mask, ctx)


def prefers_written_out(q: Tensor, k: Tensor) -> bool:
    """Whether written-out attention is the faster for q [B, H, N, E] and k [B, H, M, E]; see `DefaultAttention`."""
    trains = torch.is_grad_enabled() and q.requires_grad
    longest = LONGEST_TRAINED if trains else LONGEST_SAMPLED
    return q.dtype == torch.bfloat16 and q.device.type == "cpu" and k.shape[-2] <= longest


default_backend = DefaultAttention()
