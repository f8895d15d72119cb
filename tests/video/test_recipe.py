"""The demo as a user runs it, made small: fit, test and predict, and what they leave behind; and that it learns."""

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

from polydit.data.video.builtin import BouncingBodies
from polydit.data.video.clips import ClipFormat
from polydit.data.video.datamodule import VideoDataModule
from polydit.data.video.media import read_video, write_video
from polydit.domains.video.codec import ClipCodec
from polydit.domains.video.evaluation import ClipEvaluator
from polydit.domains.video.masks import MaskMixture
from polydit.domains.video.vdt import VDT
from polydit.platform.cli import main
from polydit.platform.mixers import Attention
from polydit.platform.processes import LinearFlowSchedule, Process, UniformTime, X0Prediction
from polydit.platform.samplers import Euler, UniformGrid
from polydit.platform.systems.diffusion import DiffusionSystem
from tests.house.recipes import shrink

RECIPE = Path(__file__).resolve().parents[2] / "examples" / "video" / "demo.yaml"


@pytest.fixture(autouse=True)
def simulator() -> None:
    pytest.importorskip("mujoco", reason="the extra 'video' is not installed")


def small_recipe(**data: Any) -> dict[str, Any]:
    recipe = shrink(yaml.safe_load(RECIPE.read_text()))
    recipe["data"]["init_args"] |= {"splits": [0.6, 0.1, 0.3], **data}
    recipe["data"]["init_args"]["sources"][0]["init_args"]["clips"] = 20
    return recipe


def test_fit_test_and_predict_leave_numbers_clips_and_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = BouncingBodies(1).make(0, ClipFormat(20, 48, 12.5, 8000))
    write_video(tmp_path / "mine.mp4", source)
    requests = [
        {"task": "unconditional", "count": 2}, {"task": "predict", "clip": "mine.mp4"},
        {"task": "complete", "clip": "mine.mp4", "region": [0.5, 0.0, 0.5, 1.0], "start": 0.3},
    ]
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(small_recipe(requests=requests)))
    assert main(["fit", "--config", "small.yaml"]) == 0
    assert main(["test", "--config", "small.yaml", "--ckpt_path", "last"]) == 0
    run = tmp_path / "runs" / "demo_video"
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["predict/psnr"]["count"] == 3 and metrics["predict/psnr_over_copy"]["low"] is not None
    assert metrics["bodies/number_kept_of_real"]["value"] > 0.9
    with (run / "rows.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["task"] for row in rows if row["task"]} >= {"predict", "interpolate", "unconditional"}
    page = (run / "report.html").read_text()
    assert "<video controls" in page and "given frames have a blue rim" in page

    assert main(["predict", "--config", "small.yaml", "--ckpt_path", "last"]) == 0
    names = sorted(path.name for path in (run / "samples").glob("*.mp4"))
    assert names == [
        "00000_unconditional_clip.mp4", "00001_unconditional_clip.mp4", "00002_predict_mine.mp4",
        "00003_complete_mine.mp4",
    ]
    made = read_video(run / "samples" / "00002_predict_mine.mp4", 32, 12.5)
    given = read_video(tmp_path / "mine.mp4", 32, 12.5)
    assert np.abs(made.frames[:8].astype(float) - given.frames[:8]).mean() < 8


def test_a_missing_clip_ends_with_its_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    requests = [{"task": "predict", "clip": "nowhere.mp4"}]
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(small_recipe(requests=requests)))
    assert main(["predict", "--config", "small.yaml"]) != 0
    assert "there is no file nowhere.mp4" in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_mask_trained_model_soon_interpolates_better_than_a_copy(tmp_path: Path) -> None:
    """One moving disc, 400 steps; to beat a blend, and to predict, takes longer (docs/how-to/video.md)."""
    torch.manual_seed(0)
    data = VideoDataModule(
        [BouncingBodies(400, bodies=(1, 1), radius=(0.15, 0.2), speed=(0.5, 1.0))], frames=8, size=16, batch_size=32,
        splits=[0.9, 0.0, 0.1], cache_dir=str(tmp_path),
    )
    masks = MaskMixture(("predict", "interpolate"), 0.0)
    codec = ClipCodec(8, 16, 12.5, 4, masks=masks, questions=("predict", "interpolate"))
    process = Process(LinearFlowSchedule(), X0Prediction(), time_sampling=UniformTime(low=0.005, high=0.995))
    system = DiffusionSystem(
        codec, VDT(64, 3, 8, 3, 4, mixer=partial(Attention, heads=2)), process, Euler(8, UniformGrid(t_max=0.99))
    )
    optimizer = torch.optim.AdamW(system.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=400, pct_start=0.1)
    generator, loader, steps = torch.Generator().manual_seed(0), data.train_dataloader(), 0
    while steps < 400:
        loader.sampler.set_epoch(steps)  # type: ignore[attr-defined]
        for batch in loader:
            if steps == 400:
                break
            loss = system.losses(batch, generator)["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            steps += 1
    system.eval()
    evaluator = ClipEvaluator()
    for batch in data.test_dataloader()[0]:
        evaluator.update(system.reconstruct(batch))
    numbers = evaluator.compute()
    assert numbers["interpolate/psnr_over_copy"].low > 0, numbers
