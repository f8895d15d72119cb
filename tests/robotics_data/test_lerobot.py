"""LeRobot folders of both versions: a real one, round trips, videos, what pandas makes of them, and damage."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polydit.data.robotics.datamodule import DemonstrationDataModule
from polydit.data.robotics.demonstrations import Demonstration
from polydit.data.robotics.lerobot import LeRobotSet, LeRobotSource
from polydit.data.robotics.lerobot_layout import read_parquet
from polydit.data.robotics.lerobot_writer import write_lerobot
from polydit.platform.errors import DataError

from .conftest import make_demonstration, make_demonstrations

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
VERSIONS = ["v2.1", "v3.0"]


def open_set(path: Path, **options: Any) -> LeRobotSet:
    return LeRobotSource(str(path), **options).open()


@pytest.fixture(params=VERSIONS)
def folder(request: pytest.FixtureRequest, tmp_path: Path, demonstrations: list[Demonstration]) -> Path:
    return write_lerobot(demonstrations, tmp_path / "set", 20, "arm", request.param)


def test_what_is_written_is_read_back(demonstrations: list[Demonstration], folder: Path) -> None:
    opened = open_set(folder, task="metaworld/drawer-open-v3")
    assert opened.lengths.tolist() == [7, 1, 12, 4]
    assert {name: str(spec) for name, spec in opened.fields.items()} == {
        "state": "float32 [5]", "wrist": "uint8 [8, 8, 3]",
    }  # fmt: skip
    for index, demonstration in enumerate(demonstrations):
        read = opened.demonstration(index)
        for name, values in demonstration.observations.items():
            assert np.array_equal(read.observations[name], values)
            assert read.observations[name].dtype == values.dtype
        assert np.array_equal(read.actions, demonstration.actions)
        assert (read.instruction, read.task) == (demonstration.instruction, demonstration.task)
    assert opened.frequency(0) == 20.0
    steps = np.array([11, 0, 0, 5])
    assert np.array_equal(
        opened.read_steps(2, steps, ["wrist"])["wrist"], demonstrations[2].observations["wrist"][steps]
    )


def test_statistics_beside_the_data_are_right(demonstrations: list[Demonstration], folder: Path) -> None:
    if (folder / "meta/stats.json").is_file():
        stats = json.loads((folder / "meta/stats.json").read_text())
        chosen = demonstrations
    else:
        lines = (folder / "meta/episodes_stats.jsonl").read_text().splitlines()
        stats, chosen = json.loads(lines[2])["stats"], demonstrations[2:3]
    actions = np.concatenate([each.actions for each in chosen]).astype(np.float64)
    np.testing.assert_allclose(stats["action"]["mean"], actions.mean(0), rtol=1e-6)
    np.testing.assert_allclose(stats["action"]["std"], actions.std(0), rtol=1e-6)
    frames = np.concatenate([each.observations["wrist"] for each in chosen]) / 255.0
    np.testing.assert_allclose(np.ravel(stats["observation.images.wrist"]["mean"]), frames.mean((0, 1, 2)), rtol=1e-6)
    assert np.shape(stats["observation.images.wrist"]["max"]) == (3, 1, 1)
    assert stats["action"]["count"] == [len(actions)]


def test_pandas_reads_tasks_as_an_index(demonstrations: list[Demonstration], tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    folder = write_lerobot(demonstrations, tmp_path / "set", 20, version="v3.0")
    tasks = pandas.read_parquet(folder / "meta/tasks.parquet")
    assert tasks.loc["open drawer 1"].task_index == 1
    assert tasks.iloc[0].name == "open drawer 0"
    episodes = pandas.read_parquet(folder / "meta/episodes/chunk-000/file-000.parquet")
    assert episodes["dataset_from_index"].tolist() == [0, 7, 8, 20]
    assert episodes["dataset_to_index"].tolist() == [7, 8, 20, 24]


def test_many_data_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polydit.data.robotics.lerobot_writer.FILE_BYTES", 4000)
    demonstrations = make_demonstrations((7, 1, 12, 4, 9, 3))
    folder = write_lerobot(demonstrations, tmp_path / "set", 20, version="v3.0")
    assert len(list(folder.glob("data/*/*.parquet"))) > 2
    opened = open_set(folder)
    for index, demonstration in enumerate(demonstrations):
        assert np.array_equal(opened.read_actions(index), demonstration.actions)


def test_the_unitree_folder(shared_data: Path) -> None:
    folder = shared_data / "robotics/unitree_g1_bottle"
    with pytest.warns(UserWarning, match=r"camera 'cam_high' is left out: 100 of 100 videos are missing, such as "):
        opened = open_set(folder)
    assert (len(opened), int(opened.lengths.sum()), opened.action_size) == (100, 35_965, 26)
    assert opened.instruction(0) == "Pick up the yellow bottle on the table."
    assert opened.frequency(0) == 30.0
    with pytest.raises(DataError, match="field 'cam_high' cannot be read: 100 of 100 videos are missing"):
        opened.read(0, 0, 1, ["cam_high"])
    for line in (folder / "meta/episodes_stats.jsonl").read_text().splitlines()[::33]:
        entry = json.loads(line)
        read = opened.demonstration(entry["episode_index"])
        np.testing.assert_allclose(read.actions.mean(0), entry["stats"]["action"]["mean"], rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(
            read.observations["state"].max(0), entry["stats"]["observation.state"]["max"], rtol=1e-6
        )


@pytest.mark.filterwarnings("ignore:.*is left out")
def test_the_unitree_folder_trains(shared_data: Path) -> None:
    module = DemonstrationDataModule([LeRobotSource(str(shared_data / "robotics/unitree_g1_bottle"))], history=2)
    module.setup("fit")
    batch = next(iter(module.train_dataloader()))
    assert batch.observations["state"].shape == (64, 2, 26) and batch.actions.shape == (64, 16, 26)
    assert module.statistics()["actions"].count == int(module.opened[0].lengths[module.episodes("train")[0]].sum())


def encode_video(path: Path, colours: list[int], fps: int) -> None:
    """Frames of one grey each, which survives compression."""
    av = pytest.importorskip("av")
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=fps, options={"g": "4"})
        stream.width, stream.height, stream.pix_fmt = 32, 16, "yuv420p"
        stream.bit_rate = 1_000_000
        for colour in colours:
            image = np.full((16, 32, 3), colour, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def colour_of(step: int) -> int:
    return 20 + step * 37 % 200


@pytest.fixture(params=VERSIONS)
def filmed(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Two episodes of 60 and 30 steps with a video each (v2.1) or one for both (v3.0)."""
    demonstrations = [make_demonstration(0, 60, camera=False), make_demonstration(1, 30, camera=False)]
    folder = write_lerobot(demonstrations, tmp_path / "filmed", 20, version=request.param)
    info = json.loads((folder / "meta/info.json").read_text())
    key = "observation.images.top"
    info["features"][key] = {"dtype": "video", "shape": [16, 32, 3], "names": ["height", "width", "channels"]}
    if request.param == "v2.1":
        info["video_path"] = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
        for episode, length in enumerate((60, 30)):
            path = folder / f"videos/chunk-000/{key}/episode_{episode:06d}.mp4"
            encode_video(path, [colour_of(step + 60 * episode) for step in range(length)], 20)
    else:
        info["video_path"] = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
        encode_video(folder / f"videos/{key}/chunk-000/file-000.mp4", [colour_of(step) for step in range(90)], 20)
        file = folder / "meta/episodes/chunk-000/file-000.parquet"
        entries = parquet.read_table(file).to_pylist()
        for entry, start in zip(entries, (0.0, 3.0), strict=True):
            places = {"chunk_index": 0, "file_index": 0, "from_timestamp": start}
            entry |= {f"videos/{key}/{name}": value for name, value in places.items()}
        parquet.write_table(pyarrow.Table.from_pylist(entries), file)
    (folder / "meta/info.json").write_text(json.dumps(info))
    return folder


def test_chosen_frames_of_videos_are_decoded(filmed: Path) -> None:
    opened = open_set(filmed)
    assert str(opened.fields["top"]) == "uint8 [16, 32, 3]"
    for episode, steps in ((0, [0]), (0, [59, 3, 3, 4, 31]), (1, [0, 29]), (1, list(range(30)))):
        frames = opened.read_steps(episode, np.array(steps), ["top"])["top"]
        assert frames.shape == (len(steps), 16, 32, 3)
        expected = [colour_of(step + 60 * episode) for step in steps]
        assert np.abs(frames.mean((1, 2, 3)) - expected).max() < 6  # neighbours differ by 37 or more


def test_frames_are_scaled_while_decoded(filmed: Path) -> None:
    opened = open_set(filmed, image_size=[8, 8])
    assert opened.fields["top"].shape == (8, 8, 3)
    assert opened.read(0, 0, 2, ["top"])["top"].shape == (2, 8, 8, 3)


def test_a_damaged_or_short_video_is_named(filmed: Path) -> None:
    video = sorted(filmed.rglob("*.mp4"))[-1]
    opened = open_set(filmed)
    encode_video(video, [20] * 10, 20)
    with pytest.raises(DataError, match=r"has no frame at .* s: it is cut short"):
        opened.read(1, 20, 21, ["top"])
    video.write_bytes(b"no video" * 100)
    with pytest.raises(DataError, match="is damaged or no video"):
        opened.read(1, 20, 21, ["top"])


def spoil_info(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "meta/info.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def drop_column(folder: Path) -> None:
    path = min(folder.glob("data/*/*.parquet"))
    parquet.write_table(parquet.read_table(path).drop_columns(["observation.state"]), path)


def cut_data(folder: Path) -> None:
    path = min(folder.glob("data/*/*.parquet"))
    path.write_bytes(path.read_bytes()[:500])


def empty(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (empty, "is not a LeRobot data set: it holds nothing, and no meta/info.json"),
        (drop_column, r"parquet lacks the columns observation.state: it has action"),
        (cut_data, r"parquet \(500 bytes\) is cut short or no parquet file"),
        (lambda folder: min(folder.glob("data/*/*.parquet")).unlink(), "parquet is missing"),
        (lambda folder: (folder / "meta/info.json").write_text('{"fps": '), "info.json is damaged"),
        (spoil_info(codebase_version="v1.6"), "of version 'v1.6'; readable are v2.0, v2.1, v3.0"),
        (spoil_info(features={"observation.state": {"dtype": "float32", "shape": [5]}}), "has no feature 'action'"),
        (spoil_info(total_frames=30), "info.json counts 30 frames, its episodes hold 24"),
    ],
)
def test_damage_is_named(folder: Path, change: Callable[[Path], Any], message: str) -> None:
    change(folder)
    with pytest.raises(DataError, match=message):
        open_set(folder)


def test_a_file_with_too_few_rows_is_named(folder: Path) -> None:
    path = max(folder.glob("data/*/*.parquet"))
    table = parquet.read_table(path)
    parquet.write_table(table.slice(0, len(table) - 2), path)
    opened = open_set(folder)
    with pytest.raises(DataError, match="the file is cut short"):
        opened.read_actions(3)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_parquet_file_cut_short_anywhere_is_named(tmp_path: Path, share: float) -> None:
    path = tmp_path / "values.parquet"
    parquet.write_table(pyarrow.table({"action": list(range(500))}), path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(DataError, match="is cut short or no parquet file"):
        read_parquet(path, ["action"])


def test_the_writer_refuses_unequal_fields_and_keeps_nothing(tmp_path: Path) -> None:
    unequal = [make_demonstration(0, 3), make_demonstration(1, 3, camera=False)]
    with pytest.raises(DataError, match="episode 1 has other fields than episode 0"):
        write_lerobot(unequal, tmp_path / "set", 20)
    with pytest.raises(DataError, match="no demonstrations were given"):
        write_lerobot([], tmp_path / "set", 20)
    assert list(tmp_path.iterdir()) == []
    write_lerobot(unequal[:1], tmp_path / "set", 20)
    with pytest.raises(DataError, match="set exists"):
        write_lerobot(unequal[:1], tmp_path / "set", 20)
