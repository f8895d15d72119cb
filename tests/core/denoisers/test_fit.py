"""FiTv2: published sizes, any grid padded or packed, and positions that only differ."""

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
    AdaLNLoRA,
    DiT,
    LearntPosition,
    PackedTokenEmbedding,
    TokenEmbedding,
    TokenHead,
    pack_images,
    pad_images,
    unpad_images,
)
from polydit.platform.denoisers.sizes import published_fit
from polydit.platform.errors import ConfigurationError
from polydit.platform.feedforwards import SwiGLU
from polydit.platform.mixers import Attention, NTKRotary, RotaryPosition
from polydit.platform.state import Condition, Layout

WIDTH, PATCH, CHANNELS = 48, 2, 3
FIELDS = {"image": CHANNELS * PATCH**2}


@pytest.mark.parametrize(("name", "total"), [("FiTv2-XL/2", 671_045_776), ("FiTv2-3B/2", 2_971_928_080)])
def test_published_sizes(name: str, total: int) -> None:
    with torch.device("meta"):
        model = published_fit(name)
    assert sum(parameter.numel() for parameter in model.parameters()) + 1001 * model.width == total


def test_other_sizes_are_refused() -> None:
    for name in ("FiTv2-B/2", "XL", "FiTv2-XL/4"):
        with pytest.raises(ConfigurationError, match="choose one of FiTv2-XL/2, FiTv2-3B/2"):
            published_fit(name)


def build(embedding: Any = TokenEmbedding, scaling: Any = None, **options: Any) -> DiT:
    torch.manual_seed(0)
    rotary = partial(RotaryPosition, axes=(12, 12), scaling=scaling)
    model = DiT(
        partial(embedding, fields=FIELDS, **options), partial(TokenHead, fields=FIELDS), WIDTH, 3,
        partial(Attention, heads=2, qk_norm="layer", rotary=rotary),
        partial(SwiGLU, ratio=8 / 3, multiple=1, bias=True), modulation=AdaLNLoRA,
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2, generator=generator)
    return model


def pictures(*sizes: tuple[int, int]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(CHANNELS, *size, generator=generator) for size in sizes]


def run(model: DiT, patches: Any, t: Tensor, label: Tensor | None = None) -> Tensor:
    layout = Layout(
        {"image": tuple(patches.tokens.shape)}, {"image": patches.mask}, {"image": patches.positions}
    )
    condition = Condition() if label is None else Condition({"class": label})
    return model({"image": patches.tokens}, t, condition, model.context(layout))["image"]


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=4), st.integers(0, 5))
def test_images_come_back_as_they_were(grids: list[tuple[int, int]], more: int) -> None:
    images = [torch.randn(CHANNELS, rows * PATCH, columns * PATCH) for rows, columns in grids]
    count = max(rows * columns for rows, columns in grids) + more
    padded = pad_images(images, PATCH, count)
    assert padded.tokens.shape == (len(images), count, 12) and padded.positions.shape == (len(images), count, 2)
    assert padded.mask.sum(-1).tolist() == [rows * columns for rows, columns in grids]
    assert not bool(padded.tokens[~padded.mask].any())
    for image, found in zip(images, unpad_images(padded.tokens, grids, PATCH), strict=True):
        assert torch.equal(found, image)
    row, column = grids[0][0] - 1, grids[0][1] - 1
    last = padded.tokens[0, grids[0][0] * grids[0][1] - 1]
    assert torch.equal(last, images[0][:, row * PATCH :, column * PATCH :].flatten())


def test_padding_changes_no_real_output() -> None:
    model, images, t = build(), pictures((8, 4), (4, 6)), torch.tensor([0.3, 0.8])
    alone = [run(model, pad_images([image], PATCH), t[i : i + 1])[0] for i, image in enumerate(images)]
    for more in (8, 13):
        patches = pad_images(images, PATCH, more)
        patches.tokens[~patches.mask] = 1e3
        output = run(model, patches, t)
        for row, expected in enumerate(alone):
            torch.testing.assert_close(output[row, : len(expected)], expected, rtol=1e-4, atol=1e-4)
            assert not bool(output[row, len(expected) :].any())


def test_packed_images_are_what_they_are_apart() -> None:
    """Each with its own noise level and label."""
    images, levels = pictures((8, 4), (4, 6), (4, 4)), torch.tensor([0.2, 0.9, 0.5])
    labels = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(3))
    single, packed = build(), build(PackedTokenEmbedding, samples=3)
    packed.load_state_dict(single.state_dict())
    apart = [
        run(single, pad_images([image], PATCH), levels[i : i + 1], labels[i : i + 1])[0]
        for i, image in enumerate(images)
    ]
    patches = pack_images([images[:2], images[2:]], PATCH, 16)
    number = patches.positions[..., 0] + torch.tensor([[0], [2]])
    output = run(packed, patches, levels[number], labels[number])
    together = torch.cat([output[0, :14], output[1, :4]])
    torch.testing.assert_close(together, torch.cat(apart), rtol=1e-4, atol=1e-4)
    packed.embedding.samples = 1  # one for all
    patches.positions[..., 0] = 0
    mixed = run(packed, patches, levels[number], labels[number])
    assert not torch.allclose(mixed[0, :8], apart[0], atol=1e-2)


def test_shifted_grids_change_nothing_and_a_learnt_table_does() -> None:
    model, images, t = build(), pictures((8, 4), (4, 6)), torch.tensor([0.3, 0.8])
    patches = pad_images(images, PATCH)
    expected = run(model, patches, t)
    patches.positions[:] = patches.positions + torch.tensor([5, 11])
    torch.testing.assert_close(run(model, patches, t), expected, rtol=1e-4, atol=1e-5)
    table = build(position=partial(LearntPosition, count=64))
    table.blocks[0].mixer.rotary = None  # type: ignore[union-attr]
    nn.init.normal_(table.embedding.position.table.weight)  # type: ignore[union-attr]
    found = [
        table.embedding({"image": patches.tokens}, Condition(), Context(positions={"x": index}))["x"]
        for index in (torch.arange(8)[None], torch.arange(8)[None] + 5)
    ]
    assert not torch.allclose(*found, atol=1e-2)


def test_positions_matter_and_stretch() -> None:
    model, images, t = build(), pictures((8, 4)), torch.tensor([0.3])
    patches = pad_images(images, PATCH)
    expected = run(model, patches, t)
    stretched = build(scaling=NTKRotary((1.0, 1.0)))
    assert torch.equal(run(stretched, patches, t), expected)
    assert not torch.allclose(run(build(scaling=NTKRotary((2.0, 1.0))), patches, t), expected, atol=1e-3)
    patches.positions[:] = patches.positions.flip(-1)
    assert not torch.allclose(run(model, patches, t), expected, atol=1e-3)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="8 patches exceed 6 tokens"):
        pad_images(pictures((8, 4)), PATCH, 6)
    with pytest.raises(ConfigurationError, match="patches of 2 x 2 do not tile an image of 5 x 4"):
        pad_images(pictures((5, 4)), PATCH)
    with pytest.raises(ConfigurationError, match="a grid of 4 x 4 patches exceeds 8 tokens"):
        unpad_images(torch.zeros(1, 8, 12), [(4, 4)], PATCH)
    model = build(PackedTokenEmbedding)
    with pytest.raises(ConfigurationError, match="begin with the number of the sample"):
        model({"image": torch.zeros(1, 4, 12)}, torch.zeros(1), Condition(), Context())
