"""robomimic's own `SequenceDataset` reads our files, and yields what our windows hold."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from polydit.data.robotics.demonstrations import Demonstration
from polydit.data.robotics.robomimic import RobomimicSource
from polydit.data.robotics.robomimic_writer import write_robomimic
from polydit.data.robotics.windows import WindowDataset

from .conftest import make_demonstrations

pytest.importorskip("h5py")
FRAME_STACK, LENGTH = 3, 5


@pytest.fixture(scope="module")
def robomimic_python(root: Path) -> Path:
    """Interpreter of an environment with robomimic."""
    folder = Path(os.environ.get("POLYDIT_ROBOMIMIC_VENV", root / ".venv-robomimic"))
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.is_file():
        pytest.skip(f"no environment with robomimic at {folder}: make it with 'make robomimic-venv'")
    return python


def read_with_robomimic(python: Path, path: Path, folder: Path, fields: list[str]) -> dict[str, np.ndarray]:
    script = Path(__file__).with_name("robomimic_conformance.py")
    output = folder / "sequences.npz"
    command = [python, script, path, output, FRAME_STACK, LENGTH, *fields]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, cwd=folder, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(output) as file:
        return dict(file)


def assert_windows_agree(sequences: dict[str, np.ndarray], path: Path, fields: list[str]) -> None:
    opened = RobomimicSource(str(path)).open()
    # robomimic takes the episodes by name, demo_10 after demo_9, as we do; a sequence begins with the oldest frame.
    windows = WindowDataset([opened], [np.arange(len(opened))], fields, history=FRAME_STACK, horizon=LENGTH)
    batch = windows[list(range(len(windows)))]
    assert len(windows) == len(sequences["actions"])
    for name in fields:
        assert np.array_equal(sequences[f"obs/{name}"][:, :FRAME_STACK], batch.observations[name].numpy())
    assert np.array_equal(sequences["actions"][:, FRAME_STACK - 1 :], batch.actions.numpy())
    pad_mask = sequences["pad_mask"].reshape(len(windows), -1)
    assert np.array_equal(pad_mask[:, :FRAME_STACK], batch.observation_mask.numpy())
    assert np.array_equal(pad_mask[:, FRAME_STACK - 1 :], batch.action_mask.numpy())


def test_robomimic_reads_what_we_write(robomimic_python: Path, tmp_path: Path) -> None:
    demonstrations: list[Demonstration] = make_demonstrations((7, 1, 12, 4, *[2] * 8))
    path = write_robomimic(demonstrations, tmp_path / "ours.hdf5")
    sequences = read_with_robomimic(robomimic_python, path, tmp_path, ["state", "wrist"])
    assert sequences["demonstrations"] == 12
    assert_windows_agree(sequences, path, ["state", "wrist"])
    rewards = np.concatenate([each.rewards for each in demonstrations if each.rewards is not None])
    assert np.array_equal(sequences["rewards"][:, FRAME_STACK - 1].ravel(), rewards)
    ends = np.cumsum([len(each) for each in demonstrations]) - 1
    assert np.flatnonzero(sequences["dones"][:, FRAME_STACK - 1].ravel()).tolist() == ends.tolist()


def test_we_read_a_real_file_as_robomimic_does(robomimic_python: Path, tmp_path: Path, shared_data: Path) -> None:
    path = shared_data / "robotics/bridge_v1_sample/bridge_sample.hdf5"
    sequences = read_with_robomimic(robomimic_python, path, tmp_path, ["state", "image_0"])
    assert_windows_agree(sequences, path, ["state", "image_0"])
