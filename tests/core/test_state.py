"""Conditions joined for guidance, layouts repeated, means over real tokens."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from polydit.platform.noise import NoiseSource
from polydit.platform.state import Condition, Layout, Tokens, expand_time, masked_mean


def test_joined_conditions_keep_masks_where_only_one_has_any() -> None:
    plain = Condition(tokens={"text": Tokens(torch.zeros(2, 3, 4))})
    masked = Condition(tokens={"text": Tokens(torch.ones(2, 3, 4), torch.tensor([[True, True, False]] * 2))})
    for order in ([plain, masked], [masked, plain]):
        joined = Condition.concatenate(order).tokens["text"]
        assert joined.features.shape == (4, 3, 4)
        assert joined.mask is not None
        assert joined.mask.sum() == 6 + 4
        hidden = joined.features[~joined.mask]
        assert (hidden == 1).all()
    assert Condition.concatenate([plain, plain]).tokens["text"].mask is None


@given(st.integers(1, 4), st.booleans())
def test_vectors_add_up_per_sample_and_per_token(batch: int, per_token: bool) -> None:
    time = torch.randn(batch, 5)
    label = torch.randn(batch, 5)
    tokens = torch.randn(batch, 3, 5)
    vectors = {"a": label, "b": tokens} if per_token else {"a": label}
    total = Condition(vectors=vectors).add_to(time)
    expected = (time + label)[:, None] + tokens if per_token else time + label
    torch.testing.assert_close(total, expected)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=4))
def test_masked_mean_is_the_mean_of_what_is_real(lengths: list[int]) -> None:
    values = torch.randn(len(lengths), 5, 2)
    mask = torch.arange(5) < torch.tensor(lengths)[:, None]
    expected = values[mask].mean() if mask.any() else torch.tensor(0.0)
    torch.testing.assert_close(masked_mean(values, mask), expected)
    torch.testing.assert_close(masked_mean(values, None), values.mean())


def test_repeated_layouts_line_up_with_concatenated_states() -> None:
    layout = Layout({"x": (2, 3, 1)}, {"x": torch.tensor([[True] * 3, [True, False, False]])})
    assert torch.equal(layout.repeat(2).masks["x"], torch.cat([layout.masks["x"]] * 2))
    assert layout.sizes() == [3, 1]
    assert layout.batch_size == 2


def test_expanded_time_multiplies_any_field() -> None:
    assert expand_time(torch.ones(2), torch.ones(2, 3, 4)).shape == (2, 1, 1)
    assert expand_time(torch.ones(2, 3), torch.ones(2, 3, 4)).shape == (2, 3, 1)


@given(st.integers(3, 6), st.permutations([0, 1, 2]))
def test_noise_belongs_to_the_seed_whatever_the_padding_and_order(length: int, order: list[int]) -> None:
    mask = torch.arange(length) < torch.tensor([3, 1, 2])[:, None]
    reference = NoiseSource([10, 11, 12]).draw((3, length, 2), mask)
    shuffled = NoiseSource([10 + i for i in order]).draw((3, length, 2), mask[order])
    assert torch.equal(shuffled, reference[order])
    wider = NoiseSource([10, 11, 12]).draw((3, length + 4, 2), torch.nn.functional.pad(mask, (0, 4)))
    assert torch.equal(wider[:, :length], reference)
    assert (wider[:, length:] == 0).all()


def test_noise_needs_a_seed_a_sample() -> None:
    with pytest.raises(ValueError, match="one seed a sample"):
        NoiseSource([0, 1]).draw((3, 2), None)
