"""Attention against torch's own, and the laws of masks and positions."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from polydit.platform.context import Context
from polydit.platform.mixers import Attention, CrossAttention, FusedAttention, RotaryPosition, WrittenAttention
from polydit.platform.mixers.attention import QueryKeyNorm
from polydit.platform.mixers.backends import LONGEST_SAMPLED, LONGEST_TRAINED, prefers_written_out
from polydit.platform.state import Condition, MaskSpec, Tokens

WIDTH = 16
NORMS: list[QueryKeyNorm] = ["none", "head", "width"]


def copy_into(target: nn.MultiheadAttention, weights: list[Tensor], biases: list[Tensor], output: nn.Linear) -> None:
    with torch.no_grad():
        target.in_proj_weight.copy_(torch.cat(weights))
        target.in_proj_bias.copy_(torch.cat(biases))
        target.out_proj.weight.copy_(output.weight)
        target.out_proj.bias.copy_(output.bias)


def test_self_attention_is_torchs_multihead_attention() -> None:
    attention, reference = Attention(WIDTH, heads=4), nn.MultiheadAttention(WIDTH, 4, batch_first=True)
    copy_into(reference, [attention.qkv.weight], [attention.qkv.bias], attention.output)
    x, real = torch.randn(3, 6, WIDTH), torch.arange(6)[None] < torch.tensor([[6], [2], [4]])
    expected = reference(x, x, x, key_padding_mask=~real, need_weights=False)[0]
    torch.testing.assert_close(attention(x, Context(masks={"x": MaskSpec(keys=real)})), expected, rtol=1e-5, atol=1e-6)
    full = reference(x, x, x, need_weights=False)[0]
    torch.testing.assert_close(attention(x, Context()), full, rtol=1e-5, atol=1e-6)


def test_cross_attention_is_torchs_multihead_attention() -> None:
    attention, reference = CrossAttention(WIDTH, heads=2), nn.MultiheadAttention(WIDTH, 2, batch_first=True)
    nn.init.normal_(attention.output.weight)
    copy_into(
        reference, [attention.query.weight, attention.key_value.weight],
        [attention.query.bias, attention.key_value.bias], attention.output,
    )
    x, text, image = torch.randn(2, 5, WIDTH), torch.randn(2, 3, WIDTH), torch.randn(2, 4, WIDTH)
    real = torch.tensor([[True, True, False], [True, False, False]])
    ctx = Context(condition=Condition(tokens={"text": Tokens(text, real), "image": Tokens(image)}))
    keys, padded = torch.cat([text, image], 1), torch.cat([~real, torch.zeros(2, 4, dtype=torch.bool)], 1)
    expected = reference(x, keys, keys, key_padding_mask=padded, need_weights=False)[0]
    torch.testing.assert_close(attention(x, ctx), expected, rtol=1e-5, atol=1e-6)


def test_cross_attention_reads_only_the_groups_it_names() -> None:
    attention = CrossAttention(WIDTH, heads=2, axes=("text",))
    nn.init.normal_(attention.output.weight)
    x, text = torch.randn(2, 5, WIDTH), Tokens(torch.randn(2, 3, WIDTH))
    alone = attention(x, Context(condition=Condition(tokens={"text": text})))
    with_other = Condition(tokens={"image": Tokens(torch.randn(2, 4, WIDTH)), "text": text})
    assert torch.equal(attention(x, Context(condition=with_other)), alone)
    with pytest.raises(ValueError, match=r"\['text'\] and has \['image'\]"):
        attention(x, Context(condition=Condition(tokens={"image": text})))
    with pytest.raises(ValueError, match="take the cross-attention out"):
        CrossAttention(WIDTH, heads=2)(x, Context())


def test_cross_attention_starts_by_adding_nothing() -> None:
    ctx = Context(condition=Condition(tokens={"text": Tokens(torch.randn(2, 3, WIDTH))}))
    assert not CrossAttention(WIDTH, heads=2)(torch.randn(2, 5, WIDTH), ctx).any()


shapes = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 9), st.sampled_from([2, 4, 8]))


@st.composite
def specifications(draw: st.DrawFn, batch: int, tokens: int) -> MaskSpec:
    """Any mask over a sequence, also one that leaves a query nothing to see."""
    bits = lambda count: torch.tensor(draw(st.lists(st.booleans(), min_size=count, max_size=count)))  # noqa: E731
    groups = draw(st.booleans())
    return MaskSpec(
        keys=bits(batch * tokens).reshape(batch, tokens) if draw(st.booleans()) else None,
        groups=bits(batch * tokens).reshape(batch, tokens).long() if groups else None,
        table=bits(4).reshape(2, 2) if groups else None,
        window=draw(st.none() | st.integers(0, tokens)),
    )


@settings(max_examples=40, deadline=None)
@given(st.data(), shapes)
def test_back_ends_agree_and_stay_finite_under_any_mask(data: st.DataObject, shape: tuple[int, int, int, int]) -> None:
    batch, heads, tokens, width = shape
    mask = data.draw(specifications(batch, tokens))
    q, k, v = (torch.randn(batch, heads, tokens, width, requires_grad=True) for _ in range(3))
    results = []
    for backend in (FusedAttention(), WrittenAttention()):
        output = backend.attend(q, k, v, mask, Context())
        gradients = torch.autograd.grad(output.square().sum(), (q, k, v))
        results.append([output, *gradients])
    for fused, written in zip(*results, strict=True):
        assert bool(fused.isfinite().all()) and bool(written.isfinite().all())
        torch.testing.assert_close(fused, written, rtol=1e-4, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 7), min_size=1, max_size=4), st.integers(0, 5), st.sampled_from(NORMS))
def test_what_is_masked_is_not_seen(lengths: list[int], padding: int, norm: QueryKeyNorm) -> None:
    torch.manual_seed(0)
    longest = max(lengths)
    attention = Attention(WIDTH, heads=2, qk_norm=norm, rotary=RotaryPosition)
    real = torch.arange(longest + padding)[None] < torch.tensor(lengths)[:, None]
    x = torch.randn(len(lengths), longest + padding, WIDTH)
    other = torch.where(real[..., None], x, 100 * torch.randn_like(x))
    ctx = Context(masks={"x": MaskSpec(keys=real)})
    outputs = attention(x, ctx), attention(other, ctx)
    torch.testing.assert_close(outputs[0][real], outputs[1][real], rtol=0, atol=1e-6)
    for i, length in enumerate(lengths):
        alone = attention(x[i : i + 1, :length], Context())[0]
        torch.testing.assert_close(outputs[0][i, :length], alone, rtol=0, atol=2e-6)


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(6)))
def test_attention_knows_no_order_without_positions(order: list[int]) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 6, WIDTH)
    free, rotary = Attention(WIDTH, heads=2), Attention(WIDTH, heads=2, rotary=RotaryPosition)
    torch.testing.assert_close(free(x[:, order], Context()), free(x, Context())[:, order], rtol=0, atol=1e-6)
    positions = torch.randn(2, 6)
    moved = rotary(x[:, order], Context(positions={"x": positions[:, order]}))
    torch.testing.assert_close(moved, rotary(x, Context(positions={"x": positions}))[:, order], rtol=0, atol=1e-6)
    if order != sorted(order):
        assert not torch.allclose(rotary(x[:, order], Context()), rotary(x, Context())[:, order], atol=1e-4)


def test_the_back_end_is_chosen_by_shape_type_and_gradient() -> None:
    short = torch.randn(1, 1, LONGEST_TRAINED, 4, requires_grad=True)
    long = torch.randn(1, 1, LONGEST_TRAINED + 1, 4, requires_grad=True)
    assert not prefers_written_out(short, short)
    assert prefers_written_out(short.bfloat16(), short.bfloat16())
    assert not prefers_written_out(long.bfloat16(), long.bfloat16())
    assert not prefers_written_out(short.half(), short.half())
    with torch.no_grad():
        for length in (LONGEST_SAMPLED, LONGEST_SAMPLED + 1):
            tokens = torch.randn(1, 1, length, 4)
            assert not prefers_written_out(tokens, tokens)
            assert prefers_written_out(tokens.bfloat16(), tokens.bfloat16()) == (length <= LONGEST_SAMPLED)


def test_heads_that_do_not_fit_are_refused() -> None:
    assert Attention(128).heads == 2
    with pytest.raises(ValueError, match="5 heads do not divide a width of 16"):
        Attention(16, heads=5)
    with pytest.raises(ValueError, match="no multiple of 64"):
        CrossAttention(96)


def test_query_key_norm_bounds_the_logits() -> None:
    seen = []

    class Record(FusedAttention):
        def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: MaskSpec | None, ctx: Context) -> Tensor:
            seen.append((q @ k.transpose(-1, -2) / 8**0.5).abs().max().item())
            return super().attend(q, k, v, mask, ctx)

    for build in (partial(Attention, qk_norm="head"), Attention):
        build(WIDTH, heads=2)(1e3 * torch.randn(2, 5, WIDTH), Context(attention=Record()))
    assert seen[0] <= 8**0.5 + 1e-4 < seen[1]
