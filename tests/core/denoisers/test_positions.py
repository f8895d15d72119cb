"""Positions and the time embedding against diffusers' and against their formulas."""

from __future__ import annotations

import math

import pytest
import torch

from polydit.platform.denoisers import LearntPosition, SharePosition, SinCosPosition, TimeEmbedding
from polydit.platform.denoisers.patches import image_position


def test_image_positions_are_diffusers() -> None:
    embeddings = pytest.importorskip("diffusers.models.embeddings")
    expected = embeddings.get_2d_sincos_pos_embed(24, (3, 5), base_size=3, output_type="pt").float()
    # diffusers stretches a grid to the base size; ours counts patches
    grid = torch.cartesian_prod(torch.arange(3.0), torch.arange(5.0) * 3 / 5)
    torch.testing.assert_close(image_position(24)(torch.zeros(1, 15, 24), grid[None])[0], expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("include_base", [False, True])
def test_the_sinusoid_of_time_is_diffusers(include_base: bool) -> None:
    embeddings = pytest.importorskip("diffusers.models.embeddings")
    t = torch.tensor([0.0, 0.123, 0.5, 0.999])
    expected = embeddings.get_timestep_embedding(
        t * 1000, 64, flip_sin_to_cos=True, downscale_freq_shift=1 if include_base else 0
    )
    time = TimeEmbedding(8, frequencies=64, include_base=include_base)
    assert torch.equal(time._sinusoid(t), expected)


def test_atom_index_by_its_formula() -> None:
    position = SinCosPosition(8, base=2048, scale=math.pi)(torch.zeros(1, 7, 8), None)
    for index in range(7):
        for k in range(4):
            angle = index * math.pi / 2048 ** (2 * k / 8)
            assert position[0, index, k].item() == pytest.approx(math.sin(angle), abs=2e-6)
            assert position[0, index, 4 + k].item() == pytest.approx(math.cos(angle), abs=2e-6)


def test_positions_given_are_positions_by_index() -> None:
    h = torch.zeros(2, 5, 8)
    for position in (SinCosPosition(8), LearntPosition(8, count=5)):
        torch.testing.assert_close(position(h, torch.arange(5).expand(2, 5)), position(h, None).expand(2, 5, 8))


def test_axes_may_be_reordered() -> None:
    h, grid = torch.zeros(1, 4, 8), torch.randn(1, 4, 2)
    torch.testing.assert_close(SinCosPosition(8, axes=(1, 0))(h, grid), SinCosPosition(8)(h, grid.flip(-1)))


def test_a_share_is_the_same_on_grids_of_every_length() -> None:
    """The middle of 3 and of 9 tokens, a sixth of the way, and each sample of a batch by its own length."""
    position = SharePosition(8, cycles=2.0, base=64.0)
    short, long = position(torch.zeros(1, 3, 8), None)[0], position(torch.zeros(1, 9, 8), None)[0]
    torch.testing.assert_close(short, long[1::3])
    first = torch.cat([torch.tensor([1 / 6]) * 4 * math.pi * 64.0 ** (-k / 4) for k in range(4)])
    torch.testing.assert_close(short[0], torch.cat([first.sin(), first.cos()]), rtol=0, atol=1e-5)
    grids = torch.tensor([[[0, 0], [0, 1], [0, 0]], [[0, 0], [1, 0], [2, 0]]])  # 1 x 2 and one padded token; 3 x 1
    together = position(torch.zeros(2, 3, 8), grids)
    for row, count in ((0, 2), (1, 3)):
        alone = position(torch.zeros(1, count, 8), grids[row : row + 1, :count])
        torch.testing.assert_close(together[row : row + 1, :count], alone)


def test_positions_that_do_not_fit_are_refused() -> None:
    h = torch.zeros(1, 4, 8)
    with pytest.raises(ValueError, match="a width of 8 cannot hold sines and cosines of 3 axes"):
        SinCosPosition(8)(h, torch.zeros(1, 4, 3))
    with pytest.raises(ValueError, match=r"axes \(0, 0\) do not order 2"):
        SinCosPosition(8, axes=(0, 0))(h, torch.zeros(1, 4, 2))
    with pytest.raises(ValueError, match="4 tokens exceed the 3 learnt positions"):
        LearntPosition(8, count=3)(h, None)
    with pytest.raises(ValueError, match="use SinCosPosition for several axes"):
        LearntPosition(8)(h, torch.zeros(1, 4, 2))


def test_the_unscaled_time_hardly_moves_most_of_its_sinusoid() -> None:
    """Why 1000 is the default: of t in [0, 1] itself, all but the fastest frequencies see a constant."""
    t = torch.tensor([0.0, 1.0])
    moved = [
        ((values[1] - values[0]).abs() > 0.1).float().mean().item()
        for values in (TimeEmbedding(8, scale=scale)._sinusoid(t) for scale in (1.0, 1000.0))
    ]
    assert moved[0] < 0.3 < 0.6 < moved[1]
