"""Dense feed-forwards: every token through the same weights.

Shape legend: B batch, N tokens, D width, F hidden width.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from ..context import Context
from .base import FeedForward

Activation = Literal["gelu_tanh", "gelu", "silu", "relu"]

ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "gelu_tanh": partial(functional.gelu, approximate="tanh"),
    "gelu": functional.gelu,
    "silu": functional.silu,
    "relu": functional.relu,
}


class MLP(FeedForward):
    """Linear, activation, linear.

    Args:
        width: D; supplied by the stack.
        ratio: F / D.
        activation: the published DiT has ``gelu_tanh``; on a CPU in bf16 ``gelu`` and ``silu`` are 1.1 to 1.3 times
            faster. Weights trained with one are not weights for another.
        bias: whether the linears have biases.
    """

    def __init__(self, width: int, ratio: float = 4.0, activation: Activation = "gelu_tanh", bias: bool = True) -> None:
        super().__init__()
        hidden = round(width * ratio)
        self.expand = nn.Linear(width, hidden, bias=bias)
        self.activation = ACTIVATIONS[activation]
        self.contract = nn.Linear(hidden, width, bias=bias)

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        """Transformed tokens [B, N, D]."""
        return self.contract(self.activation(self.expand(x)))

    def cost(self, tokens: int) -> int:
        """Operations per sample: 4 N D F."""
        return 4 * tokens * self.expand.weight.numel()


class SwiGLU(FeedForward):
    """Gated feed-forward W₃(SiLU(W₁x) * W₂x) (arXiv 2002.05202, equation 6).

    Args:
        width: D; supplied by the stack.
        ratio: F / D before rounding; 8/3 has as many weights as an `MLP` of ratio 4.
        multiple: F is rounded up to a multiple of this, for the sake of matrix kernels.
        bias: whether the linears have biases.
    """

    def __init__(self, width: int, ratio: float = 8 / 3, multiple: int = 8, bias: bool = False) -> None:
        super().__init__()
        hidden = -(-round(width * ratio) // multiple) * multiple
        self.gate_value = nn.Linear(width, 2 * hidden, bias=bias)
        self.contract = nn.Linear(hidden, width, bias=bias)

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        """Transformed tokens [B, N, D]."""
        gate, value = self.gate_value(x).chunk(2, dim=-1)
        return self.contract(functional.silu(gate) * value)

    def cost(self, tokens: int) -> int:
        """Operations per sample: 6 N D F."""
        return 2 * tokens * (self.gate_value.weight.numel() + self.contract.weight.numel())
