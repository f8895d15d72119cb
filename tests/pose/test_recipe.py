"""The demo, from clips to hypotheses in files, by the command."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from polydit.domains.pose.bvh import read_poses
from polydit.platform.checkpoints import build
from polydit.platform.cli import main
from tests.house.recipes import shrink

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "pose"


def read(name: str) -> dict[str, Any]:
    recipe: dict[str, Any] = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    return recipe


def test_published_recipe_has_the_published_size() -> None:
    module = build(read("diffpose")["model"])
    assert sum(p.numel() for p in module.parameters() if p.requires_grad) == 5_008_000 + 6_395_952
    system = module.system
    assert system.hypotheses == 200 and system.sampler.steps == system.denoiser.steps == 25
    assert system.guidance.limit == 30 and system.codec.candidates == 32 and system.codec.joint_dropout == 0.1


def test_demo_by_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = shrink(read("demo"))
    recipe["model"]["system"]["init_args"]["hypotheses"] = 6
    data = recipe["data"]["init_args"]
    data |= {"limit": 4, "requests": [{"frame": 1}, {"frame": 3, "hypotheses": 2}]}
    (tmp_path / "pose.yaml").write_text(yaml.safe_dump(recipe))
    monkeypatch.chdir(tmp_path)
    for command in (["fit"], ["test", "--ckpt_path", "last"], ["predict", "--ckpt_path", "last"]):
        assert main([command[0], "--config", "pose.yaml", *command[1:]]) == 0
    run = tmp_path / "runs" / "demo_pose"
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["mpjpe/best_of_5"]["count"] == 4 and metrics["ece"]["count"] == 4
    with (run / "rows.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["hypotheses"] for row in rows] == ["6"] * 4 and rows[0]["output"] == "posecomparison"
    files = sorted(path.name for path in (run / "samples").iterdir())
    assert [Path(name).suffix for name in files] == [".bvh", ".npz", ".bvh", ".npz", ".json"]
    with np.load(run / "samples" / files[1]) as held:
        np.testing.assert_allclose(read_poses(run / "samples" / files[0]), held["poses"], atol=2e-6)
        assert held["poses"].shape == (6, 17, 3)
    assert "from the camera" in (run / "report.html").read_text()


def test_mistakes_are_said_without_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("hands.npz", heatmaps=np.zeros((1, 21, 64, 64)))
    recipe = shrink(read("demo"))
    recipe["data"]["init_args"]["requests"] = [{"heatmaps": "hands.npz"}]
    (tmp_path / "pose.yaml").write_text(yaml.safe_dump(recipe))
    assert main(["predict", "--config", "pose.yaml"]) != 0
    error = capsys.readouterr().err
    assert "hands.npz: heatmaps have shape (1, 21, 64, 64): give [frames, 16, 64, 64]" in error
    assert "Traceback" not in error
