"""Modulation: one product for all layers is the layers' own products."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from polydit.platform.context import Context
from polydit.platform.denoisers import AdaLNLoRA, AdaLNSingle, AdaLNZero, DiTBlock, TransformerBlock
from polydit.platform.denoisers.blocks import BlockParts, modulate
from polydit.platform.mixers import Attention


@pytest.mark.parametrize("shape", [(3, 4), (3, 5, 4)])
def test_one_product_is_a_linear_per_layer(shape: tuple[int, ...]) -> None:
    modulation, c = AdaLNZero(4, [6, 6, 2]), torch.randn(shape)
    torch.nn.init.normal_(modulation.linear.weight)
    layers = modulation(c)
    assert [len(vectors) for vectors in layers] == [6, 6, 2]
    rows = modulation.linear.weight.split(4)
    for weight, vector in zip(rows, [vector for vectors in layers for vector in vectors], strict=True):
        expected = functional.silu(c) @ weight.T
        torch.testing.assert_close(vector, expected if c.ndim == 3 else expected[:, None])


def test_the_single_projection_gives_layers_that_differ_by_their_table_alone() -> None:
    modulation = AdaLNSingle(4, [6, 6, 2])
    torch.nn.init.normal_(modulation.shared.weight)
    torch.nn.init.normal_(modulation.table)
    first, second = (modulation(c) for c in torch.randn(2, 3, 4))
    for layer in range(3):
        for index in range([6, 6, 2][layer]):
            torch.testing.assert_close(
                first[layer][index] - second[layer][index], first[0][index] - second[0][index], rtol=0, atol=1e-5
            )
    assert not torch.allclose(first[0][0], first[1][0])


@pytest.mark.parametrize("shape", [(3, 8), (3, 5, 8)])
def test_low_rank_modulation_is_a_shared_map_and_each_layers_own(shape: tuple[int, ...]) -> None:
    modulation, c = AdaLNLoRA(8, [6, 4, 2], rank=3), torch.randn(shape)
    for parameter in modulation.parameters():
        torch.nn.init.normal_(parameter)
    layers = modulation(c)
    assert [len(vectors) for vectors in layers] == [6, 4, 2]
    first = functional.silu(c)
    expected = torch.cat([
        (modulation.shared(first)[..., : count * 8] + up(low))
        for count, up, low in zip((6, 4), modulation.up, modulation.down(first).split(3, dim=-1), strict=True)
    ] + [modulation.head(first)], dim=-1)
    found = torch.cat([vector for vectors in layers for vector in vectors], dim=-1)
    torch.testing.assert_close(found, expected if c.ndim == 3 else expected[:, None])
    assert modulation.cost() == 2 * (8 * 48 + 2 * 8 * 3 + 3 * (48 + 32) + 8 * 16)
    with pytest.raises(ValueError, match="rank 0 of a modulation of width 3"):
        AdaLNLoRA(3, [6, 2])


def test_modulation_starts_at_zero() -> None:
    for modulation in (AdaLNZero(4, [6, 2]), AdaLNSingle(4, [6, 2]), AdaLNLoRA(4, [6, 2])):
        assert not any(vector.any() for vectors in modulation(torch.randn(2, 4)) for vector in vectors)


def test_modulate_is_scale_and_shift() -> None:
    x, shift, scale = torch.randn(3, 2, 5, 4)[:, :, :, :].unbind(0)
    torch.testing.assert_close(modulate(x, shift[:, :1], scale[:, :1]), x * (1 + scale[:, :1]) + shift[:, :1])


def test_a_modulated_block_with_open_gates_and_no_shift_is_the_plain_block() -> None:
    from functools import partial

    parts = BlockParts(mixer=partial(Attention, heads=2))
    plain, modulated = TransformerBlock(8, parts, "a"), DiTBlock(8, parts, "b")
    modulated.load_state_dict(plain.state_dict(), strict=False)
    h, zero, one = {"x": torch.randn(2, 3, 8), "other": torch.ones(1)}, torch.zeros(2, 1, 8), torch.ones(2, 1, 8)
    outputs = modulated(h, (zero, zero, one) * 2, Context()), plain(h, (), Context())
    torch.testing.assert_close(outputs[0]["x"], outputs[1]["x"])
    assert outputs[0]["other"] is h["other"]
