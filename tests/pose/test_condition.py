"""DiffPose's condition: candidates are drawn as the heatmaps say, and their order is nowhere."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from polydit.data.pose.batch import PoseBatch
from polydit.domains.pose.candidates import draw_candidates, uniform_of
from polydit.domains.pose.codec import PoseCodec
from polydit.domains.pose.diffpose import PoseMLP
from polydit.domains.pose.heatmap_encoder import HeatmapAxis, HeatmapEncoder, PlaceCode
from polydit.platform.conditioning import Conditioner
from polydit.platform.errors import ConfigurationError

from .conftest import make_axis


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def test_published_sizes() -> None:
    """5.01 and 6.40 million parameters, of which every one learns."""
    with torch.device("meta"):
        assert count(HeatmapAxis(2048)) == 5_008_000
        assert count(PoseMLP()) == 6_395_952


def test_candidates_follow_the_heatmap_with_the_peak_first() -> None:
    maps = torch.zeros(1, 1, 64, 64)
    maps[0, 0, 10, 20], maps[0, 0, 50, 40], maps[0, 0, 5, 5] = 0.6, 0.2, -1.0
    uniform = torch.rand(1, 1, 1, 20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    candidates = draw_candidates(maps, uniform)[0, 0, 0]
    torch.testing.assert_close(candidates[0], torch.tensor([2 * 20 / 64 - 1, 2 * 10 / 64 - 1, 0.6]))
    first = (candidates[1:, 0] == 2 * 20 / 64 - 1).float().mean().item()
    assert first == pytest.approx(0.75, abs=0.01)
    other = candidates[1:][candidates[1:, 0] != 2 * 20 / 64 - 1]
    torch.testing.assert_close(other, torch.tensor([[2 * 40 / 64 - 1, 2 * 50 / 64 - 1, 0.2]]).expand(len(other), 3))


def test_no_candidate_lies_where_a_heatmap_is_empty_unless_all_of_it_is() -> None:
    maps = torch.zeros(2, 3, 64, 64)
    maps[0, 0, :, :32] = 1e-3
    maps[0, 1, 63, 63], maps[0, 2, 0, 0] = 1e-6, 5.0
    edges = torch.tensor([0.0, 1 - 2**-53, 0.5, 1e-300], dtype=torch.float64).expand(4, 2, 3, 4)
    candidates = draw_candidates(maps, edges)
    assert candidates.shape == (4, 2, 3, 5, 3)
    assert bool((candidates[:, 0, ..., 2] > 0).all())
    assert bool((candidates[:, 1, ..., 2] == 0).all()) and bool(candidates.isfinite().all())
    uniform = torch.rand(1, 2, 3, 5000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    anywhere = draw_candidates(maps, uniform)[0, 1, 0, 1:, :2]
    assert anywhere.mean(dim=0).abs().max() < 0.05 and anywhere.std(dim=0).sub(1 / math.sqrt(3)).abs().max() < 0.02
    assert anywhere.min() >= -1 and anywhere.max() < 1


def test_numbers_of_a_seed_are_its_own() -> None:
    together, alone = uniform_of([3, 9, -4], 16, 31), uniform_of([9], 16, 31)
    assert torch.equal(together[1], alone[0]) and not torch.equal(together[0], together[1])
    noise = torch.randn(16, 31, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    assert abs(float(np.corrcoef(noise.flatten(), alone[0].flatten())[0, 1])) < 0.15, "not those of the noise"


def test_place_code_is_a_squared_cosine_on_about_four_centres() -> None:
    code = PlaceCode(64)
    places = torch.tensor([[0.1, -0.9], [1.0, -1.0]])
    found = code(places)
    assert found.shape == (2, 128)
    centres = torch.linspace(-1, 1, 64)
    distance = (0.1 - centres).abs()
    expected = torch.where(distance <= 1 / 16, (8 * math.pi * distance).cos() ** 2, 0.0)
    torch.testing.assert_close(found[0, :64], expected, atol=1e-6, rtol=0)
    assert 3 <= int((found[0, :64] > 1e-6).sum()) <= 5
    assert found[1, 63] == pytest.approx(1) and found[1, 64] == pytest.approx(1)


def draw(seed: int = 0, candidates: int = 32) -> torch.Tensor:
    values = torch.rand(2, 16, candidates, 3, generator=torch.Generator().manual_seed(seed))
    return torch.cat([2 * values[..., :2] - 1, values[..., 2:]], dim=-1)


@pytest.mark.parametrize("tokens", [False, True])
def test_condition_knows_no_order_among_candidates(tokens: bool) -> None:
    axis = make_axis(24, tokens=tokens).eval()
    candidates = draw()
    order = torch.argsort(torch.rand(2, 16, 32, generator=torch.Generator().manual_seed(1)), dim=-1)
    shuffled = candidates.gather(2, order[..., None].expand(-1, -1, -1, 3))
    found, again = axis(candidates), axis(shuffled)
    assert found.shape == ((2, 16, 24) if tokens else (2, 24))
    torch.testing.assert_close(found, again, atol=1e-5, rtol=0)
    other = candidates[:, torch.arange(16).roll(1)]
    assert not torch.allclose(axis(other), found, atol=1e-3), "but it knows which joint is which"


def test_an_unlikely_candidate_counts_as_the_bias_wherever_it_is() -> None:
    encoder = HeatmapEncoder().eval()
    candidates = draw()
    candidates[:, 3, 5:, 2] = 0
    moved = candidates.clone()
    moved[:, 3, 5:, :2] = draw(1)[:, 3, 5:, :2]
    torch.testing.assert_close(encoder(candidates), encoder(moved), atol=1e-6, rtol=0)
    seen = []
    encoder.encoder.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    candidates[:, 3, :, 2] = 0
    encoder(candidates)
    expected = 32 * encoder.projection.bias + encoder.joint.weight[3]
    torch.testing.assert_close(seen[0][:, 3], expected.expand(2, -1), atol=1e-6, rtol=0)


def test_layers_of_the_encoder_begin_apart() -> None:
    first, second = HeatmapEncoder(depth=2).encoder.layers
    assert not torch.equal(first.linear1.weight, second.linear1.weight)  # type: ignore[union-attr, arg-type]


def test_heatmaps_not_given_are_the_null() -> None:
    conditioner = Conditioner(24, {"heatmaps": make_axis})
    axis = conditioner.axes["heatmaps"]
    found = conditioner.eval().encode({}, 3, torch.device("cpu"))
    torch.testing.assert_close(found.vectors["heatmaps"], axis.null.expand(3, 24))  # type: ignore[union-attr, operator]
    with pytest.raises(ConfigurationError, match="made for candidates"):
        conditioner.encode({"heatmaps": draw()[:, :15]}, 2, torch.device("cpu"))


def test_training_hides_joints_as_often_as_stated(batch: PoseBatch) -> None:
    codec = PoseCodec(joint_dropout=0.3)
    batch.heatmaps = torch.ones_like(batch.heatmaps)
    hidden = torch.stack([
        (codec.encode(batch, torch.Generator().manual_seed(seed))[1].labels["heatmaps"][..., 2] == 0).all(dim=-1)
        for seed in range(60)
    ])
    assert hidden.float().mean().item() == pytest.approx(0.3, abs=0.03)
    state, layout = PoseCodec(joint_dropout=0).encode(batch, torch.Generator())
    assert bool((layout.labels["heatmaps"][..., 2] == 1).all())
    torch.testing.assert_close(state["pose"], 10 * batch.poses[:, 1:])


def test_codes_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="candidates 0"):
        PoseCodec(candidates=0)
    with pytest.raises(ConfigurationError, match="steps 1"):
        PoseMLP(steps=1)
