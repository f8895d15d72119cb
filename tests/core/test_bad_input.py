"""A user's mistakes at the command: one message with value, limit and fix, exit code 2, no traceback, nothing lost."""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from polydit.platform.checkpoints import load
from polydit.platform.cli import main
from polydit.platform.errors import MissingExtraError, UserError, missing_extra, require
from polydit.platform.storage import read_checkpoint
from tests.core.running import MODULE, polydit, recipe, write


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delenv("POLYDIT_TRACEBACK", raising=False)


def _message(capsys: pytest.CaptureFixture[str], code: int, *words: Any) -> str:
    """The message of a command that must end with `code`."""
    capsys.readouterr()
    assert polydit(*words) == code
    error = capsys.readouterr().err
    text = error[error.index("polydit") :].strip()
    assert "Traceback" not in error
    assert len(text.splitlines()) <= 12 and len(text) < 1500, "more than a screen"
    return " ".join(text.split())


def _with(path: str, value: Any) -> dict[str, Any]:
    """The recipe with one more key, at a dotted path."""
    config: Any = recipe()
    *folders, key = path.split("/")
    place = config
    for folder in folders:
        place = place.setdefault(folder, {})
    place[key] = value
    return config


SYSTEM = "model/system/init_args/"


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("trainr", {"max_steps": 3}, "unknown key 'trainr' (bad.yaml, line {line}). Did you mean 'trainer'?"),
        ("seed_everythin", 3, "unknown key 'seed_everythin' (bad.yaml, line {line}). Did you mean 'seed_everything'?"),
        (
            "trainer/max_step",
            3,
            "unknown key 'max_step' in 'trainer' (bad.yaml, line {line}). Did you mean 'max_steps'",
        ),
        (
            "checkpoint/every_step",
            3,
            "unknown key 'every_step' in 'checkpoint' (bad.yaml, line {line}). Did you mean 'ev",
        ),
        (
            "model/sistem",
            {"class_path": "x"},
            "unknown key 'sistem' in 'model' (bad.yaml, line {line}). Did you mean 'system'?",
        ),
        (
            SYSTEM + "nois",
            0.2,
            f"unknown key 'nois' of {MODULE}.TinySystem at model.system (bad.yaml, line {{line}}). Did",
        ),
        (
            SYSTEM + "network/init_args/widht",
            3,
            f"unknown key 'widht' of {MODULE}.TinyNetwork at model.system.network (bad.yaml, line {{line}}). "
            "Did you mean 'width'?",
        ),
        (
            "data/init_args/batchsize",
            3,
            f"of {MODULE}.TinyDataModule at data (bad.yaml, line {{line}}). Did you mean 'batch_",
        ),
        (
            "trainer/callbacks",
            [{"class_path": "pytorch_lightning.callbacks.EMAWeightAveraging", "init_args": {"decai": 0.9}}],
            "unknown key 'decai' of pytorch_lightning.callbacks.EMAWeightAveraging at trainer.callbacks "
            "(bad.yaml, line {line}). Did you mean 'decay'?",
        ),
        (
            "model/system/class_path",
            f"{MODULE}.TinySystm",
            f"there is no 'TinySystm' in {MODULE} at model.system (bad.yaml, line {{line}})",
        ),
        (
            "model/system/class_path",
            "nowhere.TinySystem",
            "module 'nowhere' cannot be imported at model.system (bad.yaml, line {line})",
        ),
        ("model/system/class_path", f"{MODULE}.TinyNetwork", f"{MODULE}.TinyNetwork is not a System at model.system"),
        (
            "trainer/callbacks",
            [{"class_path": "pytorch_lightning.callbacks.EMAWeightAveragin"}],
            "there is no 'EMAWeightAveragin' in pytorch_lightning.callbacks at trainer.callbacks "
            "(bad.yaml, line {line}). Did you mean 'EMAWeightAveraging'",
        ),
        (
            "trainer/callbacks",
            [{"class_path": "pytorch_lightning.calbacks.EMAWeightAveraging"}],
            "there is no 'calbacks' in pytorch_lightning at trainer.callbacks (bad.yaml, line {line}). Did you",
        ),
        ("trainer/max_steps", "many", "trainer.max_steps must be int, not 'many' (bad.yaml, line {line})"),
        (SYSTEM + "noise", "loud", "model.system.noise must be float, not 'loud' (bad.yaml, line {line})"),
        (SYSTEM + "network/init_args/width", 0, "width must be at least 1, not 0"),
        ("checkpoint/every_n_steps", 0, "checkpoint.every_n_steps must be at least 1, not 0"),
        ("trainer/precision", "12-bit", "12-bit"),
    ],
)
def test_wrong_key_or_value(path: str, value: Any, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(Path("bad.yaml"), _with(path, value))
    word = str(value) if "class_path" in path else path.rsplit("/", 1)[-1] + ":"
    if path == "trainer/callbacks":
        word = "decai" if "init_args" in value[0] else value[0]["class_path"]
    numbers = [number for number, line in enumerate(file.read_text().splitlines(), start=1) if word in line]
    assert expected.format(line=numbers[0]) in _message(capsys, 2, "fit", "--config", file)
    assert not Path("runs").exists(), "refused before anything is written"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--trainer.max_step", "3"], "unknown option '--trainer.max_step'. Did you mean '--trainer.max_steps'"),
        (["--ckptpath=a"], "unknown option '--ckptpath'. Did you mean '--ckpt_path'"),
        (["--model.system.nois", "3"], "Did you mean 'noise'?"),
        (["last.ckpt"], "unexpected argument 'last.ckpt': options start with --"),
        (["--config", "tiny.yml"], "configuration file tiny.yml does not exist. Did you mean 'tiny.yaml'?"),
        (["--config", "broken.yaml"], "broken.yaml is no valid YAML: while parsing"),
        (["--ckpt_path", "last"], "--ckpt_path last means runs/tiny/checkpoints/last.ckpt, which does not exist"),
        (["--ckpt_path", "no.ckpt"], "checkpoint no.ckpt does not exist. There is no .ckpt file under ."),
        (["--trainer.accelerator", "abacus"], "abacus"),
    ],
)
def test_wrong_words(words: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("broken.yaml").write_text("trainer: {max_steps: [\n")
    assert expected in _message(capsys, 2, "fit", "--config", write(Path("tiny.yaml"), recipe()), *words)


def test_nothing_given(capsys: pytest.CaptureFixture[str]) -> None:
    assert "model.system, data must be set and is not, because no --config" in _message(capsys, 2, "fit")
    assert "no command 'fitt'. Did you mean 'fit'?" in _message(capsys, 2, "fitt")


def test_traceback_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYDIT_TRACEBACK", "1")
    with pytest.raises(UserError, match="does not exist"):
        polydit("fit", "--config", "none.yaml")


def test_checkpoint_of_another_model(capsys: pytest.CaptureFixture[str]) -> None:
    config = write(Path("tiny.yaml"), recipe())
    assert polydit("fit", "--config", config) == 0
    wide = write(Path("wide.yaml"), _with(SYSTEM + "network/init_args/width", 9))
    for stage in ("fit", "test", "predict"):
        message = _message(capsys, 2, stage, "--config", wide, "--run", "tiny", "--ckpt_path", "last")
        assert (
            "is of another model: 3 weights of another shape" in message and "config.yaml of its run folder" in message
        )


def test_truncated_checkpoint_loses_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    config = write(Path("tiny.yaml"), recipe())
    assert polydit("fit", "--config", config) == 0
    path = Path("runs/tiny/checkpoints/last.ckpt")
    path.write_bytes(path.read_bytes()[:-100])
    before = {file: file.read_bytes() for file in Path("runs").rglob("*") if file.is_file()}
    for stage in ("fit", "validate", "predict"):
        assert "truncated" in _message(capsys, 2, stage, "--config", config, "--ckpt_path", "last")
    assert {file: file.read_bytes() for file in Path("runs").rglob("*") if file.is_file()} == before


def test_weights_alone_do_not_continue_a_fit(capsys: pytest.CaptureFixture[str]) -> None:
    config = write(Path("tiny.yaml"), recipe())
    assert polydit("fit", "--config", config) == 0
    content = read_checkpoint("runs/tiny/checkpoints/last.ckpt")
    del content["optimizer_states"]
    torch.save(content, "weights.ckpt")
    assert "holds weights only" in _message(capsys, 2, "fit", "--config", config, "--ckpt_path", "weights.ckpt")
    assert polydit("predict", "--config", config, "--ckpt_path", "weights.ckpt") == 0


@pytest.mark.parametrize("averaging", [True, False])
def test_nan_stops_with_step_loss_and_last_good_checkpoint(averaging: bool, capsys: pytest.CaptureFixture[str]) -> None:
    config = write(Path("nan.yaml"), recipe("NaNSystem", averaging, bad_call=7))
    message = _message(capsys, 1, "fit", "--config", config)
    assert "training stopped at step 7: loss train/loss, train/square became NaN" in message
    assert "last good checkpoint is runs/nan/checkpoints/last.ckpt" in message
    assert read_checkpoint("runs/nan/checkpoints/last.ckpt")["global_step"] == 4
    assert all(torch.isfinite(tensor).all() for tensor in load("runs/nan").state_dict().values())


def test_full_disk_during_fit(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    save = torch.save
    saves: list[int] = []

    def fill_up(content: Any, file: Any) -> None:
        saves.append(1)
        if len(saves) > 1:
            file.write(b"some")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(content, file)

    config = write(Path("tiny.yaml"), recipe())
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", fill_up)
        message = _message(capsys, 1, "fit", "--config", config)
    assert "the disk took no more of runs/tiny/checkpoints/last.ckpt" in message and "--ckpt_path last" in message
    assert read_checkpoint("runs/tiny/checkpoints/last.ckpt")["global_step"] == 4
    assert not list(Path("runs").rglob("*.partial"))
    assert polydit("fit", "--config", config, "--ckpt_path", "last") == 0


def test_a_fault_of_the_program_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.core.tiny_system import TinySystem

    def fail(*_: Any) -> None:
        raise RuntimeError("a fault")

    monkeypatch.setattr(TinySystem, "losses", fail)
    with pytest.raises(RuntimeError, match="a fault"):
        polydit("fit", "--config", write(Path("tiny.yaml"), recipe()))


def test_unknown_monitor_suggests(capsys: pytest.CaptureFixture[str]) -> None:
    config = write(Path("tiny.yaml"), _with("checkpoint/monitor", "val/los"))
    assert "'val/los' is not among the validation metrics. Did you mean 'val/loss'" in _message(
        capsys, 2, "fit", "--config", config
    )


def test_absent_package_names_its_extra() -> None:
    with pytest.raises(MissingExtraError, match=r"pip install 'polydit\[chemistry\]'"):
        require("not_a_package.part", "chemistry")
    with pytest.raises(ModuleNotFoundError, match="no_such_part"):
        require("json.no_such_part", "chemistry")
    assert require("json", "chemistry").loads("1") == 1


@pytest.mark.parametrize("package", ["rdkit", "ase"])
def test_class_that_needs_an_absent_package_names_its_extra(package: str, capsys: pytest.CaptureFixture[str]) -> None:
    if missing_extra(package) is None:
        pytest.skip("the package metadata is absent: polydit is not installed")
    Path("needy.py").write_text(f"raise ModuleNotFoundError(\"No module named '{package}'\", name='{package}')\n")
    config = write(Path("tiny.yaml"), _with("data/class_path", "needy.Data"))
    assert "pip install 'polydit[chemistry]'" in _message(capsys, 2, "fit", "--config", config)


def test_export_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert polydit("fit", "--config", write(Path("tiny.yaml"), recipe())) == 0
    assert main(["export", "runs/tiny", "exported"]) == 0
    assert len(load("exported").sample(2)) == 2
    assert "exported exists already" in _message(capsys, 2, "export", "runs/tiny", "exported")
    assert yaml.safe_load(Path("exported/config.json").read_text())["config"]["system"]["class_path"].endswith(
        "TinySystem"
    )
