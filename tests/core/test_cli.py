"""The command: help at once, every stage, configurations that compose, and the folder that a run leaves."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from polydit.platform.cli import describe, list_commands
from polydit.platform.errors import CheckpointError
from polydit.platform.runs import choose_folder, config_path, find_checkpoint, set_aside
from tests.core.running import ROOT, polydit, recipe, write


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])


def _column(path: Path, name: str) -> list[float]:
    with path.open(newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file) if row[name]]


def test_help_and_version_import_neither_torch_nor_lightning() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from polydit.platform.cli import main; main(['--help']); "
        "main(['--version']); print({'torch', 'pytorch_lightning', 'jsonargparse'} & set(sys.modules))"
    )
    seconds = []
    for _ in range(5):
        before = os.times()
        result = subprocess.run(
            [sys.executable, "-c", code, str(ROOT / "src")], capture_output=True, text=True, check=True
        )
        after = os.times()  # of the processor, not of the wall, which others share
        seconds.append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert "set()" in result.stdout
    assert all(name in result.stdout for name in list_commands())
    assert min(seconds) < 0.3


def test_every_command_exists() -> None:
    for name, command in list_commands().items():
        assert callable(getattr(import_module(command.module), command.function)), name
        assert command.help in describe()


def test_all_stages_leave_a_run_folder(capsys: pytest.CaptureFixture[str]) -> None:
    config = write(Path("tiny.yaml"), recipe())
    assert polydit("fit", "--config", config) == 0
    folder = Path("runs/tiny")
    assert (folder / "checkpoints" / "last.ckpt").is_file()
    assert "Checkpoint: runs/tiny/checkpoints/last.ckpt after step 8" in capsys.readouterr().out
    assert len(_column(folder / "logs" / "version_0" / "metrics.csv", "train/loss")) == 8
    saved = (folder / "config.yaml").read_text()
    for stage in ("validate", "test", "predict"):
        assert polydit(stage, "--config", config, "--ckpt_path", "last") == 0
        assert (folder / f"config-{stage}.yaml").is_file()
    assert (folder / "config.yaml").read_text() == saved, "a later stage must not replace the configuration of the fit"
    assert not list(folder.rglob("*.partial"))


def test_a_run_repeats_from_the_configuration_it_leaves() -> None:
    assert polydit("fit", "--config", write(Path("tiny.yaml"), recipe()), "--run", "first") == 0
    assert polydit("fit", "--config", "runs/first/config.yaml", "--run", "second") == 0
    first, second = (yaml.safe_load(Path(f"runs/{name}/config.yaml").read_text()) for name in ("first", "second"))
    assert first.pop("run") == "runs/first" and second.pop("run") == "runs/second"
    assert first == second
    logs = [Path(f"runs/{name}/logs/version_0/metrics.csv").read_text() for name in ("first", "second")]
    assert logs[0] == logs[1]


def test_later_configurations_and_options_win() -> None:
    base = write(Path("base.yaml"), recipe())
    extra = write(
        Path("extra.yaml"),
        {"trainer": {"max_steps": 3}, "model": {"system": {"init_args": {"noise": 0.5}}}, "run": "here/run"},
    )
    assert polydit("fit", "--config", base, "--config", extra, "--model.system.network.width", "7") == 0
    config = yaml.safe_load(Path("here/run/config.yaml").read_text())
    system = config["model"]["system"]["init_args"]
    assert config["trainer"]["max_steps"] == 3
    assert system["noise"] == 0.5
    assert system["network"]["init_args"] == {"width": 7, "dropout": 0.2}


def test_an_earlier_run_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    config = write(Path("tiny.yaml"), recipe())
    assert polydit("fit", "--config", config) == 0
    folder = Path("runs/tiny")
    (folder / "notes.txt").write_text("mine")
    weights = (folder / "checkpoints" / "last.ckpt").read_bytes()
    assert polydit("fit", "--config", config, "--trainer.max_steps", "2") == 0
    assert (folder / "earlier" / "1" / "checkpoints" / "last.ckpt").read_bytes() == weights
    assert (folder / "earlier" / "1" / "config.yaml").is_file()
    assert (folder / "notes.txt").is_file()
    assert "kept in runs/tiny/earlier/1" in capsys.readouterr().out
    assert polydit("fit", "--config", config, "--trainer.max_steps", "2") == 0
    assert (folder / "earlier" / "2" / "checkpoints" / "last.ckpt").is_file()


def test_best_checkpoint_is_that_of_the_smallest_metric() -> None:
    config = recipe()
    config["checkpoint"]["monitor"] = "val/loss"
    config["trainer"]["max_steps"] = 30
    assert polydit("fit", "--config", write(Path("tiny.yaml"), config)) == 0
    losses = _column(Path("runs/tiny/logs/version_0/metrics.csv"), "val/loss")
    assert polydit("validate", "--config", "tiny.yaml", "--ckpt_path", "best") == 0
    assert len(losses) == 5
    assert _column(Path("runs/tiny/logs/version_1/metrics.csv"), "val/loss") == pytest.approx([min(losses)], rel=1e-6)


def test_fast_dev_run_writes_nothing() -> None:
    config = write(Path("tiny.yaml"), recipe())
    assert polydit("fit", "--config", config, "--trainer.fast_dev_run", "true") == 0
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("run", "configs", "ckpt_path", "folder"),
    [
        ("demo", [], None, "runs/demo"),
        ("runs/demo", [], None, "runs/demo"),
        ("./demo/", [], None, "demo"),
        ("/data/x", [Path("a.yaml")], "b/checkpoints/last.ckpt", "/data/x"),
        (None, [Path("e/a.yaml"), Path("e/b.yaml")], None, "runs/b"),
        (None, [Path("e/a.yaml")], "runs/c/checkpoints/last.ckpt", "runs/c"),
        (None, [Path("e/a.yaml")], "weights.ckpt", "runs/a"),
        (None, [], "last", "runs/run"),
    ],
)
def test_run_folder(run: str | None, configs: list[Path], ckpt_path: str | None, folder: str) -> None:
    assert choose_folder(run, configs, ckpt_path) == Path(folder)


def test_run_folder_helpers(tmp_path: Path) -> None:
    assert set_aside(tmp_path / "none") is None
    assert config_path(tmp_path, "predict") == tmp_path / "config.yaml"
    assert find_checkpoint(None, tmp_path) is None
    assert find_checkpoint("a/b.ckpt", tmp_path) == Path("a/b.ckpt")
    with pytest.raises(CheckpointError, match=r"monitor"):
        find_checkpoint("best", tmp_path)
