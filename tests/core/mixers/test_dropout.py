"""Dropout around attention: none in evaluation, the right share in training, and only there."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from polydit.platform.context import Context
from polydit.platform.errors import ConfigurationError
from polydit.platform.mixers import Attention, AttentionDropout, CrossAttention
from polydit.platform.state import Condition, Tokens

WIDTH = 16


def test_evaluation_is_the_mixer_itself() -> None:
    mixer = AttentionDropout(WIDTH, partial(Attention, heads=2, causal=True), 0.5, 0.5).eval()
    x = torch.randn(2, 6, WIDTH)
    assert torch.equal(mixer(x, Context()), mixer.inner(x, Context()))
    assert mixer.cost(6) == mixer.inner.cost(6)


def test_training_drops_weights_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    mixer = AttentionDropout(WIDTH, partial(CrossAttention, heads=2), 0.3)
    torch.nn.init.normal_(mixer.inner.get_parameter("output.weight"))
    x, ctx = torch.randn(1, 3, WIDTH), Context(condition=Condition(tokens={"a": Tokens(torch.randn(1, 4, WIDTH))}))
    with torch.no_grad():
        draws = torch.stack([mixer(x, ctx) for _ in range(4000)])
        expected = mixer.eval()(x, ctx)
    assert float(draws.std(0).min()) > 0.05
    torch.testing.assert_close(draws.mean(0), expected, atol=0.15, rtol=0)


def test_the_same_seed_drops_the_same() -> None:
    mixer, x = AttentionDropout(WIDTH, partial(Attention, heads=2), 0.3, 0.2), torch.randn(2, 6, WIDTH)
    outputs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outputs.append(mixer(x, Context()))
    assert torch.equal(outputs[0], outputs[1]) and not torch.equal(outputs[0], outputs[2])


def test_causality_holds_under_dropout() -> None:
    mixer, x = AttentionDropout(WIDTH, partial(Attention, heads=2, causal=True), 0.3), torch.randn(2, 6, WIDTH)
    changed = x.clone()
    changed[:, 4:] += 1.0
    outputs = []
    for value in (x, changed):
        torch.manual_seed(0)
        outputs.append(mixer(value, Context()))
    torch.testing.assert_close(outputs[0][:, :4], outputs[1][:, :4])


def test_a_rate_of_one_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="dropout `rate` is a probability below 1"):
        AttentionDropout(WIDTH, rate=1.0)
