"""The demo as a user runs it, made small: fit, test and predict, and what they leave behind; and that it learns.

Shape legend: B images.
"""

from __future__ import annotations

import csv
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from polydit.data.pathology.builtin import SyntheticTissue
from polydit.data.pathology.datamodule import TilePairDataModule
from polydit.data.pathology.images import read_picture, write_picture
from polydit.domains.pathology.codec import StainCodec
from polydit.domains.pathology.denoiser import StainDiffuser
from polydit.domains.pathology.evaluation import StainEvaluator
from polydit.domains.pathology.tissue import TissueAxis
from polydit.platform.cli import main
from polydit.platform.conditioning import Conditioner
from polydit.platform.mixers import Attention
from polydit.platform.processes import LinearFlowSchedule, Process, UniformTime, X0Prediction
from polydit.platform.samplers import Euler
from polydit.platform.systems.diffusion import DiffusionSystem
from tests.house.recipes import shrink

RECIPE = Path(__file__).resolve().parents[2] / "examples" / "pathology" / "demo.yaml"


def small_recipe(**data: Any) -> dict[str, Any]:
    recipe = shrink(yaml.safe_load(RECIPE.read_text()))
    recipe["data"]["init_args"] |= {"sources": [{
        "class_path": "polydit.data.pathology.builtin.SyntheticTissue",
        "init_args": {"slides": 4, "tiles": 2, "size": 64},
    }], "splits": [0.5, 0.25, 0.25], **data}  # fmt: skip
    return recipe


def test_fit_test_and_predict_leave_numbers_images_and_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tiles = SyntheticTissue(slides=1, tiles=1, size=100).open()
    pair = tiles.read(0)
    for stain, image in (("he", pair.he[:90]), ("ihc", pair.ihc[:90])):
        (tmp_path / stain).mkdir()
        write_picture(tmp_path / stain / "section.tiff", image)
    requests = [{"folder": "he", "truth": "ihc"}, {"image": "he/section.tiff", "name": "again"}]
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(small_recipe(requests=requests)))
    assert main(["fit", "--config", "small.yaml"]) == 0
    assert main(["test", "--config", "small.yaml", "--ckpt_path", "last"]) == 0
    run = tmp_path / "runs" / "demo_pathology"
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["brown/dice"]["count"] == 3 and metrics["stain/ssim"]["low"] is not None
    with (run / "rows.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 and rows[2]["tile"] == "section" and len({row["slide"] for row in rows}) == 2
    page = (run / "report.html").read_text()
    assert "Virtual stains" in page
    assert page.count("64 × 64 pixels") == page.count("100 × 90 pixels") == 2, "every tile and request is shown"

    assert main(["predict", "--config", "small.yaml", "--ckpt_path", "last"]) == 0
    first, second = (read_picture(run / "samples" / name) for name in ("00000_section.png", "00001_again.png"))
    assert first.shape == second.shape == (90, 100, 3)
    assert main(["predict", "--config", "small.yaml", "--ckpt_path", "last"]) == 0
    np.testing.assert_array_equal(read_picture(run / "samples" / "00000_section.png"), first)


def test_a_damaged_request_ends_with_its_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(small_recipe(requests=[{"image": "nowhere.png"}])))
    assert main(["predict", "--config", "small.yaml"]) != 0
    assert "there is no file nowhere.png" in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
def test_it_learns_which_cells_are_brown() -> None:
    """After a few hundred steps brown lies where it belongs, far more than where the next tile has it."""
    tile, width = 32, 64
    data = TilePairDataModule(
        [SyntheticTissue(slides=10, tiles=24, size=tile)], tile=tile, batch_size=16, splits=[0.8, 0.0, 0.2]
    )
    shared: dict[str, Any] = {"tile": tile, "patch": 8, "mixer": partial(Attention, heads=2)}
    system = DiffusionSystem(
        StainCodec(tile), StainDiffuser(width, 2, mask_depth=1, **shared),
        Process(LinearFlowSchedule(), X0Prediction(), time_sampling=UniformTime(low=0.005, high=0.995)), Euler(8),
        Conditioner(width, {"tissue": partial(TissueAxis, depth=2, **shared)}), separate_times=True,
    )
    system.prepare(data)
    loader = data.train_dataloader()
    optimizer = torch.optim.AdamW(system.parameters(), lr=2e-3, weight_decay=0.01)
    generator = torch.Generator().manual_seed(0)
    first = last = 0.0
    for epoch in range(30):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        for batch in loader:
            loss = system.losses(batch, generator)["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            first, last = first or float(loss.detach()), float(loss.detach())
    system.eval()
    evaluator = StainEvaluator()
    for batch in data.test_dataloader()[0]:
        evaluator.update(system.reconstruct(batch))
    found = evaluator.compute()
    assert last < 0.4 * first
    assert found["brown/dice"].low > found["brown/dice_of_shuffled"].high + 0.05
    assert found["stain/psnr"].value > 15
