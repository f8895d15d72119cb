"""Patches against torch's own convolution and folding."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from polydit.platform.context import Context
from polydit.platform.denoisers import PatchEmbedding, PatchHead
from polydit.platform.denoisers.patches import cut_patches, join_patches
from polydit.platform.state import Condition


def test_embedding_is_a_convolution_with_the_patch_as_stride() -> None:
    embedding, image = PatchEmbedding(8, in_channels=3, patch=2, position=None), torch.randn(2, 3, 4, 6)
    weight = embedding.linear.weight.reshape(8, 3, 2, 2)
    expected = functional.conv2d(image, weight, embedding.linear.bias, stride=2).flatten(2).transpose(1, 2)
    torch.testing.assert_close(embedding({"image": image}, Condition(), Context())["x"], expected)


def test_patches_are_torchs_unfolding() -> None:
    image = torch.randn(2, 3, 4, 6)
    assert torch.equal(cut_patches(image, 2), functional.unfold(image, 2, stride=2).transpose(1, 2))


def test_joining_undoes_cutting() -> None:
    image = torch.randn(2, 3, 4, 6)
    innermost = cut_patches(image, 2).unflatten(-1, (3, 4)).transpose(-1, -2).flatten(-2)
    assert torch.equal(join_patches(innermost, (2, 3), 2), image)


def test_channels_of_the_condition_stand_beside_the_image() -> None:
    embedding = PatchEmbedding(8, in_channels=3, channels={"hint": 1})
    image, hint = torch.randn(2, 3, 4, 6), torch.randn(2, 1, 4, 6)
    ctx = Context(positions=embedding.positions({"image": image}, Context()))
    with_zeros = embedding({"image": image}, Condition(channels={"hint": torch.zeros_like(hint)}), ctx)["x"]
    assert torch.equal(embedding({"image": image}, Condition(), ctx)["x"], with_zeros)
    assert not torch.allclose(embedding({"image": image}, Condition(channels={"hint": hint}), ctx)["x"], with_zeros)


def test_positions_are_rows_and_columns_unless_given() -> None:
    embedding, image = PatchEmbedding(8, patch=2), torch.zeros(1, 4, 4, 6)
    assert embedding.positions({"image": image}, Context())["x"].tolist() == [
        [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
    ]
    own = {"x": torch.ones(1, 6, 2)}
    assert embedding.positions({"image": image}, Context(positions=own)) is own


def test_an_image_that_patches_do_not_tile_is_refused() -> None:
    with pytest.raises(ValueError, match="patches of 2 x 2 do not tile an image of 5 x 4"):
        cut_patches(torch.zeros(1, 1, 5, 4), 2)


def test_the_head_predicts_zero_before_training() -> None:
    head, image = PatchHead(8, out_channels=6), torch.zeros(1, 3, 4, 6)
    vectors = (torch.zeros(1, 1, 8),) * 2
    output = head({"x": torch.randn(1, 6, 8)}, vectors, {"image": image}, Context())["image"]
    assert output.shape == (1, 6, 4, 6) and not output.any()
