"""What training gives, and what tasks do."""

from __future__ import annotations

import pytest
import torch

from polydit.domains.video.masks import TEMPORAL, MaskMixture, draw_blocks, give_frames, mask_region
from polydit.platform.errors import ConfigurationError


def draw(count: int = 400, frames: int = 16, seed: int = 0, **options: object) -> torch.Tensor:
    return MaskMixture(**options).draw(count, frames, (4, 4), torch.Generator().manual_seed(seed))  # type: ignore[arg-type]


def test_the_mixture_is_that_of_vdt() -> None:
    given = draw(2000)
    whole = (given.all(dim=(2, 3)) | ~given.any(dim=2).any(dim=2)).all(dim=1)
    assert abs(float((~whole).float().mean()) - 0.2) < 0.03
    blocks = given[~whole]
    assert (blocks == blocks[:, :1]).all() and 0.3 < float(blocks.float().mean()) <= 0.5
    frames = given[whole][:, :, 0, 0]
    for task in ("unconditional", "predict", "backward", "interpolate"):
        share = float((frames == give_frames(task, 16)).all(dim=1).float().mean())
        assert abs(share - 1 / 6) < 0.04 or (task == "unconditional" and share > 1 / 6), (task, share)
    assert abs(float((frames.sum(dim=1) == 1).float().mean()) - 1 / 6) < 0.06


def test_same_seed_same_masks() -> None:
    assert torch.equal(draw(seed=3), draw(seed=3)) and not torch.equal(draw(seed=3), draw(seed=4))


def test_one_kind_alone() -> None:
    assert not draw(20, kinds=("unconditional",), block_chance=0.0).any()
    assert MaskMixture(("predict", "random"), 0.0).tasks == ("predict",)
    assert MaskMixture().tasks == (*(kind for kind in TEMPORAL if kind != "random"), "complete")


def test_tasks_give_frames_and_numbers_override_them() -> None:
    assert give_frames("interpolate", 9).nonzero().flatten().tolist() == [0, 4, 8]
    assert give_frames("backward", 5).nonzero().flatten().tolist() == [3, 4]
    assert give_frames("predict", 5, [0, -1]).nonzero().flatten().tolist() == [0, 4]
    with pytest.raises(ConfigurationError, match="0 to 4"):
        give_frames("predict", 5, [5])


def test_regions_touch_whole_cells() -> None:
    assert mask_region(None, (4, 4)).sum() == 4 and mask_region(None, (4, 4))[1:3, 1:3].all()
    assert mask_region((0.5, 0.0, 0.5, 1.0), (4, 4))[:, 2:].all() and mask_region((0.5, 0, 0.5, 1), (4, 4)).sum() == 8
    assert mask_region((0.1, 0.1, 0.1, 0.1), (4, 4)).sum() == 1


def test_blocks_cover_half_or_more() -> None:
    generator = torch.Generator().manual_seed(0)
    shares = [draw_blocks((8, 8), lambda: float(torch.rand((), generator=generator))).float().mean() for _ in range(50)]
    assert min(shares) >= 0.5 and max(shares) < 0.95


@pytest.mark.parametrize("options", [{"kinds": ("dream",)}, {"kinds": ()}, {"block_chance": 1.5}])
def test_unknown_kinds_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match="choose kinds of"):
        MaskMixture(**options)  # type: ignore[arg-type]
