"""ADiT on two processes, started as a user starts them: the losses of one on the joint batch, sharded or not."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import polydit
from polydit.platform.storage import read_checkpoint
from tests.core.loss_curve import read_curve
from tests.core.running import ROOT, write
from tests.core.test_many_processes import LAST, ONE, TWO, run
from tests.house.pages import list_commands, read_blocks
from tests.house.recipes import shrink, shrink_examples

STEPS = 12
STRATEGY = '{"class_path": "polydit.platform.sharding.ShardedStrategy"}'
SHARDED = ("--trainer.strategy", STRATEGY, "--trainer.devices", "2")


def recipe(folder: Path, averaging: bool, self_conditioning: float = 0.5) -> Path:
    """The demo's second stage, tiny, over a first stage that nobody trained."""
    content = yaml.safe_load((ROOT / "examples/chemistry/demo.yaml").read_text())
    first = yaml.safe_load((ROOT / "examples/chemistry/demo_autoencoder.yaml").read_text())
    system = content["model"]["system"]["init_args"]
    autoencoder = first["model"]["system"]["init_args"]["autoencoder"]
    autoencoder["init_args"] |= {"width": 32, "depth": 1, "heads": 2}
    system["codec"]["init_args"]["autoencoder"] = autoencoder
    system["denoiser"]["init_args"] |= {"width": 32, "depth": 2}
    system["conditioner"]["init_args"]["width"] = 32
    system["self_conditioning"] = self_conditioning
    system["denoiser"]["init_args"]["embedding"]["init_args"]["channels"]["self_condition"] = 8
    del content["run"]
    content["data"]["init_args"] |= {"batch_size": 4, "properties": [], "cache_dir": str(folder / "cache")}
    content["data"]["init_args"]["sources"] = [
        {"class_path": "polydit.data.chemistry.builtin.BuiltinSource", "init_args": {"count": 160}}
    ]
    average = [c for c in content["trainer"]["callbacks"] if "EMAWeightAveraging" in c["class_path"]]
    content["trainer"] |= {
        "max_steps": STEPS, "accelerator": "cpu", "log_every_n_steps": 1, "val_check_interval": 6,
        "limit_val_batches": 2, "num_sanity_val_steps": 0, "enable_progress_bar": False, "enable_model_summary": False,
        "callbacks": [{"class_path": "tests.core.loss_curve.LossCurve"}, *(average if averaging else [])],
    }  # fmt: skip
    content["checkpoint"] = {"every_n_steps": 6, "monitor": "val/loss"}
    return write(folder / ("averaged.yaml" if averaging else "plain.yaml"), content)


def fit(folder: Path, file: Path, name: str, *words: Any) -> Path:
    """Train; the run folder."""
    ended = run(folder, "fit", "--config", file, "--run", name, *words)
    assert ended.returncode == 0, ended.stderr
    return folder / "runs" / name


def logged(folder: Path, name: str) -> list[float]:
    """A logged metric, in order."""
    with (folder / "logs/version_0/metrics.csv").open() as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_two_processes_have_the_losses_of_one_with_the_joint_batch(tmp_path: Path) -> None:
    file = recipe(tmp_path, averaging=True)
    validation = ("--trainer.val_check_interval", "12", "--trainer.limit_val_batches", "4")
    one = fit(tmp_path, file, "one", *ONE, "--trainer.accumulate_grad_batches", "2", *validation)
    two = fit(tmp_path, file, "two", *TWO)
    curve = read_curve(one)
    assert len(curve) == STEPS
    assert read_curve(two) == pytest.approx(curve, rel=1e-4)
    assert logged(two, "train/loss") == pytest.approx(curve, rel=1e-4)
    assert logged(two, "val/loss") == pytest.approx(logged(one, "val/loss"), rel=1e-4)
    assert len(logged(two, "val/loss")) == 2
    of_one, of_two = (read_checkpoint(folder / LAST) for folder in (one, two))
    for key in ("state_dict", "current_model_state"):
        for name, tensor in of_one[key].items():
            torch.testing.assert_close(of_two[key][name], tensor, rtol=1e-3, atol=1e-4)
    assert (two / "checkpoints/best.ckpt").is_file()


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_sharded_weights_train_save_resume_and_load(tmp_path: Path) -> None:
    file = recipe(tmp_path, averaging=False, self_conditioning=1.0)
    whole = fit(tmp_path, file, "whole", *TWO)
    fit(tmp_path, file, "sharded", *SHARDED, "--trainer.max_steps", 6)
    sharded = fit(tmp_path, file, "sharded", *SHARDED, "--ckpt_path", "last")
    assert read_curve(sharded) == pytest.approx(read_curve(whole), rel=1e-4)
    weights = read_checkpoint(sharded / LAST)["state_dict"]
    for name, tensor in read_checkpoint(whole / LAST)["state_dict"].items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-3, atol=1e-4)
    assert len(polydit.load(sharded).sample(2, domain="molecule")) == 2


def test_processes_that_would_not_keep_step_are_refused(tmp_path: Path) -> None:
    ended = run(tmp_path, "fit", "--config", recipe(tmp_path, averaging=False), "--run", "uneven", *SHARDED)
    assert ended.returncode != 0 and "set it to 0 or 1" in ended.stderr


def test_averaging_of_sharded_weights_is_refused(tmp_path: Path) -> None:
    ended = run(tmp_path, "fit", "--config", recipe(tmp_path, averaging=True), *SHARDED)
    assert ended.returncode == 2
    assert "EMAWeightAveraging averages whole weights" in ended.stderr and "Traceback" not in ended.stderr


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_what_the_page_says_of_processes_works(tmp_path: Path) -> None:
    shrink_examples(ROOT / "examples", tmp_path / "examples")
    commands = []
    for block in read_blocks(ROOT / "docs/how-to/many-devices.md", ROOT):
        if block.title is not None:
            write(tmp_path / block.title, shrink(yaml.safe_load(block.text)))
        elif block.reason == "starts processes of its own":
            commands += list_commands(block)
    assert [name for name, *_ in commands] == ["polydit", "polydit", "torchrun"]
    for name, *words in commands:
        launcher = {"python": ("-m", "torch.distributed.run")} if name == "torchrun" else {}
        ended = run(tmp_path, *words, **launcher)
        assert ended.returncode == 0, ended.stderr
    for name in ("shared", "sharded", "launched"):
        assert (tmp_path / "runs" / name / LAST).is_file()
