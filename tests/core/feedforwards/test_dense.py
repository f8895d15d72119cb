"""Dense feed-forwards by their formulas."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from polydit.platform.context import Context
from polydit.platform.feedforwards import MLP, SwiGLU
from polydit.platform.feedforwards.dense import Activation


@pytest.mark.parametrize(
    ("activation", "reference"),
    [("gelu_tanh", nn.GELU("tanh")), ("gelu", nn.GELU()), ("silu", nn.SiLU()), ("relu", nn.ReLU())],
)
def test_mlp_is_two_linears_around_its_activation(activation: Activation, reference: nn.Module) -> None:
    mlp, x = MLP(6, ratio=2.0, activation=activation), torch.randn(2, 3, 6)
    assert torch.equal(mlp(x, Context()), nn.Sequential(mlp.expand, reference, mlp.contract)(x))
    assert mlp.expand.out_features == 12


def test_swiglu_gates_one_linear_by_another() -> None:
    swiglu, x = SwiGLU(6, multiple=4), torch.randn(2, 3, 6)
    gate, value = swiglu.gate_value.weight.chunk(2)
    expected = (nn.functional.silu(x @ gate.T) * (x @ value.T)) @ swiglu.contract.weight.T
    torch.testing.assert_close(swiglu(x, Context()), expected)
    assert swiglu.contract.in_features == 16  # 6 * 8 / 3, and already a multiple of 4


def test_swiglu_rounds_its_hidden_width_up() -> None:
    assert SwiGLU(7, multiple=8).contract.in_features == 24  # 18.67 rounds to 19
