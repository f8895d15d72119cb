"""Two processes on one machine, started as a user starts them: they train as one would, stop together, and go on."""

from __future__ import annotations

import csv
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from polydit.platform.storage import read_checkpoint

from .loss_curve import read_curve
from .running import ROOT, recipe, same, write

TWO = ("--trainer.strategy", "ddp", "--trainer.devices", "2")
ONE = ("--trainer.devices", "1")
LAST = Path("checkpoints/last.ckpt")
HERE = "tests.core.loss_curve"


CLI = ("-m", "polydit.platform.cli")
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]), "OMP_NUM_THREADS": "1"}
PATIENCE = 240
"""Seconds within which a run of many processes ends, or hangs."""


def run(folder: Path, *words: Any, python: tuple[str, ...] = CLI) -> subprocess.CompletedProcess[str]:
    """``polydit <words>`` in `folder`, in processes of its own; `python` is what comes before the words."""
    command = [sys.executable, *python, *map(str, words)]
    return subprocess.run(
        command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=PATIENCE, check=False
    )


def config(folder: Path, system: str = "TinySystem", **options: Any) -> Path:
    """A run of the tiny system on shared points, with a record of its losses."""
    network = options.pop("network", None)
    content = recipe(system, **options)
    if network is not None:
        content["model"]["system"]["init_args"]["network"] = network
    content["trainer"]["callbacks"].append({"class_path": f"{HERE}.LossCurve"})
    content["data"]["class_path"] = f"{HERE}.SharedDataModule"
    if system != "TinySystem":
        content["model"]["system"]["class_path"] = f"{HERE}.{system}"
    return write(folder / "tiny.yaml", content)


def content_of(folder: Path) -> dict[str, Any]:
    """What training went on from: step, weights, averages, optimizer."""
    checkpoint = read_checkpoint(folder / LAST)
    keys = ("global_step", "state_dict", "current_model_state", "averaging_state", "optimizer_states", "lr_schedulers")
    return {key: checkpoint[key] for key in keys}


def assert_close(a: dict[str, Any], b: dict[str, Any]) -> None:
    """Equal to rounding: a sum over processes is not taken in the order of a sum over batches."""
    assert a["global_step"] == b["global_step"]
    for key in ("state_dict", "current_model_state"):
        for name, tensor in a[key].items():
            torch.testing.assert_close(tensor, b[key][name], rtol=1e-5, atol=1e-6)


def test_two_processes_train_as_one_that_accumulates_two_batches(tmp_path: Path) -> None:
    """Noise, dropout, averaging and statistics included."""
    file = config(tmp_path)
    for name, words in (("two", TWO), ("one", (*ONE, "--trainer.accumulate_grad_batches", "2"))):
        ended = run(tmp_path, "fit", "--config", file, "--run", name, *words)
        assert ended.returncode == 0, ended.stderr
    two, one = read_curve(tmp_path / "runs/two"), read_curve(tmp_path / "runs/one")
    assert len(one) == 8 and max(one) > 1.1 * min(one)
    assert two == pytest.approx(one, rel=1e-5)
    assert_close(content_of(tmp_path / "runs/two"), content_of(tmp_path / "runs/one"))
    with (tmp_path / "runs/two/logs/version_0/metrics.csv").open() as file:
        logged = list(csv.DictReader(file))
    assert [float(row["train/loss"]) for row in logged if row["train/loss"]] == pytest.approx(two, rel=1e-5)


@pytest.mark.slow
def test_two_processes_train_as_one_on_the_joint_batch(tmp_path: Path) -> None:
    """Where items are alike in size and nothing is random, the two batches of a step may also be one tensor."""
    network = {"class_path": "tests.core.tiny_system.TinyNetwork", "init_args": {"dropout": 0.0}}
    file = config(tmp_path, noise=0.0, network=network)
    for name, words, size in (("two", TWO, 4), ("one", ONE, 8)):
        options = ("--data.init_args.shuffle", "false", "--data.init_args.batch_size", size)
        ended = run(tmp_path, "fit", "--config", file, "--run", name, *words, *options)
        assert ended.returncode == 0, ended.stderr
    assert read_curve(tmp_path / "runs/two") == pytest.approx(read_curve(tmp_path / "runs/one"), rel=1e-5)
    assert_close(content_of(tmp_path / "runs/two"), content_of(tmp_path / "runs/one"))


@pytest.mark.slow
def test_two_processes_resume_to_the_numbers_of_an_uninterrupted_run(tmp_path: Path) -> None:
    file = config(tmp_path)
    for name, *words in (
        ("whole", "--trainer.max_steps", 8), ("parts", "--trainer.max_steps", 5),
        ("parts", "--trainer.max_steps", 8, "--ckpt_path", "last"),
    ):  # fmt: skip
        ended = run(tmp_path, "fit", "--config", file, "--run", name, *TWO, *words)
        assert ended.returncode == 0, ended.stderr
    whole = content_of(tmp_path / "runs/whole")
    assert whole["global_step"] == 8
    assert same(whole, content_of(tmp_path / "runs/parts"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "rank", "code"),
    [(signal.SIGINT, None, 130), (signal.SIGINT, 0, 130), (signal.SIGTERM, 0, 143), (signal.SIGTERM, 1, 143)],
    ids=["Ctrl-C to all", "Ctrl-C to the first", "termination of the first", "termination of the second"],
)
def test_a_signal_stops_all_processes_after_the_same_step(
    tmp_path: Path, number: int, rank: int | None, code: int
) -> None:
    file = config(tmp_path, "SignalledSystem", number=int(number), rank=rank)
    ended = run(tmp_path, "fit", "--config", file, *TWO)
    assert ended.returncode == code, ended.stderr
    assert "stopped after step 6" in ended.stderr and "Traceback" not in ended.stderr
    assert content_of(tmp_path / "runs/tiny")["global_step"] == 6


@pytest.mark.slow
def test_nan_in_one_process_stops_all(tmp_path: Path) -> None:
    ended = run(tmp_path, "fit", "--config", config(tmp_path, "HalfNaNSystem"), *TWO)
    assert ended.returncode == 1
    assert "training stopped at step" in ended.stderr and "became NaN" in ended.stderr
    assert content_of(tmp_path / "runs/tiny")["global_step"] == 4


@pytest.mark.slow
def test_torchrun_starts_the_processes(tmp_path: Path) -> None:
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *CLI)
    ended = run(tmp_path, "fit", "--config", config(tmp_path), *TWO, python=launcher)
    assert ended.returncode == 0, ended.stderr
    assert len(read_curve(tmp_path / "runs/tiny")) == 8
    assert content_of(tmp_path / "runs/tiny")["global_step"] == 8


@pytest.mark.slow
def test_slurm_starts_the_processes_and_ends_them(tmp_path: Path) -> None:
    """As srun does: the same command for every task, told its place by the environment; then a signal for all."""
    file = config(tmp_path, "SignalledSystem", number=int(signal.SIGTERM))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    job = {
        "SLURM_JOB_ID": "17", "SLURM_JOB_NAME": "polydit", "SLURM_NODELIST": "127.0.0.1", "SLURM_NTASKS": "2",
        "SLURM_NTASKS_PER_NODE": "2", "SLURM_NODEID": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    tasks = [
        subprocess.Popen(
            [sys.executable, *CLI, "fit", "--config", file, *TWO],
            cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**ENVIRONMENT, **job, "SLURM_PROCID": rank, "SLURM_LOCALID": rank},
        )
        for rank in ("0", "1")
    ]  # fmt: skip
    try:
        errors = [task.communicate(timeout=PATIENCE)[1] for task in tasks]
    finally:
        for task in tasks:
            task.kill()
    assert [task.returncode for task in tasks] == [143, 143], errors
    assert "stopped after step 6" in errors[0]
    assert content_of(tmp_path / "runs/tiny")["global_step"] == 6
