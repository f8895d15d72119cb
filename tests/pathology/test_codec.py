"""Requests of images of any size and kind, held-out tiles beside their answers, and the branch taken out for good."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import polydit
from polydit.data.pathology.images import read_picture, write_picture
from polydit.domains.pathology.codec import extend
from polydit.domains.pathology.item import VirtualStain
from polydit.domains.pathology.removal import remove_segmentation
from polydit.domains.pathology.writers import StainWriter
from polydit.platform.checkpoints import build, export
from polydit.platform.errors import CheckpointError, ConfigurationError, DataError, UserError
from polydit.platform.requests import Request, expand_requests

from .conftest import PATCH, TILE, make_batch, make_system


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_images_of_any_size_come_back_as_large_and_do_not_depend_on_each_other() -> None:
    system = make_system()
    images = [picture(20, 31), picture(TILE, TILE), picture(5, 40), picture(20, 31, 1), picture(3, 2)]
    requests = [Request(seed, {"image": image, "name": f"i{seed}"}) for seed, image in enumerate(images)]
    samples = system.generate(requests)
    for request, answer, image in zip(requests, samples, images, strict=True):
        assert answer.item.stain.shape == image.shape and answer.item.name == f"i{request.seed}"
        np.testing.assert_array_equal(answer.item.he, image)
        alone = system.generate([request])[0].item.stain.astype(int)
        assert np.abs(alone - answer.item.stain).max() <= 1, "only rounding may differ"


def test_small_images_are_mirrored_and_others_left_alone() -> None:
    image = picture(5, 20)
    wide = extend(image, 16)
    assert wide.shape == (16, 20, 3)
    np.testing.assert_array_equal(wide[5:10], image[::-1])
    assert extend(wide, 16) is wide


def test_a_file_with_its_truth_is_compared_and_a_false_truth_refused(tmp_path: Path) -> None:
    write_picture(tmp_path / "he.png", picture(20, 24))
    write_picture(tmp_path / "ihc.png", picture(20, 24, 1))
    write_picture(tmp_path / "other.png", picture(20, 20))
    system = make_system()
    wishes = {"image": str(tmp_path / "he.png"), "truth": str(tmp_path / "ihc.png")}
    item = system.generate([Request(0, wishes)])[0].item
    assert item.name == "he" and item.truth is not None and item.true_mask is not None
    np.testing.assert_array_equal(item.truth, picture(20, 24, 1))
    with pytest.raises(DataError, match="20 x 24 and its truth 20 x 20"):
        system.generate([Request(0, {**wishes, "truth": str(tmp_path / "other.png")})])
    with pytest.raises(UserError, match="more than 10,000 pixels"):
        system.generate([Request(0, {"image": picture(100, 101)})])


def test_held_out_tiles_stand_beside_as_many_answers_as_asked_for() -> None:
    system, batch = make_system(), make_batch()
    system.hypotheses = 2
    found = system.reconstruct(batch)
    assert [sample.item.name for sample in found] == batch.names
    assert [sample.request.seed for sample in found] == [0, 1, 2]
    item = found[1].item
    assert isinstance(item, VirtualStain) and len(item.others) == 1 and (item.stain != item.others[0]).any()
    np.testing.assert_array_equal(item.truth, batch.ihc[1].permute(1, 2, 0).numpy())
    np.testing.assert_array_equal(item.he, batch.he[1].permute(1, 2, 0).numpy())


def test_another_tissue_changes_a_stain_more_than_another_seed() -> None:
    """Of random weights no more can be said than that both have a say."""
    system = make_system()
    first, second = picture(TILE, TILE), picture(TILE, TILE, 1)
    items = system.generate([Request(0, {"image": first}), Request(0, {"image": second}), Request(1, {"image": first})])
    one, other_tissue, other_seed = (sample.item.stain for sample in items)
    assert (one != other_tissue).any() and (one != other_seed).any()


def test_a_codec_without_threshold_says_so() -> None:
    system = make_system()
    system.codec.threshold.fill_(float("nan"))  # type: ignore[union-attr]
    with pytest.raises(CheckpointError, match="no brown threshold"):
        system.generate([Request(0, {"image": picture(16, 16)})])


CONFIG: dict[str, Any] = {
    "system": {
        "class_path": "polydit.platform.systems.diffusion.DiffusionSystem",
        "init_args": {
            "codec": {"class_path": "polydit.domains.pathology.codec.StainCodec", "init_args": {"tile": TILE}},
            "denoiser": {
                "class_path": "polydit.domains.pathology.denoiser.StainDiffuser",
                "init_args": {"width": 64, "depth": 1, "tile": TILE, "patch": PATCH},
            },
            "conditioner": {
                "class_path": "polydit.platform.conditioning.Conditioner",
                "init_args": {"width": 64, "axes": {"tissue": {
                    "class_path": "polydit.domains.pathology.tissue.TissueAxis",
                    "init_args": {"tile": TILE, "patch": PATCH, "depth": 1},
                }}},
            },
            "process": {
                "class_path": "polydit.platform.processes.Process",
                "init_args": {
                    "schedule": "polydit.platform.processes.LinearFlowSchedule",
                    "prediction": "polydit.platform.processes.X0Prediction",
                },
            },
            "sampler": {"class_path": "polydit.platform.samplers.Euler", "init_args": {"steps": 2}},
            "loss_weights": {"mask": {
                "class_path": "polydit.platform.objectives.LossWeight", "init_args": {"end": 0.5},
            }},
            "separate_times": True,
        },
    },
}  # fmt: skip


def test_the_branch_is_taken_out_exported_and_loaded_and_stains_stay(tmp_path: Path) -> None:
    module = build(CONFIG)
    for parameter in module.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    module.system.codec.threshold.fill_(0.0612345678901)  # type: ignore[union-attr]
    before = module.eval().sample(image=picture(20, 24), seed=3)[0]
    smaller = remove_segmentation(module)
    folder = export(smaller, tmp_path / "stain_only")
    loaded = polydit.load(folder)
    assert not any("mask" in name for name in loaded.state_dict())
    count = sum(parameter.numel() for parameter in loaded.parameters())
    assert count < sum(parameter.numel() for parameter in module.parameters())
    np.testing.assert_array_equal(loaded.sample(image=picture(20, 24), seed=3)[0], before)
    assert float(loaded.system.codec.threshold) == 0.0612345678901  # type: ignore[union-attr]
    assert set(loaded.system.losses(make_batch(), torch.Generator().manual_seed(0))) == {"stain", "loss"}
    with pytest.raises(ConfigurationError, match="nothing to take out"):
        remove_segmentation(loaded)


@pytest.mark.parametrize("format", ["png", "tiff"])
def test_stains_are_written_without_loss_beside_their_masks(tmp_path: Path, format: Any) -> None:
    system = make_system()
    samples = system.generate(expand_requests([{"image": picture(18, 25), "name": "colon", "count": 2}]))
    paths = StainWriter(format, masks=True).write(samples, tmp_path, start=4)
    assert [path.name for path in paths] == [
        f"0000{index}_colon{end}.{format}" for index in (4, 5) for end in ("", "_mask")
    ]
    np.testing.assert_array_equal(read_picture(paths[2]), samples[1].item.stain)


