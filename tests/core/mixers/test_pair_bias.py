"""Attention biased by what pairs of tokens are."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.nn import functional

from polydit.platform.context import Context
from polydit.platform.errors import ConfigurationError
from polydit.platform.mixers import Attention, AttentionDropout, DistanceBias, FusedAttention, WrittenAttention
from polydit.platform.mixers.masks import prepend_visible
from polydit.platform.state import MaskSpec

BACKENDS = {"fused": FusedAttention(), "written": WrittenAttention()}


def make_inputs() -> tuple[torch.Tensor, MaskSpec, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, 3, 5, 8, generator=generator)
    keys = torch.tensor([[True] * 5, [True, True, True, False, False]])
    return q, MaskSpec(keys=keys), torch.randn(2, 3, 5, 5, generator=generator)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_bias_is_added_to_the_logits_of_every_back_end(backend: str) -> None:
    q, mask, bias = make_inputs()
    found = BACKENDS[backend].attend(q, q, q, MaskSpec(keys=mask.keys, bias=bias), Context())
    assert mask.keys is not None
    logits = (q @ q.transpose(-1, -2) * 8**-0.5 + bias).masked_fill(~mask.keys[:, None, None], -torch.inf)
    torch.testing.assert_close(found, logits.softmax(-1) @ q, rtol=1e-5, atol=1e-6)
    alone = BACKENDS[backend].attend(q, q, q, MaskSpec(bias=bias), Context())
    torch.testing.assert_close(
        alone, functional.scaled_dot_product_attention(q, q, q, attn_mask=bias), rtol=1e-5, atol=1e-6
    )


def test_prepended_tokens_have_no_bias() -> None:
    _, mask, bias = make_inputs()
    longer = prepend_visible(MaskSpec(keys=mask.keys, bias=bias), torch.ones(2, 2, dtype=torch.bool), 5)
    assert longer.bias is not None and torch.equal(longer.bias[..., 2:, 2:], bias)
    assert not longer.bias[..., :2, :].any() and not longer.bias[..., :2].any()


@pytest.mark.parametrize("dropout", [False, True])
def test_distances_steer_attention_once_they_are_learnt(dropout: bool) -> None:
    torch.manual_seed(0)
    build = partial(Attention, heads=2, pair_bias=partial(DistanceBias, near=0.5, far=3.0))
    mixer = AttentionDropout(16, build, rate=1e-9) if dropout else build(16)
    inner = mixer.inner if isinstance(mixer, AttentionDropout) else mixer
    assert isinstance(inner, Attention) and isinstance(inner.pair_bias, DistanceBias)
    x, points = torch.randn(1, 4, 16), torch.randn(1, 4, 3)
    here, apart = Context(points={"x": points}), Context(points={"x": points * 2})
    plain = Attention(16, 2)
    plain.load_state_dict({k: v for k, v in inner.state_dict().items() if "pair_bias" not in k})
    torch.testing.assert_close(mixer(x, here), plain(x, Context()), rtol=1e-5, atol=1e-6)
    torch.nn.init.normal_(inner.pair_bias.logits.weight)
    assert (mixer(x, here) - mixer(x, apart)).abs().max() > 1e-3


def test_what_it_cannot_do_without_is_named() -> None:
    mixer = Attention(16, 2, pair_bias=DistanceBias)
    with pytest.raises(ConfigurationError, match="leave `pair_bias` out"):
        mixer(torch.randn(1, 4, 16), Context())
    with pytest.raises(ConfigurationError, match="radial 1"):
        DistanceBias(2, radial=1)
