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

import polydit
from polydit.domains.vision.codec import ImageCodec
from polydit.domains.vision.evaluation import ClassifierJudgement, ImageEvaluator
from polydit.platform.cli import main
from polydit.platform.conditioning import CategoricalAxis, Conditioner
from polydit.platform.denoisers import DiT, PatchEmbedding, PatchHead
from polydit.platform.mixers import Attention
from polydit.platform.processes import LinearFlowSchedule, LogitNormalTime, Process, VelocityPrediction
from polydit.platform.requests import Request
from polydit.platform.samplers import Heun
from polydit.platform.samplers.guidance import ClassifierFreeGuidance
from polydit.platform.systems.diffusion import DiffusionSystem
from tests.house.recipes import shrink

from .conftest import SIZE, Stripes, make_data

RECIPE = Path(__file__).resolve().parents[2] / "examples" / "vision" / "demo.yaml"
MEASURES = [
    {"class_path": f"polydit.domains.vision.evaluation.{name}", "init_args": options}
    for name, options in (
        ("SlicedWasserstein", {"resamples": 5}), ("ClassifierJudgement", {"steps": 5}), ("NearestNeighbours", {}),
    )
]


def small_recipe(**data: Any) -> dict[str, Any]:
    recipe = shrink(yaml.safe_load(RECIPE.read_text()))
    recipe["data"]["init_args"] |= data
    for callback in recipe["trainer"]["callbacks"]:
        if callback["class_path"].endswith("Evaluation"):
            callback["init_args"]["evaluators"][0]["init_args"] = {"measures": MEASURES}
    return recipe


def test_fit_test_and_predict_leave_numbers_images_and_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(small_recipe()))
    assert main(["fit", "--config", "small.yaml"]) == 0
    assert main(["test", "--config", "small.yaml", "--ckpt_path", "last"]) == 0
    run = tmp_path / "runs" / "demo_images"
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["class/accuracy"]["count"] == 20 and metrics["image/sliced_wasserstein"]["low"] is not None
    with (run / "rows.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 20 and rows[3]["class"] == "1" and rows[3]["seed"] == "3"
    assert {"judged_class", "nearest", "contrast"} <= set(rows[0])
    assert len(list((run / "samples").glob("*.png"))) == 20
    page = (run / "report.html").read_text()
    assert "All 20. The first 8 also one by one." in page and 'class="overview"' in page

    asked = ["predict", "--config", "small.yaml", "--ckpt_path", "last", "--data.requests"]
    assert main([*asked, "[{class: '7', count: 2}, {class: 3, seed: 50, size: 16}]"]) == 0
    files = sorted(path.name for path in (run / "samples").glob("*.png"))
    assert files == ["00000_7.png", "00001_7.png", "00002_3.png"]
    image, = polydit.load(run).sample(**{"class": "3"}, seed=50, size=16)
    image_module = pytest.importorskip("PIL.Image")
    np.testing.assert_array_equal(np.asarray(image), np.asarray(image_module.open(run / "samples" / "00002_3.png")))


def test_a_wrong_class_ends_with_its_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(small_recipe(requests=[{"class": "ten"}])))
    assert main(["predict", "--config", "small.yaml"]) != 0
    assert "no class is called 'ten'" in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_it_learns_to_draw_what_it_is_asked_for() -> None:
    torch.manual_seed(0)
    data = make_data(sources=[Stripes(400)], batch_size=32)
    width = 64
    system = DiffusionSystem(
        ImageCodec(SIZE, 1, 3),
        DiT(
            partial(PatchEmbedding, in_channels=1), partial(PatchHead, out_channels=1), width, 2,
            partial(Attention, heads=2),
        ),
        Process(LinearFlowSchedule(), VelocityPrediction(), time_sampling=LogitNormalTime()), Heun(8),
        Conditioner(width, {"class": partial(CategoricalAxis, num_classes=3)}),
        ClassifierFreeGuidance({"class": 1.5}),
    )
    system.prepare(data)
    optimizer = torch.optim.AdamW(system.parameters(), lr=2e-3)
    generator = torch.Generator().manual_seed(0)
    loader = data.train_dataloader()
    for epoch in range(25):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        for batch in loader:
            loss = system.losses(batch, generator)["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    system.eval()
    evaluator = ImageEvaluator([ClassifierJudgement(steps=100, keep=False)])
    evaluator.prepare(data)
    evaluator.update(system.generate([Request(i, {"class": i % 3}) for i in range(90)]))
    found = evaluator.compute()
    assert found["class/accuracy_on_real"].value > 0.95
    assert found["class/accuracy"].low > 0.85
