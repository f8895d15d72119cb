"""Laws of windows: every step is a start, masks tell padding from data, whatever the set is read from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from polydit.data.robotics.batch import TrajectoryBatch, collate
from polydit.data.robotics.demonstrations import Demonstration
from polydit.data.robotics.memory import MemoryDemonstrations, size_in_memory
from polydit.data.robotics.robomimic import RobomimicSource
from polydit.data.robotics.robomimic_writer import write_robomimic
from polydit.data.robotics.windows import WindowDataset
from polydit.platform.errors import ConfigurationError, DataError

from .conftest import make_demonstration, make_demonstrations

pytest.importorskip("h5py")
EVERY = np.arange(4)
HELD = st.sampled_from([None, [], ["state"], ["state", "wrist"]])
"""Fields in memory; None: everything is read from the file."""
SAME_FILE = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


def make_windows(path: Path, episodes: Any = EVERY, held: Any = None, **options: Any) -> WindowDataset:
    opened: Any = RobomimicSource(str(path)).open()
    if held is not None:
        opened = MemoryDemonstrations(opened, held)
    return WindowDataset([opened], [episodes], ["state", "wrist"], **options)


@SAME_FILE
@given(
    history=st.integers(1, 5), horizon=st.integers(1, 9), stride=st.integers(1, 3), frames=st.integers(0, 3),
    future_stride=st.integers(1, 4), held=HELD,
)
def test_a_window_holds_what_its_masks_say(
    file: Path, history: int, horizon: int, stride: int, frames: int, future_stride: int, held: Any
) -> None:
    demonstrations = make_demonstrations()
    windows = make_windows(
        file, held=held, history=history, horizon=horizon, history_stride=stride, future_frames=frames,
        future_stride=future_stride,
    )
    assert len(windows) == 24
    batch = windows[list(range(24))]
    starts = [(episode, step) for episode, steps in enumerate((7, 1, 12, 4)) for step in range(steps)]
    for row, (episode, step) in enumerate(starts):
        whole = demonstrations[episode]
        last = len(whole) - 1
        for place in range(history):
            wanted = step - stride * (history - 1 - place)
            assert bool(batch.observation_mask[row, place]) == (wanted >= 0)
            for name in ("state", "wrist"):
                expected = torch.from_numpy(whole.observations[name][max(wanted, 0)])
                assert torch.equal(batch.observations[name][row, place], expected)
        for place in range(horizon):
            assert bool(batch.action_mask[row, place]) == (step + place <= last)
            assert torch.equal(batch.actions[row, place], torch.from_numpy(whole.actions[min(step + place, last)]))
        for place in range(frames):
            wanted = step + future_stride * (place + 1)
            assert bool(batch.future_mask[row, place]) == (wanted <= last)  # type: ignore[index]
            expected = torch.from_numpy(whole.observations["wrist"][min(wanted, last)])
            assert torch.equal(batch.future["wrist"][row, place], expected)
        assert batch.instructions[row] == f"open drawer {episode % 2}"
        assert batch.tasks[row] == "metaworld/drawer-open-v3"
    assert list(batch.future) == (["wrist"] if frames else [])


@SAME_FILE
@given(st.lists(st.integers(0, 23), min_size=1, max_size=12), HELD)
def test_rows_come_in_the_order_asked_for(file: Path, positions: list[int], held: Any) -> None:
    windows = make_windows(file, held=held, history=2, horizon=3, future_frames=1)
    batch = windows[positions]
    single = collate([windows[position] for position in positions])
    assert_equal(batch, single)
    assert batch.index.tolist() == positions  # type: ignore[union-attr]


def assert_equal(one: TrajectoryBatch, other: TrajectoryBatch) -> None:
    for name in ("observation_mask", "actions", "action_mask", "future_mask", "frequency", "index"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    for name in ("observations", "future"):
        assert sorted(getattr(one, name)) == sorted(getattr(other, name))
        for key, values in getattr(one, name).items():
            assert torch.equal(values, getattr(other, name)[key])
            assert values.dtype == getattr(other, name)[key].dtype
    assert (one.instructions, one.tasks) == (other.instructions, other.tasks)


def test_shapes_and_types(file: Path) -> None:
    batch = make_windows(file, history=2, horizon=5, future_frames=3)[[0, 9, 20]]
    assert batch.observations["state"].shape == (3, 2, 5) and batch.observations["state"].dtype == torch.float32
    assert batch.observations["wrist"].shape == (3, 2, 8, 8, 3) and batch.observations["wrist"].dtype == torch.uint8
    assert batch.actions.shape == (3, 5, 3) and batch.actions.dtype == torch.float32
    assert batch.observation_mask.dtype == batch.action_mask.dtype == torch.bool
    assert batch.future["wrist"].shape == (3, 3, 8, 8, 3)
    assert batch.frequency.tolist() == [20.0] * 3  # type: ignore[union-attr]
    assert len(batch) == 3


def test_chosen_episodes_of_two_files(file: Path, tmp_path: Path) -> None:
    other = write_robomimic([make_demonstration(8, 3), make_demonstration(9, 2)], tmp_path / "other.hdf5")
    sets = [RobomimicSource(str(path)).open() for path in (file, other)]
    windows = WindowDataset(sets, [np.array([3]), np.array([1, 0])], ["wrist", "state"], horizon=1)
    batch = windows[[8, 0, 4, 5, 6]]
    wanted = [(8, 2), (3, 0), (9, 0), (9, 1), (8, 0)]
    assert batch.actions[:, 0, :2].tolist() == [list(map(float, pair)) for pair in wanted]
    assert batch.observations["state"][:, 0, :2].tolist() == [list(map(float, pair)) for pair in wanted]
    assert [tuple(pixel) for pixel in batch.observations["wrist"][:, 0, 0, 0, :2].tolist()] == wanted


def test_hidden_actions_are_masked(file: Path) -> None:
    opened = RobomimicSource(str(file), hide_actions=True).open()
    batch = WindowDataset([opened], [EVERY], ["wrist"], horizon=3)[[0, 5]]
    assert not batch.action_mask.any()
    assert batch.observation_mask.all()


def test_a_plain_loader_collates(file: Path) -> None:
    windows = make_windows(file, horizon=2)
    batches = list(DataLoader(windows, batch_size=10, collate_fn=collate))
    assert [len(batch) for batch in batches] == [10, 10, 4]


def test_moving_moves_everything(file: Path) -> None:
    batch = make_windows(file, future_frames=1)[[0, 1]].to("meta")
    tensors = [
        batch.actions, batch.action_mask, batch.observation_mask, batch.future_mask, batch.frequency, batch.index,
        *batch.observations.values(), *batch.future.values(),
    ]  # fmt: skip
    assert {tensor.device.type for tensor in tensors if tensor is not None} == {"meta"}
    assert batch.instructions == ["open drawer 0"] * 2


def test_memory_is_counted_before_it_is_taken(file: Path) -> None:
    opened = RobomimicSource(str(file)).open()
    held = MemoryDemonstrations(opened, ["state", "wrist"])
    taken = sum(values.nbytes for values in (held._actions, *held._values.values()))
    assert size_in_memory(opened, ["state", "wrist"]) == taken
    assert size_in_memory(opened, ["state"]) == taken - held._values["wrist"].nbytes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"history": 0}, "history must be at least 1, not 0"),
        ({"horizon": 0}, "horizon must be at least 1, not 0"),
        ({"future_stride": 0}, "future_stride must be at least 1, not 0"),
        ({"future_frames": -1}, "future_frames must be 0 or more, not -1"),
        ({"future_frames": 1, "future_fields": []}, "future_frames needs a camera"),
    ],
)
def test_impossible_windows_are_refused(file: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make_windows(file, **options)


def test_a_bad_action_names_episode_and_step(demonstrations: list[Demonstration], file: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(file, "r+") as handle:
        handle["data/demo_2/actions"][5, 1] = np.inf
    with pytest.raises(DataError, match=r"demo_2: actions at step 5, dimension 1 is inf"):
        make_windows(file)


def test_batches_of_different_robots_do_not_join(file: Path, tmp_path: Path) -> None:
    other = write_robomimic([make_demonstration(8, 3, action_size=7)], tmp_path / "other.hdf5")
    one, two = make_windows(file)[[0]], make_windows(other, episodes=np.array([0]))[[0]]
    with pytest.raises(DataError, match=r"actions: batches of unequal shapes \(16, 3\) and \(16, 7\)"):
        collate([one, two])
