"""How attention is computed, and which way when: the one place that chooses.

Shape legend: B batch, H heads, N query tokens, M key tokens, E width of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ..context import Context
from ..state import MaskSpec
from .masks import logit_mask, visible_keys

LONGEST_WRITTEN_OUT = 128
"""Most keys for which written-out attention is chosen, see `DefaultAttention`."""


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
            scores = scores.masked_fill(~visible, torch.finfo(scores.dtype).min)
        return scores.softmax(-1) @ v


class DefaultAttention:
    """The faster of the two for the shape at hand.

    Measured on one thread of an AVX-512 CPU without bf16 units, torch 2.13, H = 6, E = 64, key mask, B N about 2,048;
    milliseconds fused / written out, forward, then forward and backward:

    ==========  =============  =============  ============  ============
    N           fp32 fwd       fp32 fwd+bwd   bf16 fwd      bf16 fwd+bwd
    ==========  =============  =============  ============  ============
    8, B 64     6.9 / 6.4      16.6 / 25.4    2.4 / 2.0     11.1 / 6.7
    19, B 64    8.9 / 9.3      32.8 / 40.9    4.0 / 6.2     64.8 / 18.0
    32, B 64    6.6 / 9.0      23.6 / 28.6    16.2 / 23.6   119 / 34
    128, B 16   12.8 / 20.4    44.1 / 51.3    13.6 / 27.4   162 / 77
    256, B 8    13.7 / 24.2    61.3 / 60.8    13.1 / 42.0   119 / 117
    ==========  =============  =============  ============  ============

    So the fused kernel everywhere, except where a CPU trains in reduced precision at short lengths: there its backward
    pass is two to four times slower than the written-out one.
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
    reduced = q.dtype in (torch.bfloat16, torch.float16)
    return trains and reduced and q.device.type == "cpu" and k.shape[-2] <= LONGEST_WRITTEN_OUT


default_backend = DefaultAttention()
