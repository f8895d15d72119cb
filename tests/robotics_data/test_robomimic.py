"""robomimic's HDF5: real files, what is written is read back, kills lose one episode at most, damage is named."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polydit.data.robotics.demonstrations import Demonstration
from polydit.data.robotics.robomimic import RobomimicSet, RobomimicSource
from polydit.data.robotics.robomimic_layout import find_task
from polydit.data.robotics.robomimic_writer import RobomimicWriter, make_env_args, write_robomimic
from polydit.platform.errors import DataError, RunError

from .conftest import make_demonstration, make_demonstrations

h5py = pytest.importorskip("h5py")


def open_set(path: Path, **options: Any) -> RobomimicSet:
    return RobomimicSource(str(path), **options).open()


def assert_equal(one: Demonstration, other: Demonstration) -> None:
    assert sorted(one.observations) == sorted(other.observations)
    for name, values in one.observations.items():
        assert np.array_equal(values, other.observations[name])
        assert values.dtype == other.observations[name].dtype
    assert np.array_equal(one.actions, other.actions)
    for name in ("instruction", "task", "success", "seed", "metadata"):
        assert getattr(one, name) == getattr(other, name)
    for name in ("rewards", "states"):
        assert np.array_equal(getattr(one, name), getattr(other, name))


def test_what_is_written_is_read_back(demonstrations: list[Demonstration], file: Path) -> None:
    opened = open_set(file)
    assert opened.lengths.tolist() == [7, 1, 12, 4]
    assert opened.action_size == 3
    assert {name: str(spec) for name, spec in opened.fields.items()} == {
        "state": "float32 [5]", "wrist": f"uint8 {[8, 8, 3]}",
    }  # fmt: skip
    for index, demonstration in enumerate(demonstrations):
        assert_equal(opened.demonstration(index), demonstration)
        assert opened.frequency(index) == 20.0


def test_steps_come_in_any_order_and_more_than_once(demonstrations: list[Demonstration], file: Path) -> None:
    steps = np.array([11, 0, 0, 5, 6, 3])
    read = open_set(file).read_steps(2, steps, ["wrist", "state"])
    assert np.array_equal(read["wrist"], demonstrations[2].observations["wrist"][steps])
    assert np.array_equal(read["state"], demonstrations[2].observations["state"][steps])


def test_a_set_travels_to_a_worker(demonstrations: list[Demonstration], file: Path) -> None:
    opened = open_set(file)
    opened.read(0, 0, 2, ["state"])
    other = pickle.loads(pickle.dumps(opened))  # noqa: S301 - our own
    assert np.array_equal(other.read(2, 3, 5, ["state"])["state"], demonstrations[2].observations["state"][3:5])


def test_unitree_file(shared_data: Path) -> None:
    opened = open_set(shared_data / "robotics/unitree_g1_bottle/image64_10hz.hdf5", instruction="Pick up the bottle.")
    assert (len(opened), int(opened.lengths.sum()), opened.action_size) == (6, 774, 26)
    assert str(opened.fields["cam_high"]) == "uint8 [64, 64, 3]"
    assert opened.instruction(3) == "Pick up the bottle."
    frames = opened.read(0, 0, 131, ["cam_high"])["cam_high"]
    assert frames.shape == (131, 64, 64, 3) and frames.std() > 10


def test_bridge_file(shared_data: Path) -> None:
    opened = open_set(shared_data / "robotics/bridge_v1_sample/bridge_sample.hdf5")
    assert (len(opened), int(opened.lengths.sum()), opened.action_size) == (25, 250, 7)
    assert opened.instruction(0) == "flip pot upright which is in sink"
    told = opened.read(0, 2, 5, ["language_embedding"])["language_embedding"]  # one value for the whole episode
    assert told.shape == (3, 512) and np.array_equal(told[0], told[2])


def test_filter_keys_choose_and_split(demonstrations: list[Demonstration], tmp_path: Path) -> None:
    with RobomimicWriter(tmp_path / "split.hdf5") as writer:
        for number, demonstration in enumerate(demonstrations):
            writer.add(demonstration, "valid" if number == 2 else "train")
    opened = open_set(tmp_path / "split.hdf5")
    assert {key: places.tolist() for key, places in opened.splits.items()} == {"train": [0, 1, 3], "valid": [2]}
    chosen = open_set(tmp_path / "split.hdf5", filter_key="train")
    assert chosen.lengths.tolist() == [7, 1, 4]
    assert chosen.splits["train"].tolist() == [0, 1, 2]
    with pytest.raises(DataError, match="no filter key 'tran': there are train, valid"):
        open_set(tmp_path / "split.hdf5", filter_key="tran")


@pytest.mark.parametrize("task", ["robosuite/Lift", "metaworld/reach-v3", "gymnasium/HalfCheetah-v5", "pusht"])
def test_env_args_keep_the_task(task: str) -> None:
    assert find_task(make_env_args(task, {"control_freq": 20})) == task


def test_env_args_of_robomimic_name_robosuite() -> None:
    assert find_task({"env_name": "Lift", "type": 1, "env_kwargs": {}}) == "robosuite/Lift"
    assert find_task({"env_name": "a real robot", "type": "real"}) == ""


def test_frames_are_compressed_one_by_one(tmp_path: Path) -> None:
    plain = make_demonstration(0, 20)
    plain.observations["wrist"][:] = 7  # type: ignore[index]
    path = write_robomimic([plain], tmp_path / "plain.hdf5")
    with h5py.File(path) as handle:
        dataset = handle["data/demo_0/obs/wrist"]
        assert dataset.chunks == (1, 8, 8, 3) and dataset.compression == "gzip"
        assert dataset.id.get_storage_size() < dataset.nbytes / 3


def test_every_episode_is_on_disk_before_the_next(demonstrations: list[Demonstration], tmp_path: Path) -> None:
    writer = RobomimicWriter(tmp_path / "recording.hdf5")
    for demonstration in demonstrations:
        name = writer.add(demonstration)
        assert_equal(open_set(writer.partial / f"{name}.hdf5").demonstration(0), demonstration)
    assert not (tmp_path / "recording.hdf5").exists()
    writer.finish()
    assert not writer.partial.exists()
    assert open_set(tmp_path / "recording.hdf5").lengths.tolist() == [7, 1, 12, 4]
    with h5py.File(tmp_path / "recording.hdf5") as handle:
        assert handle["data"].attrs["total"] == 24


RECORD = """
import sys
from polydit.data.robotics.robomimic_writer import RobomimicWriter
sys.path.insert(0, sys.argv[2])
from tests.robotics_data.conftest import make_demonstration
writer = RobomimicWriter(sys.argv[1], resume=True)
while True:
    writer.add(make_demonstration(len(writer) % 100, 40))
    print(len(writer), flush=True)
"""


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
def test_a_killed_recording_loses_one_episode_at_most(tmp_path: Path, root: Path) -> None:
    path = tmp_path / "recording.hdf5"
    command = [sys.executable, "-c", RECORD, str(path), str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        assert process.stdout is not None
        told = 0
        for line in process.stdout:
            told = int(line)
            if told == 7:
                time.sleep(0.003)  # somewhere within the next episode
                break
        process.send_signal(signal.SIGKILL)
        told = max([told, *map(int, process.stdout.read().split())])
    with RobomimicWriter(path, resume=True) as writer:
        assert len(writer) >= told >= 7
        writer.add(make_demonstration(len(writer) % 100, 40))
    opened = open_set(path)
    assert len(opened) > told
    for index in range(len(opened)):
        assert np.array_equal(opened.read_actions(index), make_demonstration(index % 100, 40).actions)


def test_an_exception_keeps_what_was_recorded(demonstrations: list[Demonstration], tmp_path: Path) -> None:
    path = tmp_path / "recording.hdf5"
    with pytest.raises(KeyboardInterrupt), RobomimicWriter(path) as writer:
        writer.add(demonstrations[0])
        raise KeyboardInterrupt
    with pytest.raises(DataError, match=r"recording.hdf5.partial is an unfinished recording"):
        open_set(path)
    with pytest.raises(DataError, match="is an unfinished recording: go on with it by resume=True"):
        RobomimicWriter(path)
    with RobomimicWriter(path, resume=True) as resumed:
        assert len(resumed) == 1
        assert resumed.add(demonstrations[2]) == "demo_1"
    assert open_set(path).lengths.tolist() == [7, 12]


def test_a_finished_file_is_appended_to_and_never_overwritten(demonstrations: list[Demonstration], file: Path) -> None:
    with pytest.raises(DataError, match="is a finished file"):
        RobomimicWriter(file)
    with RobomimicWriter(file, resume=True) as writer:
        assert writer.add(demonstrations[0], "valid") == "demo_4"
        assert len(open_set(file)) == 4
    assert open_set(file).splits["valid"].tolist() == [4]
    assert open_set(file).lengths.tolist() == [7, 1, 12, 4, 7]


def test_a_kill_after_the_renaming_doubles_nothing(demonstrations: list[Demonstration], tmp_path: Path) -> None:
    path = tmp_path / "recording.hdf5"
    writer = RobomimicWriter(path)
    for demonstration in demonstrations:
        writer.add(demonstration)
    kept = tmp_path / "kept"
    shutil.copytree(writer.partial, kept)
    writer.finish()
    shutil.copytree(kept, writer.partial)
    with RobomimicWriter(path, resume=True) as again:
        assert len(again) == 4
        again.add(demonstrations[0])
    assert open_set(path).lengths.tolist() == [7, 1, 12, 4, 7]


def test_a_full_disk_is_named_and_loses_nothing(
    demonstrations: list[Demonstration], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = RobomimicWriter(tmp_path / "recording.hdf5")
    writer.add(demonstrations[0])

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(RunError, match="the 1 demonstrations before are kept"):
        patch.setattr(writer, "_write", fail)
        writer.add(demonstrations[2])
    writer.add(demonstrations[3])
    assert open_set(writer.finish()).lengths.tolist() == [7, 4]


def test_an_empty_recording_is_not_finished(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no demonstration was added"), RobomimicWriter(tmp_path / "recording.hdf5"):
        pass


def spoil(field: str, value: Any) -> Demonstration:
    demonstration = make_demonstration(0, 6)
    if field == "actions":
        demonstration.actions = value(demonstration.actions)
    else:
        demonstration.observations = {**demonstration.observations, field: value(demonstration.observations[field])}
    return demonstration


def set_nan(values: Any) -> Any:
    values = values.copy()
    values[4, 2] = np.nan
    return values


@pytest.mark.parametrize(
    ("demonstration", "message"),
    [
        (spoil("actions", set_nan), "demo_0: actions at step 4, dimension 2 is nan"),
        (spoil("state", set_nan), "demo_0: state at step 4, dimension 2 is nan"),
        (spoil("wrist", lambda values: values[:-1]), "demo_0: 6 actions but 5 values of 'wrist'"),
        (spoil("actions", lambda values: values[:0]), r"actions have shape \(0, 3\)"),
        (spoil("actions", lambda values: values[0]), r"actions have shape \(3,\)"),
        (Demonstration({}, np.zeros((2, 3), np.float32)), "no observations"),
    ],
)
def test_the_writer_refuses_what_no_reader_takes(demonstration: Demonstration, message: str, tmp_path: Path) -> None:
    writer = RobomimicWriter(tmp_path / "recording.hdf5")
    with pytest.raises(DataError, match=message):
        writer.add(demonstration)
    writer.add(make_demonstration(0, 3))
    assert len(open_set(writer.finish())) == 1


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no file .*absent\.hdf5"):
        open_set(tmp_path / "absent.hdf5")
    write_robomimic(make_demonstrations(), tmp_path / "lift.hdf5")
    with pytest.raises(DataError, match=r"is a folder; it holds lift.hdf5"):
        open_set(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"\(0 bytes\) is not an HDF5 file"),
        (b"episode,reward\n1,2\n" * 20, "is not an HDF5 file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "git-lfs pointer"),
    ],
)
def test_other_files_are_refused(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "other.hdf5"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        open_set(path)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_file_cut_short_anywhere_is_named(file: Path, share: float) -> None:
    content = file.read_bytes()
    path = file.with_name("cut.hdf5")
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match=r"cut\.hdf5 (was cut short|\(\d+ bytes\) is not an HDF5 file)"):
        open_set(path)


def test_damaged_frames_are_named_when_they_are_read(file: Path) -> None:
    with h5py.File(file) as handle:
        offset = handle["data/demo_2/obs/wrist"].id.get_chunk_info(6).byte_offset
    content = bytearray(file.read_bytes())
    content[offset : offset + 40] = bytes(40)
    file.write_bytes(content)
    opened = open_set(file)
    opened.read(2, 0, 6, ["wrist"])
    with pytest.raises(DataError, match=r"demo_2: obs/wrist at steps 5 to 7 cannot be read .*damaged"):
        opened.read(2, 5, 8, ["wrist"])


def remove(key: str) -> Callable[[Any], None]:
    return lambda handle: handle.__delitem__(key)


def replace(key: str, values: Any) -> Callable[[Any], None]:
    def change(handle: Any) -> None:
        del handle[key]
        handle[key] = values

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove("data"), "holds no demonstrations"),
        (remove("data/demo_3/obs/wrist"), r"field 'wrist' is uint8 \[8, 8, 3\] in demo_0 but absent in demo_3"),
        (remove("data/demo_3/actions"), r"demo_3 has no actions \[T, A\]"),
        (remove("data/demo_0/obs"), "demo_0 has no observations"),
        (replace("data/demo_2/actions", np.zeros((12, 4))), "demo_0 has actions of size 3, demo_2 of size 4"),
        (replace("data/demo_2/actions", np.zeros((11, 3))), "demo_2: num_samples says 12 but there are 11 actions"),
        (replace("data/demo_2/obs/state", np.zeros((11, 5))), "demo_2: 12 actions but 11 values of 'state'"),
        (replace("data/demo_2/obs/state", np.zeros((12, 6))), r"'state' is float32 \[5\] in demo_0 but float32 \[6\]"),
        (lambda handle: handle.__setitem__("mask/train", [b"demo_9"]), "mask/train lists demo_9, which is not among"),
        (lambda handle: handle["data"].attrs.__setitem__("env_args", "{"), "env_args is not JSON"),
    ],
)
def test_contradictions_within_a_file_are_named(
    edit: Callable[[Callable[[Any], None]], Path], change: Callable[[Any], None], message: str
) -> None:
    path = edit(change)
    with pytest.raises(DataError, match=message):
        open_set(path)


def test_unknown_fields_suggest_the_nearest(file: Path) -> None:
    with pytest.raises(DataError, match=r"no field 'wrists': did you mean 'wrist'\? Its cameras: wrist"):
        open_set(file).read(0, 0, 1, ["wrists"])
