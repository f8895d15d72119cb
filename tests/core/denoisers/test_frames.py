"""Clips as tokens, and attention along time and within frames.

Shape legend: B clips, F frames, C channels, Y, X rows and columns, D width.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from polydit.platform.context import Context
from polydit.platform.denoisers import DiT, PatchEmbedding, PatchHead
from polydit.platform.denoisers.frames import FactorisedBlock, FrameEmbedding, FrameHead, cut_clip, join_clip
from polydit.platform.errors import ConfigurationError
from polydit.platform.mixers import Attention, RotaryPosition
from polydit.platform.state import Condition, Layout, MaskSpec

WIDTH, FRAMES = 32, 3
Attend = partial(Attention, heads=2)


def make_model(position: bool = True, **block: object) -> DiT:
    """Three channels, patches of 4, random weights throughout."""
    options = {} if position else {"position": None}
    model = DiT(
        partial(FrameEmbedding, in_channels=3, patch=4, **options), partial(FrameHead, out_channels=3, patch=4),
        WIDTH, 2, Attend, block=partial(FactorisedBlock, frames=FRAMES, **block),
    )
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def draw_clip(frames: int = FRAMES) -> Tensor:
    return torch.randn(2, frames, 3, 8, 8, generator=torch.Generator().manual_seed(2))


def run(model: DiT, clip: Tensor) -> Tensor:
    layout = Layout({"video": tuple(clip.shape)})
    return model({"video": clip}, torch.tensor([0.3, 0.8]), Condition(), model.context(layout))["video"]


def silence_time(model: DiT) -> None:
    for block in model.blocks:
        torch.nn.init.zeros_(block.temporal_linear.weight)
        torch.nn.init.zeros_(block.temporal_linear.bias)


@pytest.mark.parametrize("tube", [1, 2])
def test_patches_of_clips_come_back(tube: int) -> None:
    clip = torch.randn(2, 4, 3, 8, 12)
    patches = cut_clip(clip, 4, tube)
    assert patches.shape == (2, 4 // tube * 6, 3 * tube * 16)
    # an embedding has channels outermost within a patch and a head innermost, as in the published DiT
    turned = patches.unflatten(-1, (3 * tube, 16)).transpose(-1, -2).flatten(-2)
    assert torch.equal(join_clip(turned, (4 // tube, 2, 3), 4, tube), clip)


def test_without_its_temporal_part_each_frame_is_the_image_model_of_the_same_weights() -> None:
    model = make_model(position=False)
    silence_time(model)
    image = DiT(
        partial(PatchEmbedding, field="video", in_channels=3, patch=4, position=None),
        partial(PatchHead, field="video", out_channels=3, patch=4), WIDTH, 2, Attend,
    )
    image.load_state_dict({key: value for key, value in model.state_dict().items() if "temporal" not in key})
    clip, t = draw_clip(), torch.tensor([0.3, 0.8])
    frames = [image({"video": clip[:, f]}, t, Condition(), Context())["video"] for f in range(FRAMES)]
    torch.testing.assert_close(run(model, clip), torch.stack(frames, dim=1), atol=1e-6, rtol=1e-5)


def test_a_frame_reaches_others_at_its_place_first_and_everywhere_through_the_frame() -> None:
    model = make_model()
    block = model.blocks[0]
    ctx = Context(grids={"x": (FRAMES, 2, 2)})
    h = torch.randn(1, FRAMES * 4, WIDTH, generator=torch.Generator().manual_seed(3))
    changed = h.clone()
    changed[:, 1] = torch.randn(WIDTH, generator=torch.Generator().manual_seed(4))  # frame 0, place 1
    difference = (block.mix_frames(changed, ctx) - block.mix_frames(h, ctx))[0].abs().sum(-1)
    moved = difference.unflatten(0, (FRAMES, 4)) > 1e-4
    assert moved[:, 1].all() and not moved[:, [0, 2, 3]].any()
    vectors = [torch.ones(1, 1, WIDTH)] * 6
    whole = block({"x": changed}, vectors, ctx)["x"] - block({"x": h}, vectors, ctx)["x"]
    assert bool((whole.abs().sum(-1) > 1e-4).all())


def test_frames_are_strangers_at_the_start_and_their_order_matters_afterwards() -> None:
    model, clip = make_model(), draw_clip()
    order = [2, 0, 1]
    assert not torch.allclose(run(model, clip)[:, order], run(model, clip[:, order]), atol=1e-4)
    plain = make_model(position=False)
    torch.testing.assert_close(run(plain, clip)[:, order], run(plain, clip[:, order]), atol=1e-5, rtol=1e-5)


def test_a_clip_may_have_another_length_than_the_cost_is_told() -> None:
    assert run(make_model(), draw_clip(5)).shape == (2, 5, 3, 8, 8)


def test_rotary_positions_along_time_and_within_frames() -> None:
    model = DiT(
        partial(FrameEmbedding, in_channels=3, patch=4, position=None), partial(FrameHead, out_channels=3, patch=4),
        WIDTH, 1, partial(Attend, rotary=partial(RotaryPosition, axes=(8, 8))),
        block=partial(FactorisedBlock, temporal=partial(Attend, rotary=RotaryPosition)),
    )
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    clip, order = draw_clip(), [2, 0, 1]
    assert not torch.allclose(run(model, clip)[:, order], run(model, clip[:, order]), atol=1e-4)


def test_padding_and_sequences_without_a_grid_are_refused() -> None:
    block = make_model().blocks[0]
    h, vectors = {"x": torch.zeros(1, 12, WIDTH)}, [torch.zeros(1, 1, WIDTH)] * 6
    with pytest.raises(ConfigurationError, match="FrameEmbedding"):
        block(h, vectors, Context())
    padded = Context(grids={"x": (3, 2, 2)}, masks={"x": MaskSpec(keys=torch.ones(1, 12, dtype=torch.bool))})
    with pytest.raises(ConfigurationError, match="padded"):
        block(h, vectors, padded)


def test_clips_that_patches_do_not_tile_are_refused() -> None:
    embedding = FrameEmbedding(WIDTH, in_channels=3, patch=4, tube=2)
    with pytest.raises(ConfigurationError, match="2 frames do not tile 3"):
        embedding.grids({"video": torch.zeros(1, 3, 3, 8, 8)}, Context())


def test_a_pass_in_segments_is_the_pass() -> None:
    model, clip, t = make_model(), draw_clip(), torch.tensor([0.3, 0.8])
    opened = model.open({"video": clip}, t, Condition(), Context())
    for start, stop in ((0, 1), (1, 1), (1, 2)):
        opened = model.advance(opened, start, stop)
    assert torch.equal(model.close(opened, {"video": clip})["video"], run(model, clip))
