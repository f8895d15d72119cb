"""The demos as a user runs them, made small: fit, test and predict, and what they leave behind."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import polydit
from polydit.data.video.builtin import BouncingBodies
from polydit.data.video.clips import Clip, ClipFormat
from polydit.data.video.media import write_video
from polydit.domains.audio_video.avdit import AVDiT
from polydit.platform.cli import main
from tests.house.recipes import shrink

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def simulator() -> None:
    pytest.importorskip("mujoco", reason="the extra 'video' is not installed")


def write_small(name: str, folder: Path, **data: Any) -> str:
    recipe = shrink(yaml.safe_load((ROOT / "examples" / "audio_video" / f"{name}.yaml").read_text()))
    recipe["data"]["init_args"] |= {"splits": [0.6, 0.1, 0.3], **data}
    recipe["data"]["init_args"]["sources"][0]["init_args"]["clips"] = 20
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
    return f"{name}.yaml"


def test_the_demo_leaves_numbers_clips_with_sound_and_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    source = BouncingBodies(1).make(0, ClipFormat(16, 32, 12.5, 8000))
    write_video(tmp_path / "mine.mp4", Clip(source.frames, 12.5))
    requests = [{"task": "unconditional"}, {"task": "sound", "clip": "mine.mp4"}]
    demo = write_small("demo", tmp_path, requests=requests)
    assert main(["fit", "--config", demo]) == 0
    assert main(["test", "--config", demo, "--ckpt_path", "last"]) == 0
    run = tmp_path / "runs" / "demo_audio_video"
    metrics = json.loads((run / "metrics.json").read_text())
    for task in ("sound", "unconditional"):
        assert metrics[f"{task}/onset_error_ms"]["count"] <= 3
        assert {f"{task}/onset_error_ms_of_shuffled", f"{task}/within_a_frame_of_real"} <= set(metrics)
    assert "<video controls" in (run / "report.html").read_text()
    assert main(["predict", "--config", demo, "--ckpt_path", "last"]) == 0
    names = sorted(path.name for path in (run / "samples").glob("0*"))
    assert names == [
        "00000_unconditional_clip.mp4", "00000_unconditional_clip.wav", "00001_sound_mine.mp4", "00001_sound_mine.wav",
    ]
    capsys.readouterr()
    assert main(["test", "--config", demo, "--ckpt_path", "last", "--data.sample_rate", "4000"]) != 0
    assert "4000 samples of sound per second and the codec 8000" in " ".join(capsys.readouterr().err.split())


def test_avdit_is_built_on_its_backbone_and_then_stands_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "--config", write_small("avdit_backbone", tmp_path)]) == 0
    assert main(["fit", "--config", write_small("avdit", tmp_path)]) == 0
    backbone = polydit.load("runs/avdit_backbone/checkpoints/last.ckpt").system.denoiser.state_dict()
    (tmp_path / "runs" / "avdit_backbone").rename(tmp_path / "runs" / "moved")
    denoiser = polydit.load("runs/avdit/checkpoints/last.ckpt").system.denoiser
    assert isinstance(denoiser, AVDiT)
    for name, value in denoiser.backbone.state_dict().items():  # averaging equal weights rounds
        torch.testing.assert_close(value, backbone[name], atol=1e-6, rtol=0)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_flash_and_click_agree_by_the_bridge_alone() -> None:
    """A flash and its click, 350 steps: with bridges by seconds nearly all pairs agree, with the bridges cut few."""
    toy = runpy.run_path(str(ROOT / "benchmarks" / "sound_alignment.py"))
    torch.manual_seed(0)
    model, draw = toy["build_towers"](True, "seconds"), toy["draw_pairs"]
    toy["train"](model, draw, 350, 48, 0)
    together = toy["judge"](toy["sample"](model, draw, 200, 1))
    model.cut = True
    apart = toy["judge"](toy["sample"](model, draw, 200, 1))
    assert together["low"] > 0.8 and apart["high"] < 0.45


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_sound_is_in_time_with_given_frames_by_the_bridge_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The demo, asked for the sound of given frames alone: 500 steps, two minutes, are enough for that."""
    monkeypatch.chdir(tmp_path)
    recipe = yaml.safe_load((ROOT / "examples" / "audio_video" / "demo.yaml").read_text())
    recipe["model"]["system"]["init_args"]["codec"]["init_args"] |= {"given": [1.0, 0.0], "questions": ["sound"]}
    recipe["model"]["lr_scheduler"]["init_args"]["total_steps"] = recipe["trainer"]["max_steps"] = 500
    recipe["data"]["init_args"]["splits"] = [0.9, 0.02, 0.08]
    recipe["data"]["init_args"]["sources"][0]["init_args"]["clips"] = 800
    (tmp_path / "demo.yaml").write_text(yaml.safe_dump(recipe))
    assert main(["fit", "--config", "demo.yaml"]) == 0
    errors = {}
    for cut in ("false", "true"):
        cutting = ["--model.system.init_args.denoiser.init_args.cut", cut]
        assert main(["test", "--config", "demo.yaml", "--ckpt_path", "last", *cutting]) == 0
        metrics = json.loads((tmp_path / "runs" / "demo_audio_video" / "metrics.json").read_text())
        errors[cut] = metrics["sound/onset_error_ms"]
    other = metrics["sound/onset_error_ms_of_shuffled"]
    assert errors["false"]["high"] < min(errors["true"]["low"], other["low"]) / 2
