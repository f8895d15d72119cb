"""Rotary positions over longer grids: neutral at one, and each rule's own frequencies."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from polydit.platform.errors import ConfigurationError
from polydit.platform.mixers import (
    Attention,
    InterpolatedRotary,
    NTKRotary,
    RotaryPosition,
    RotaryScaling,
    YaRNRotary,
)
from polydit.platform.mixers.rotary_scaling import attention_magnitude

HEAD, AXES = 24, (12, 12)
RULES: dict[str, Any] = {
    "interpolated": InterpolatedRotary,
    "ntk": NTKRotary,
    "by parts": partial(YaRNRotary, trained=(16, 16), attention=False),
    "yarn": partial(YaRNRotary, trained=(16, 16)),
}


def frequencies(scaling: RotaryScaling, axis: int = 0, count: int = 6, base: float = 100.0) -> tuple[Tensor, Tensor]:
    """Frequencies of training, and what the rule makes of them."""
    trained = base ** -(torch.arange(count, dtype=torch.float64) / count)
    assert scaling.factors is not None
    return trained, scaling.frequencies(axis, trained, base, scaling.factors[axis])


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
def test_a_factor_of_one_changes_no_bit(rule: Any) -> None:
    x, positions = torch.randn(2, 3, 5, HEAD), torch.randint(0, 16, (2, 5, 2))
    plain = RotaryPosition(HEAD, AXES)(x, positions)
    assert torch.equal(RotaryPosition(HEAD, AXES, scaling=rule((1.0, 1.0)))(x, positions), plain)
    assert not torch.equal(RotaryPosition(HEAD, AXES, scaling=rule((1.0, 2.0)))(x, positions), plain)


@given(st.floats(1.0, 8.0))
def test_interpolation_is_a_grid_of_smaller_steps(factor: float) -> None:
    x, positions = torch.randn(1, 2, 5, HEAD), torch.randint(0, 40, (1, 5, 2))
    found = RotaryPosition(HEAD, AXES, scaling=InterpolatedRotary((factor, factor)))(x, positions)
    expected = RotaryPosition(HEAD, AXES)(x, positions.double() / factor)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@given(st.floats(1.0, 8.0))
def test_ntk_keeps_the_highest_frequency_and_divides_the_lowest(factor: float) -> None:
    trained, stretched = frequencies(NTKRotary((factor, 1.0)))
    assert float(stretched[0]) == pytest.approx(1.0)
    assert float(stretched[-1] * factor) == pytest.approx(float(trained[-1]))
    base = 100.0 * factor ** (12 / 10)  # d / (d - 2) with d = 12
    torch.testing.assert_close(stretched, base ** -(torch.arange(6, dtype=torch.float64) / 6))
    assert torch.equal(*frequencies(NTKRotary((factor, 1.0)), axis=1))


@given(st.floats(1.0, 8.0))
def test_by_parts_keeps_what_turns_often_and_divides_what_hardly_turns(factor: float) -> None:
    scaling = YaRNRotary((factor,), (400,), slow=1.0, fast=32.0)
    trained, stretched = frequencies(scaling, base=1e4)
    turns = 400 * trained / (2 * math.pi)
    share = stretched / trained
    assert torch.equal(share[turns > 32], torch.ones(int((turns > 32).sum()), dtype=share.dtype))
    torch.testing.assert_close(share[turns < 1], torch.full_like(share[turns < 1], 1 / factor))
    assert bool((turns > 32).any() and (turns < 1).any())
    assert bool((share >= 1 / factor - 1e-9).all() and (share <= 1).all() and (share.diff() <= 1e-9).all())


def test_yarn_sharpens_the_logits_and_by_parts_does_not() -> None:
    q, k = torch.randn(2, 1, 2, 5, HEAD)
    positions = torch.randint(0, 30, (1, 5, 2))
    yarn, parts = (RotaryPosition(HEAD, AXES, scaling=RULES[name]((2.0, 3.0))) for name in ("yarn", "by parts"))
    logits = [rotary(q, positions) @ rotary(k, positions).transpose(-1, -2) for rotary in (yarn, parts)]
    torch.testing.assert_close(logits[0], logits[1] * (0.1 * math.log(3) + 1) ** 2, rtol=1e-4, atol=1e-4)
    assert attention_magnitude(1024, 256) == pytest.approx(math.sqrt(10 / 8)) and attention_magnitude(9, 9) == 1.0


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
def test_products_still_depend_on_differences_alone(rule: Any) -> None:
    q, k = torch.randn(2, 1, 2, 5, HEAD, dtype=torch.float64)
    positions = torch.randint(0, 30, (1, 5, 2))
    rotary = RotaryPosition(HEAD, AXES, scaling=rule((2.0, 1.5)))
    products = [rotary(q, p) @ rotary(k, p).transpose(-1, -2) for p in (positions, positions + torch.tensor([7, -3]))]
    torch.testing.assert_close(*products, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
def test_each_sample_stretches_by_its_own_length(rule: Any) -> None:
    """Without factors, a batch of grids of 16 x 8, 32 x 8 and 20 x 24 is what each is with factors given by hand."""
    grids, trained = [(16, 8), (32, 8), (20, 24)], (16, 16)
    x = torch.randn(3, 2, 5, HEAD)
    drawn = [[torch.randint(0, length, (4,)) for length in grid] for grid in grids]
    positions = torch.stack([
        torch.cat([torch.stack(own, dim=-1), torch.tensor([[rows - 1, columns - 1]])])
        for own, (rows, columns) in zip(drawn, grids, strict=True)
    ])
    options = {} if "trained" in getattr(rule, "keywords", {}) else {"trained": trained}
    together = RotaryPosition(HEAD, AXES, scaling=rule(None, **options))(x, positions)
    for row, grid in enumerate(grids):
        factors = [max(1.0, length / 16) for length in grid]
        alone = RotaryPosition(HEAD, AXES, scaling=rule(factors))(x[row : row + 1], positions[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(together[:1], RotaryPosition(HEAD, AXES)(x[:1], positions[:1]), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(together[1:], RotaryPosition(HEAD, AXES)(x[1:], positions[1:]), atol=1e-2)


def test_bad_options_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="needs the positive length of each axis in training"):
        NTKRotary()
    with pytest.raises(ConfigurationError, match=r"factors \(0.5, 1.0\) must each be 1 or more"):
        NTKRotary((0.5, 1.0))
    with pytest.raises(ConfigurationError, match="a trained length for each of 2 factors"):
        YaRNRotary((2.0, 2.0), (16,))
    with pytest.raises(ConfigurationError, match="has 1 factors and the embedding 2 axes"):
        RotaryPosition(HEAD, AXES, scaling=NTKRotary((2.0,)))


def test_layer_norm_of_queries_and_keys_has_no_weights_and_bounds_the_logits() -> None:
    attention = Attention(24, 2, qk_norm="layer")
    assert {name.split(".")[0] for name, _ in attention.named_parameters()} == {"qkv", "output"}
    q, k = attention.norm(100 * torch.randn(2, 3, 24), torch.randn(2, 3, 24))
    torch.testing.assert_close(q.mean(-1), torch.zeros(2, 2, 3), rtol=0, atol=1e-4)
    torch.testing.assert_close(q.square().mean(-1), torch.ones(2, 2, 3), rtol=1e-3, atol=1e-3)
    assert float((q @ k.transpose(-1, -2)).abs().max()) <= 12.01
    with torch.autocast("cpu", torch.bfloat16):
        q, k = attention.norm(torch.randn(2, 3, 24).bfloat16(), torch.randn(2, 3, 24).bfloat16())
    assert q.dtype == k.dtype == torch.bfloat16
