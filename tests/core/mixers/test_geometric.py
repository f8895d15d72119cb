"""Attention that knows distances: a force it must be able to write, and what it must not depend on."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from polydit.platform.context import Context, estimate_of
from polydit.platform.denoisers import TokenEmbedding, TransformerStack
from polydit.platform.errors import ConfigurationError
from polydit.platform.mixers import GeometricAttention, geometric
from polydit.platform.mixers.geometric import NEIGHBOURS, SOFTENING, pair_features
from polydit.platform.state import Condition, MaskSpec

POINTS = torch.tensor([[[0.0, 0.0, 0.0], [1.5, 0.0, 0.0], [0.0, 2.0, 0.0], [9.0, 9.0, 9.0]]])


def context(points: Tensor = POINTS, keys: Tensor | None = None) -> Context:
    return Context(points={"x": points}, masks={"x": MaskSpec(keys=keys)} if keys is not None else {})


def test_features_by_their_formula() -> None:
    features = pair_features(POINTS, 4, 2, 1.0, 2.5)[0]
    assert features.shape == (4, 4, 4 + 3 * 2)
    expected = [math.exp(-(((1.5 - centre) / 0.5) ** 2)) for centre in (1.0, 1.5, 2.0, 2.5)]
    torch.testing.assert_close(features[0, 1, :4], torch.tensor(expected), atol=1e-4, rtol=1e-4)
    reach = 1.5 / (1.5 + SOFTENING)
    broad = [math.exp(-(((1.5 - centre) / 1.5) ** 2)) for centre in (1.0, 2.5)]
    directed = [broad[0] * reach, 0, 0, broad[1] * reach, 0, 0]
    torch.testing.assert_close(features[0, 1, 4:], torch.tensor(directed), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(features[1, 0, 4:], -features[0, 1, 4:])
    assert features[0, 0, 4:].abs().max() == 0, "a token has no direction to itself"


def test_writes_a_sum_of_pair_forces() -> None:
    """Even attention and an identity map give sum_j g(d_ij) (r_j - r_i) / d_ij, what a spring network needs."""
    mixer = GeometricAttention(8, heads=1, radial=2, directed=2, near=1.0, far=3.0, bias=False)
    for parameter in mixer.parameters():
        torch.nn.init.zeros_(parameter)
    with torch.no_grad():
        mixer.pairs.weight[:3, 2:5] = torch.eye(3)  # the first directed Gaussian, centred on 1
    keys = torch.tensor([[True, True, True, False]])
    force = NEIGHBOURS * mixer(torch.randn(1, 4, 8), context(keys=keys))[0, 0, :3]
    expected = torch.zeros(3)
    for other in (1, 2):
        distance = POINTS[0, other].norm()
        expected += torch.exp(-(((distance - 1.0) / 2.0) ** 2)) * POINTS[0, other] / (distance + SOFTENING)
    torch.testing.assert_close(force, expected, atol=1e-4, rtol=1e-4)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(-20, 20), min_size=3, max_size=3))
def test_only_differences_of_points_count(shift: list[float]) -> None:
    torch.manual_seed(0)
    mixer, x = GeometricAttention(8, heads=2), torch.randn(1, 4, 8)
    moved = mixer(x, context(POINTS + torch.tensor(shift)))
    torch.testing.assert_close(moved, mixer(x, context()), atol=1e-3, rtol=1e-3)
    assert not torch.allclose(mixer(x, context(1.3 * POINTS)), mixer(x, context()), atol=1e-3)


def test_features_are_made_once_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counting(*words: object) -> Tensor:
        calls.append(words)
        return pair_features(*words)  # type: ignore[arg-type]

    monkeypatch.setattr(geometric, "pair_features", counting)
    stack = TransformerStack(8, 3, partial(GeometricAttention, heads=2))
    for _ in range(2):
        stack(torch.randn(1, 4, 8), context())
    assert len(calls) == 2


def test_gradients_reach_the_points_even_where_two_coincide() -> None:
    points = POINTS.clone()
    points[0, 1] = points[0, 0]
    points.requires_grad_()
    GeometricAttention(8, heads=2)(torch.randn(1, 4, 8), context(points)).square().sum().backward()
    assert points.grad is not None and points.grad.isfinite().all() and points.grad.abs().max() > 0


def test_estimated_places_count_beside_the_noised_ones() -> None:
    """A pass without an estimate gives what a mixer without that part gives; one with an estimate adds its forces."""
    torch.manual_seed(0)
    plain, both = GeometricAttention(8, heads=2), GeometricAttention(8, heads=2, estimate=True)
    both.load_state_dict(plain.state_dict(), strict=False)
    x, ctx = torch.randn(1, 4, 8), context()
    assert torch.equal(both(x, ctx), plain(x, ctx))
    elsewhere = Context(points={"x": POINTS, estimate_of("x"): 0.8 * POINTS})
    assert torch.equal(plain(x, elsewhere), plain(x, ctx))
    assert (both(x, elsewhere) - plain(x, ctx)).abs().max() > 1e-2
    assert both.estimate_pairs is not None and both.estimate_logits is not None
    for part, source in ((both.estimate_pairs, both.pairs), (both.estimate_logits, both.logits)):
        part.weight.data.copy_(source.weight)
    both.pairs.weight.data.zero_()
    both.logits.weight.data.zero_()
    swapped = both(x, Context(points={"x": 0.8 * POINTS, estimate_of("x"): POINTS}))
    torch.testing.assert_close(swapped, plain(x, ctx), msg="the estimate's part is the points' part with other weights")
    assert both.cost(4) - plain.cost(4) == plain.cost(4) - 8 * 4 * 64 - 4 * 16 * 8


def test_embedding_passes_the_estimate_on() -> None:
    embedding = TokenEmbedding(
        8, {"latent": 5}, {"self_condition": 5}, points="latent", point_unit=1.5, estimate="self_condition"
    )
    x_t, estimate = {"latent": torch.randn(2, 4, 5)}, torch.randn(2, 4, 5)
    assert set(embedding.points(x_t, Context())) == {"x"}
    known = Context(condition=Condition(channels={"self_condition": estimate}))
    assert torch.equal(embedding.points(x_t, known)[estimate_of("x")], 1.5 * estimate[..., :3])
    with pytest.raises(ConfigurationError, match="'last' is no condition channel"):
        TokenEmbedding(8, {"latent": 5}, points="latent", estimate="last")


def test_what_is_missing_is_named() -> None:
    mixer = GeometricAttention(8, heads=2)
    with pytest.raises(ConfigurationError, match="has none: set the embedding's `points`"):
        mixer(torch.randn(1, 4, 8), Context())
    with pytest.raises(ConfigurationError, match="has 4 for 6 tokens"):
        mixer(torch.randn(1, 6, 8), context())
    with pytest.raises(ConfigurationError, match="near 3 below far 2"):
        GeometricAttention(8, heads=2, near=3, far=2)
    with pytest.raises(ConfigurationError, match="no field of at least three channels"):
        TokenEmbedding(8, {"latent": 2}, points="latent")


def test_embedding_measures_in_the_unit_it_is_given() -> None:
    embedding = TokenEmbedding(8, {"latent": 5}, points="latent", point_unit=1.5)
    x_t = {"latent": torch.randn(2, 4, 5)}
    assert torch.equal(embedding.points(x_t, Context())["x"], 1.5 * x_t["latent"][..., :3])
    assert TokenEmbedding(8, {"latent": 5}).points(x_t, context())["x"] is POINTS
    assert embedding(x_t, Condition(), Context())["x"].shape == (2, 4, 8)
