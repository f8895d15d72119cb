"""Dense feed-forwards: every token through the same weights.

Shape legend: B batch, N tokens, D width, F hidden width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, TypeVar, cast

import torch
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
        dropout: share of the hidden values that training zeroes.
    """

    def __init__(
        self,
        width: int,
        ratio: float = 4.0,
        activation: Activation = "gelu_tanh",
        bias: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        hidden = round(width * ratio)
        self.dropout = dropout
        self.expand = nn.Linear(width, hidden, bias=bias)
        self.activation = ACTIVATIONS[activation]
        self.contract = nn.Linear(hidden, width, bias=bias)

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        """Transformed tokens [B, N, D]."""
        return self.contract(drop(self.activation(self.expand(x)), self))

    def cost(self, tokens: int) -> int:
        """Operations per sample: 4 N D F."""
        return 4 * tokens * self.expand.weight.numel()

    @classmethod
    def fuse(
        cls, parts: Sequence[FeedForward], weights: Sequence[float], twin: FeedForward | None = None
    ) -> FeedForward:
        """One whose hidden layer is theirs side by side, the weights folded into its second linear map."""
        chosen = cast(Sequence[MLP], parts)
        fused = bare(cls)
        fused.activation, fused.dropout = chosen[0].activation, 0.0
        stacked = stack_rows([part.expand for part in chosen])
        fused.expand = stacked if twin is None else cast(MLP, twin).expand
        fused.contract = weigh_columns([part.contract for part in chosen], weights)
        return fused


class SwiGLU(FeedForward):
    """Gated feed-forward W₃(SiLU(W₁x) * W₂x) (arXiv 2002.05202, equation 6).

    Args:
        width: D; supplied by the stack.
        ratio: F / D before rounding; 8/3 has as many weights as an `MLP` of ratio 4.
        multiple: F is rounded up to a multiple of this, for the sake of matrix kernels.
        bias: whether the linears have biases.
        dropout: share of the hidden values that training zeroes.
        hidden_bias: whether the first linear has a bias; None: as `bias` says.
    """

    def __init__(
        self,
        width: int,
        ratio: float = 8 / 3,
        multiple: int = 8,
        bias: bool = False,
        dropout: float = 0.0,
        hidden_bias: bool | None = None,
    ) -> None:
        super().__init__()
        self.dropout = dropout
        hidden = -(-round(width * ratio) // multiple) * multiple
        self.gate_value = nn.Linear(width, 2 * hidden, bias=bias if hidden_bias is None else hidden_bias)
        self.contract = nn.Linear(hidden, width, bias=bias)

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        """Transformed tokens [B, N, D]."""
        gate, value = self.gate_value(x).chunk(2, dim=-1)
        return self.contract(drop(functional.silu(gate) * value, self))

    def cost(self, tokens: int) -> int:
        """Operations per sample: 6 N D F."""
        return 2 * tokens * (self.gate_value.weight.numel() + self.contract.weight.numel())

    @classmethod
    def fuse(
        cls, parts: Sequence[FeedForward], weights: Sequence[float], twin: FeedForward | None = None
    ) -> FeedForward:
        """One whose gates and values are theirs side by side, the weights folded into its last linear map."""
        chosen = cast(Sequence[SwiGLU], parts)
        fused = bare(cls)
        fused.dropout = 0.0
        if twin is None:
            fused.gate_value = stack_rows([part.gate_value for part in chosen], sections=2)
        else:
            fused.gate_value = cast(SwiGLU, twin).gate_value
        fused.contract = weigh_columns([part.contract for part in chosen], weights)
        return fused


def drop(h: Tensor, module: MLP | SwiGLU) -> Tensor:
    """`h` with the module's dropout; without any, `h` itself."""
    return functional.dropout(h, module.dropout, module.training) if module.dropout else h


Module = TypeVar("Module", bound=nn.Module)


def bare(kind: type[Module]) -> Module:
    """A module of this class without anything in it, in evaluation."""
    module = kind.__new__(kind)
    nn.Module.__init__(module)
    return module.eval()


def stack_rows(linears: Sequence[nn.Linear], sections: int = 1) -> nn.Linear:
    """A frozen linear map whose outputs are those of all `linears`, side by side within each of equal sections.

    Args:
        linears: maps of one shape.
        sections: how many parts each output consists of, as gate and value.
    """
    weight = torch.cat([linear.weight.unflatten(0, (sections, -1)) for linear in linears], dim=1).flatten(0, 1)
    biases = [linear.bias.unflatten(0, (sections, -1)) for linear in linears if linear.bias is not None]
    return frozen_linear(weight, torch.cat(biases, dim=1).flatten() if biases else None)


def weigh_columns(linears: Sequence[nn.Linear], weights: Sequence[float]) -> nn.Linear:
    """A frozen linear map of all inputs side by side, the sum of what `linears` give times their weights."""
    pairs = list(zip(linears, weights, strict=True))
    biases = [linear.bias * weight for linear, weight in pairs if linear.bias is not None]
    weight = torch.cat([linear.weight * weight for linear, weight in pairs], dim=1)
    return frozen_linear(weight, torch.stack(biases).sum(0) if biases else None)


def frozen_linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A linear map with these weights and no gradient."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight.detach(), requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return linear
