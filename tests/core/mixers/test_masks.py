"""Known answers of the mask specification."""

from __future__ import annotations

import pytest
import torch

from polydit.platform.context import Context
from polydit.platform.mixers import Attention
from polydit.platform.mixers.masks import prepend_visible, visible_keys
from polydit.platform.state import MaskSpec

CPU = torch.device("cpu")


def test_nothing_masked_is_none() -> None:
    assert visible_keys(None, 3, 3, CPU) is None
    assert visible_keys(MaskSpec(), 3, 3, CPU) is None


def test_groups_attend_by_the_table() -> None:
    spec = MaskSpec(groups=torch.tensor([[0, 0, 1]]), table=torch.tensor([[True, False], [True, True]]))
    visible = visible_keys(spec, 3, 3, CPU)
    assert visible is not None and visible[0, 0].int().tolist() == [[1, 1, 0], [1, 1, 0], [1, 1, 1]]


def test_a_window_reaches_that_many_positions() -> None:
    visible = visible_keys(MaskSpec(window=1), 4, 4, CPU)
    assert visible is not None
    assert visible[0, 0].int().tolist() == [[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 1], [0, 0, 1, 1]]


def test_causal_tokens_see_no_later_ones() -> None:
    visible = visible_keys(MaskSpec(causal=True, keys=torch.tensor([[True, False, True]])), 3, 3, CPU)
    assert visible is not None and visible[0, 0].int().tolist() == [[1, 0, 0], [1, 0, 0], [1, 0, 1]]
    attention, x = Attention(16, heads=2, causal=True), torch.randn(2, 6, 16)
    whole, part = attention(x, Context()), attention(x[:, :4], Context())
    torch.testing.assert_close(whole[:, :4], part, rtol=0, atol=1e-6)
    assert not torch.allclose(Attention(16, heads=2)(x, Context())[:, :4], part, atol=1e-3)
    with pytest.raises(ValueError, match="causality"):
        visible_keys(MaskSpec(causal=True), 3, 4, CPU)


def test_parts_combine_and_a_query_without_keys_sees_all() -> None:
    spec = MaskSpec(keys=torch.tensor([[True, False, False, False]]), window=1)
    visible = visible_keys(spec, 4, 4, CPU)
    assert visible is not None
    assert visible[0, 0].int().tolist() == [[1, 0, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1]]


def test_separate_groups_are_separate_sequences() -> None:
    attention, x = Attention(16, heads=2), torch.randn(1, 7, 16)
    groups = torch.tensor([[0, 0, 0, 1, 1, 1, 1]])
    packed = attention(x, Context(masks={"x": MaskSpec(groups=groups, table=torch.eye(2, dtype=torch.bool))}))
    apart = torch.cat([attention(x[:, :3], Context()), attention(x[:, 3:], Context())], dim=1)
    torch.testing.assert_close(packed, apart, rtol=0, atol=1e-6)


def test_a_mask_that_restricts_nothing_is_as_none() -> None:
    attention, x = Attention(16, heads=2), torch.randn(2, 6, 16)
    spec = MaskSpec(
        keys=torch.ones(2, 6, dtype=torch.bool), groups=torch.zeros(2, 6, dtype=torch.long),
        table=torch.ones(1, 1, dtype=torch.bool), window=6,
    )
    torch.testing.assert_close(attention(x, Context(masks={"x": spec})), attention(x, Context()), rtol=0, atol=1e-6)


def test_masks_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="groups without a table"):
        visible_keys(MaskSpec(groups=torch.zeros(1, 3, dtype=torch.long)), 3, 3, CPU)
    with pytest.raises(ValueError, match="not 3 and 4 tokens"):
        visible_keys(MaskSpec(window=1), 3, 4, CPU)
    with pytest.raises(ValueError, match="cannot be prepended"):
        prepend_visible(MaskSpec(window=1), torch.ones(1, 2, dtype=torch.bool), 3)


def test_prepended_tokens_are_masked_by_their_own_mask() -> None:
    spec = prepend_visible(MaskSpec(keys=torch.tensor([[True, False]])), torch.tensor([[True, False]]), 2)
    assert spec.keys is not None and spec.keys.tolist() == [[True, False, True, False]]
    spec = prepend_visible(None, torch.tensor([[False]]), 2)
    assert spec.keys is not None and spec.keys.tolist() == [[False, True, True]]
