"""The diffusion transformer as a whole."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from polydit.platform.context import Context
from polydit.platform.denoisers import (
    DiT,
    PatchEmbedding,
    PatchHead,
    SinCosPosition,
    TimeEmbedding,
    TokenEmbedding,
    TokenHead,
    TransformerBlock,
)
from polydit.platform.denoisers.sizes import PUBLISHED_SIZES, published_dit
from polydit.platform.mixers import Attention
from polydit.platform.state import Condition, Layout, MaskSpec, Tokens

Embed = partial(TokenEmbedding, fields={"latent": 3}, channels={"self_condition": 3})
Predict = partial(TokenHead, fields={"latent": 3})
WIDTH = 16


def randomised(**options: Any) -> DiT:
    """A tiny DiT whose weights are nowhere zero."""
    parts: dict[str, Any] = {"embedding": Embed, "head": Predict, "mixer": partial(Attention, heads=2), **options}
    model = DiT(width=WIDTH, depth=2, **parts)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def predict(model: DiT, x: Tensor, cond: Condition | None = None, ctx: Context | None = None) -> Tensor:
    t = torch.linspace(0.1, 0.9, x.shape[0])
    return model({"latent": x}, t, cond or Condition(), ctx or Context())["latent"]


PUBLISHED = {
    "DiT-S/2": 32_865_056, "DiT-B/2": 130_315_808, "DiT-L/2": 457_840_672, "DiT-XL/2": 674_834_720,
}  # trainable weights of the public models, label table of 1000 + 1 classes included


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_have_the_published_parameters(name: str) -> None:
    with torch.device("meta"):
        model = published_dit(name)
        table = nn.Embedding(1001, model.width)
    assert sum(p.numel() for p in model.parameters()) + table.weight.numel() == PUBLISHED[name]


def test_a_block_has_eighteen_squares_and_fifteen_widths_of_parameters() -> None:
    for _, width, heads in PUBLISHED_SIZES.values():
        with torch.device("meta"):
            thin, thick = (
                DiT(PatchEmbedding, PatchHead, width, depth, partial(Attention, heads=heads)) for depth in (1, 2)
            )
        added = sum(p.numel() for p in thick.parameters()) - sum(p.numel() for p in thin.parameters())
        assert added == 18 * width**2 + 15 * width


def test_the_published_cost() -> None:
    """6.06 and 118.64 thousand million multiply-adds for 256 tokens; one multiply-add is two operations."""
    for name, expected in {"DiT-S/2": 6.06e9, "DiT-XL/2": 118.64e9}.items():
        with torch.device("meta"):
            assert published_dit(name).cost(256) / 2 == pytest.approx(expected, rel=2e-3)


def test_an_unknown_size_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"no published size 'DiT-M/2': choose one of DiT-S/2, .*DiT-XL/8"):
        published_dit("DiT-M/2")


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(5)))
def test_without_positions_tokens_are_a_set(order: list[int]) -> None:
    torch.manual_seed(0)
    model, x = randomised(), torch.randn(2, 5, 3)
    torch.testing.assert_close(predict(model, x[:, order]), predict(model, x)[:, order], rtol=0, atol=1e-5)


def test_with_positions_tokens_are_a_sequence() -> None:
    model = randomised(embedding=partial(Embed, position=SinCosPosition))
    x, order = torch.randn(2, 5, 3), [1, 0, 2, 3, 4]
    assert not torch.allclose(predict(model, x[:, order]), predict(model, x)[:, order], atol=1e-3)
    positions = torch.arange(5).expand(2, 5)
    moved = predict(model, x[:, order], ctx=Context(positions={"x": positions[:, order]}))
    torch.testing.assert_close(moved, predict(model, x)[:, order], rtol=0, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(0, 4))
def test_a_sample_is_denoised_alike_alone_and_in_a_padded_batch(lengths: list[int], padding: int) -> None:
    torch.manual_seed(0)
    model = randomised(embedding=partial(Embed, position=SinCosPosition))
    mask = torch.arange(max(lengths) + padding)[None] < torch.tensor(lengths)[:, None]
    x, t = torch.randn(*mask.shape, 3), torch.linspace(0.1, 0.9, len(lengths))
    ctx = model.context(Layout({"latent": tuple(x.shape)}, {"latent": mask}))
    together = model({"latent": x}, t, Condition(), ctx)["latent"]
    assert not together[~mask].any()
    for i, length in enumerate(lengths):
        alone = model({"latent": x[i : i + 1, :length]}, t[i : i + 1], Condition(), Context())["latent"]
        torch.testing.assert_close(together[i : i + 1, :length], alone, rtol=0, atol=1e-5)


def test_the_context_of_a_layout_leaves_out_masks_that_hide_nothing() -> None:
    model, full = randomised(), torch.ones(2, 4, dtype=torch.bool)
    part = full.clone()
    part[0, 3] = False
    positions = torch.zeros(2, 4)
    shapes = {"latent": (2, 4, 3)}
    assert not model.context(Layout(shapes, {"latent": full})).masks
    ctx = model.context(Layout(shapes, {"latent": part, "other": part}, {"latent": positions}))
    assert ctx.masks == {"x": MaskSpec(keys=part)} and ctx.positions == {"x": positions}


def test_a_missing_channel_counts_as_zeros_and_an_unknown_one_is_refused() -> None:
    model, x = randomised(), torch.randn(2, 4, 3)
    given_zeros = predict(model, x, Condition(channels={"self_condition": torch.zeros(2, 4, 3)}))
    assert torch.equal(predict(model, x), given_zeros)
    assert not torch.allclose(predict(model, x, Condition(channels={"self_condition": x})), given_zeros)
    with pytest.raises(ValueError, match=r"\['kept'\] beside them"):
        predict(model, x, Condition(channels={"kept": x}))


def test_a_condition_per_token_that_is_constant_is_one_per_sample() -> None:
    model, x, label = randomised(), torch.randn(2, 4, 3), torch.randn(2, WIDTH)
    per_sample = predict(model, x, Condition({"label": label}))
    torch.testing.assert_close(predict(model, x, Condition({"label": label[:, None].expand(2, 4, WIDTH)})), per_sample)
    t = torch.linspace(0.1, 0.9, 2)[:, None].expand(2, 4)
    levels = model({"latent": x}, t, Condition({"label": label}), Context())["latent"]
    torch.testing.assert_close(levels, per_sample)


def test_the_prediction_can_be_differentiated_by_its_input() -> None:
    model = randomised().double()
    x = torch.randn(1, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda value: predict(model, value), (x,), atol=1e-6)


def test_without_modulation_there_is_none() -> None:
    model = randomised(block=TransformerBlock, head=partial(Predict, modulated=False))
    assert model.modulation is None
    early, late = (
        model({"latent": torch.ones(1, 2, 3)}, torch.tensor([level]), Condition(), Context())["latent"]
        for level in (0.1, 0.9)
    )
    assert early.any() and torch.equal(early, late)


def test_in_context_tokens_are_read_only_if_named_and_real() -> None:
    model, x = randomised(in_context=("text",)), torch.randn(2, 4, 3)
    features, real = torch.randn(2, 3, WIDTH), torch.tensor([[True, True, False], [True, False, False]])
    other = torch.where(real[..., None], features, torch.randn(2, 3, WIDTH))
    with_text = [predict(model, x, Condition(tokens={"text": Tokens(value, real)})) for value in (features, other)]
    torch.testing.assert_close(*with_text, rtol=0, atol=1e-6)
    assert with_text[0].shape == x.shape
    changed = predict(model, x, Condition(tokens={"text": Tokens(torch.randn(2, 3, WIDTH), real)}))
    assert not torch.allclose(changed, with_text[0], atol=1e-4)


def test_in_context_names_that_cannot_be_tokens_are_refused() -> None:
    x = torch.randn(2, 4, 3)
    with pytest.raises(ValueError, match="'text' is neither `time` nor one of the condition's vectors"):
        predict(randomised(in_context=("text",)), x)
    with pytest.raises(ValueError, match="'label' is a vector per token"):
        predict(randomised(in_context=("label",)), x, Condition({"label": torch.randn(2, 4, WIDTH)}))


def test_fields_with_levels_of_their_own_need_a_time_embedding_that_knows_them() -> None:
    fields = {"place": 3, "kind": 2}
    parts = {"embedding": partial(TokenEmbedding, fields=fields), "head": partial(TokenHead, fields=fields)}
    x = {name: torch.randn(2, 4, count) for name, count in fields.items()}
    levels = {"place": torch.tensor([0.1, 0.2]), "kind": torch.rand(2, 4)}
    with pytest.raises(ValueError, match="knows one level: set its `fields`"):
        randomised(**parts)(x, levels, Condition(), Context())
    model = randomised(**parts, time=partial(TimeEmbedding, fields=("place", "kind")))
    output = model(x, levels, Condition(), Context())
    assert {name: value.shape for name, value in output.items()} == {name: value.shape for name, value in x.items()}
    with pytest.raises(ValueError, match=r"no noise level for fields \['kind'\]"):
        model(x, {"place": levels["place"]}, Condition(), Context())


def test_an_empty_stack_is_refused() -> None:
    with pytest.raises(ValueError, match="depth 0 is empty"):
        DiT(Embed, Predict, width=16, depth=0)
    with pytest.raises(ValueError, match="at least one field"):
        TokenEmbedding(16, fields={})


@pytest.mark.slow
def test_compiles_once_for_all_lengths_without_a_graph_break() -> None:
    graphs = []

    def keep(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        graphs.append(graph)
        return graph.forward

    model, t = randomised(embedding=partial(Embed, position=SinCosPosition)), torch.tensor([0.2, 0.8])
    torch.compiler.reset()  # code that other tests compiled many times over is not compiled again
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=keep)
    for tokens in (5, 6, 7):
        x, label = {"latent": torch.randn(2, tokens, 3)}, Condition({"label": torch.randn(2, WIDTH)})
        masks = {"x": MaskSpec(keys=torch.arange(tokens)[None] < torch.tensor([[tokens], [3]]))}
        output = compiled(x, t, label, Context(masks=masks))["latent"]
        assert torch.equal(output, model(x, t, label, Context(masks=masks))["latent"])
    assert len(graphs) == 1
    tapped = Context(wanted_taps=frozenset({"blocks.0"}))
    compiled(x, t, label, tapped)
    assert set(tapped.taps) == {"blocks.0"}


def test_two_transformers_of_one_denoiser_are_told_apart_by_name() -> None:
    tapped = Context(wanted_taps=frozenset({"stain.0", "mask.0", "blocks.0"}))
    for name in ("stain", "mask"):
        predict(randomised(name=name), torch.randn(2, 3, 3), ctx=tapped)
    assert set(tapped.taps) == {"stain.0", "mask.0"}
