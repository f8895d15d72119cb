"""Stopping and going on: the same numbers as a run that was never stopped, whatever stopped it."""

from __future__ import annotations

import io
import itertools
import multiprocessing
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from polydit.platform.checkpoints import load
from polydit.platform.storage import read_checkpoint
from tests.core.running import polydit, recipe, same, write

LAST = Path("checkpoints/last.ckpt")


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])


def _content(run: str) -> dict[str, Any]:
    checkpoint = read_checkpoint(Path("runs") / run / LAST)
    keys = ("global_step", "epoch", "state_dict", "current_model_state", "averaging_state", "optimizer_states")
    return {key: checkpoint[key] for key in (*keys, "lr_schedulers") if key in checkpoint}


@pytest.mark.parametrize(
    ("first", "averaging"),
    [(10, True), (12, True), (13, True), (10, False)],
    ids=["mid-epoch", "end of epoch", "one step into an epoch", "no averaging"],
)
def test_resumed_run_equals_uninterrupted_one(first: int, averaging: bool) -> None:
    config = write(Path("tiny.yaml"), recipe(averaging=averaging))
    assert polydit("fit", "--config", config, "--run", "whole", "--trainer.max_steps", "20") == 0
    assert polydit("fit", "--config", config, "--run", "parts", "--trainer.max_steps", first) == 0
    half = _content("parts")
    options = ("--ckpt_path", "last", "--trainer.max_steps", "20")
    assert polydit("fit", "--config", config, "--run", "parts", *options) == 0
    whole = _content("whole")
    assert whole["global_step"] == 20
    assert not same(whole["state_dict"], half["state_dict"]), "nothing was trained after resuming"
    assert same(whole, _content("parts"))


def test_resume_at_the_end_of_all_epochs() -> None:
    config = recipe()
    config["trainer"]["max_steps"] = -1
    file = write(Path("tiny.yaml"), config)
    assert polydit("fit", "--config", file, "--run", "whole", "--trainer.max_epochs", "4") == 0
    assert polydit("fit", "--config", file, "--run", "parts", "--trainer.max_epochs", "2") == 0
    options = ("--ckpt_path", "last", "--trainer.max_epochs", "4")
    assert polydit("fit", "--config", file, "--run", "parts", *options) == 0
    assert _content("whole")["global_step"] == 24
    assert same(_content("whole"), _content("parts"))


def test_resume_with_accumulated_gradients() -> None:
    config = recipe()
    config["trainer"]["accumulate_grad_batches"] = 2
    file = write(Path("tiny.yaml"), config)
    assert polydit("fit", "--config", file, "--run", "whole", "--trainer.max_steps", "8") == 0
    assert polydit("fit", "--config", file, "--run", "parts", "--trainer.max_steps", "4") == 0
    assert polydit("fit", "--config", file, "--run", "parts", "--ckpt_path", "last") == 0
    assert same(_content("whole"), _content("parts"))


def test_validation_does_not_change_training() -> None:
    config = write(Path("tiny.yaml"), recipe())
    assert polydit("fit", "--config", config, "--run", "often", "--trainer.val_check_interval", "2") == 0
    assert polydit("fit", "--config", config, "--run", "never", "--trainer.limit_val_batches", "0") == 0
    assert same(_content("often")["current_model_state"], _content("never")["current_model_state"])


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_run_saves_and_continues(number: int, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    whole = write(Path("whole.yaml"), recipe())
    stopped = write(Path("stopped.yaml"), recipe("InterruptedSystem", call=6, number=int(number)))
    before = signal.getsignal(signal.SIGINT)
    assert polydit("fit", "--config", whole) == 0
    assert polydit("fit", "--config", stopped, "--run", "stopped") == code
    error = capsys.readouterr().err
    assert "stopped after step 6" in error and "Traceback" not in error
    assert signal.getsignal(signal.SIGINT) is before
    assert read_checkpoint(Path("runs/stopped") / LAST)["global_step"] == 6
    assert polydit("fit", "--config", whole, "--run", "stopped", "--ckpt_path", "last") == 0
    assert same(_content("whole"), _content("stopped"))


def test_second_interrupt_stops_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    config = write(Path("tiny.yaml"), recipe("InterruptedSystem", call=6, times=2))
    before = signal.getsignal(signal.SIGINT)
    assert polydit("fit", "--config", config) == 130
    assert signal.getsignal(signal.SIGINT) is before
    assert "stopped at once" in capsys.readouterr().err
    assert read_checkpoint("runs/tiny" / LAST)["global_step"] == 4


def _fit_until_killed_in_second_save(config: Path) -> None:
    save, saves = torch.save, itertools.count(1)

    def save_half(content: Any, file: Any) -> None:
        if next(saves) == 2:
            buffer = io.BytesIO()
            save(content, buffer)
            file.write(buffer.getvalue()[: len(buffer.getvalue()) // 2])
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        save(content, file)

    torch.save = save_half
    polydit("fit", "--config", config)


def test_kill_in_the_middle_of_a_checkpoint_loses_only_that_one() -> None:
    config = write(Path("tiny.yaml"), recipe())
    process = multiprocessing.get_context("fork").Process(target=_fit_until_killed_in_second_save, args=(config,))
    process.start()
    process.join(timeout=60)
    assert process.exitcode == -signal.SIGKILL
    assert Path("runs/tiny/checkpoints/.last.ckpt.partial").is_file(), "the kill must come while writing"
    assert read_checkpoint("runs/tiny" / LAST)["global_step"] == 4
    assert len(load("runs/tiny").sample(2)) == 2
    assert polydit("fit", "--config", config, "--ckpt_path", "last") == 0
    assert polydit("fit", "--config", config, "--run", "whole") == 0
    assert same(_content("whole"), _content("tiny"))
    assert not list(Path("runs").rglob("*.partial"))


def test_averaged_weights_serve_validation_test_predict_and_load(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.core.tiny_system import TinySystem

    config = recipe()
    config["trainer"]["max_steps"] = 12
    file = write(Path("tiny.yaml"), config)
    seen: dict[str, torch.Tensor] = {}
    losses, generate = TinySystem.losses, TinySystem.generate

    def note_losses(self: TinySystem, *args: Any) -> Any:
        if not self.training:
            seen["evaluation"] = self.network.layers[0].weight.detach().clone()
        return losses(self, *args)

    def note_generate(self: TinySystem, *args: Any) -> Any:
        seen["generation"] = self.network.layers[0].weight.detach().clone()
        return generate(self, *args)

    monkeypatch.setattr(TinySystem, "losses", note_losses)
    monkeypatch.setattr(TinySystem, "generate", note_generate)
    assert polydit("fit", "--config", file) == 0
    content, name = _content("tiny"), "system.network.layers.0.weight"
    average, raw = content["state_dict"][name], content["current_model_state"][name]
    assert not torch.equal(average, raw)
    assert torch.equal(seen.pop("evaluation"), average), "validation inside fit"
    for stage, key in [
        ("validate", "evaluation"),
        ("test", "evaluation"),
        ("test", "generation"),
        ("predict", "generation"),
    ]:
        assert polydit(stage, "--config", file, "--ckpt_path", "last") == 0
        assert torch.equal(seen.pop(key), average), stage
        seen.clear()
    model = load("runs/tiny")
    assert not model.training
    assert torch.equal(model.state_dict()[name], average)
    assert int(model.system.count) == 24, "a whole number must survive averaging"


def test_weights_are_their_own_average_before_averaging_begins() -> None:
    config = recipe()
    config["trainer"]["callbacks"][0]["init_args"]["update_starting_at_step"] = 100
    assert polydit("fit", "--config", write(Path("tiny.yaml"), config)) == 0
    content = _content("tiny")
    assert same(content["state_dict"], content["current_model_state"])
