"""Rotary positions: the law that only differences count, and a known answer in complex numbers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polydit.platform.mixers import RotaryPosition


def test_is_a_product_of_complex_numbers() -> None:
    x = torch.randn(1, 1, 5, 8, dtype=torch.float64)
    frequency = 100.0 ** -(torch.arange(4, dtype=torch.float64) / 4)
    turned = torch.complex(x[..., :4], x[..., 4:]) * torch.exp(1j * torch.arange(5)[:, None] * frequency)
    expected = torch.cat([turned.real, turned.imag], dim=-1)
    torch.testing.assert_close(RotaryPosition(8, base=100.0)(x, None), expected, rtol=1e-5, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.floats(-50, 50), st.integers(1, 3))
def test_products_depend_on_differences_alone(shift: float, axes: int) -> None:
    torch.manual_seed(0)
    rotary = RotaryPosition(14, axes=(4,) * axes, base=10.0)
    q, k = torch.randn(2, 1, 2, 6, 14, dtype=torch.float64)
    positions = torch.randn(1, 6, axes, dtype=torch.float64)
    products = [rotary(q, p) @ rotary(k, p).transpose(-1, -2) for p in (positions, positions + shift)]
    torch.testing.assert_close(*products, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(rotary(q, positions).norm(dim=-1), q.norm(dim=-1))


def test_the_origin_turns_nothing_and_the_rest_of_a_head_stays() -> None:
    x = torch.randn(2, 3, 4, 10)
    assert torch.equal(RotaryPosition(10)(x, torch.zeros(2, 4)), x)
    assert torch.equal(RotaryPosition(10, axes=(4,))(x, torch.rand(2, 4))[..., 4:], x[..., 4:])


def test_shares_that_do_not_fit_are_refused() -> None:
    for axes in ((3,), (8, 4), (0,)):
        with pytest.raises(ValueError, match="do not fit a head of width 10"):
            RotaryPosition(10, axes=axes)
    with pytest.raises(ValueError, match="positions have 3 axes and the rotary embedding 1"):
        RotaryPosition(10)(torch.randn(1, 1, 2, 10), torch.zeros(1, 2, 3))
