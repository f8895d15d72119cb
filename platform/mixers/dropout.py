"""Dropout in attention, around any mixer that attends through the context.

Shape legend: B batch, H heads, N query tokens, M key tokens, D width, E width of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor, nn
from torch.nn import functional

from ..context import Context
from ..errors import ConfigurationError
from ..state import MaskSpec
from .attention import Attention
from .base import TokenMixer
from .masks import logit_mask


class DropoutAttention:
    """Attention whose weights are dropped, each with one probability, and the others scaled up.

    Args:
        rate: the probability.
    """

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: MaskSpec | None, ctx: Context) -> Tensor:
        """Attention of q [B, H, N, E] to k, v [B, H, M, E]: [B, H, N, E]."""
        shown = logit_mask(mask, q.shape[-2], k.shape[-2], q)
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=shown, dropout_p=self.rate)


class AttentionDropout(TokenMixer):
    """A mixer with dropout on its attention weights and on its output, in training; in evaluation the mixer itself.

    In training it computes attention itself, whatever back end the context names. It draws from torch's global
    generator, which `polydit.platform.callbacks.StepSeeds` seeds at every step.

    Args:
        width: D; supplied by the stack.
        mixer: builds the mixer from the width; None: `Attention`.
        rate: probability with which an attention weight is dropped.
        output: probability with which a value of the output is dropped.
    """

    def __init__(
        self,
        width: int,
        mixer: Callable[[int], TokenMixer] | None = None,
        rate: float = 0.1,
        output: float = 0.0,
    ) -> None:
        super().__init__()
        for name, value in (("rate", rate), ("output", output)):
            if not 0 <= value < 1:
                raise ConfigurationError(f"dropout `{name}` is a probability below 1, not {value}")
        self.inner = (mixer or Attention)(width)
        self.rate = rate
        self.output = nn.Dropout(output)

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        """Mixed tokens [B, N, D] of `x` [B, N, D]."""
        if self.training and self.rate:
            # a copy that shares taps, losses and everything else that a pass leaves behind
            ctx = replace(ctx, attention=DropoutAttention(self.rate))
        return self.output(self.inner(x, ctx))

    def cost(self, tokens: int, condition_tokens: int = 0) -> int:
        """Operations of the mixer."""
        return self.inner.cost(tokens, condition_tokens)
