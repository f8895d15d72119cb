"""Views of clips: cameras, heatmaps and what they leave in doubt, batches, and requests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from polydit.data.pose.cameras import DRAWS, CameraRange
from polydit.data.pose.datamodule import PoseDataModule
from polydit.data.pose.heatmaps import NORMAL_DRAWS, SIZE, UNIFORM_DRAWS, HeatmapRecipe, check_heatmaps, draw_peaks
from polydit.data.pose.skeleton import HEATMAP_INDEX, HEATMAP_JOINTS, JOINTS, MIRRORED
from polydit.data.pose.walking import WalkingSource
from polydit.data.pose.wishes import HeatmapInput, PoseWishes, read_heatmaps, write_heatmaps
from polydit.platform.errors import ConfigurationError, DataError, UserError

CLEAR = HeatmapRecipe(exchange=0, exchange_sides=0, occlusion=0, jitter=0, shift=0, height=(1, 1))
PEOPLE = WalkingSource(8, seconds=1)


def make_data(**options: Any) -> PoseDataModule:
    return PoseDataModule([PEOPLE], **{"stride": 6, "views": 2, "batch_size": 8, **options})


def make_world(count: int = 32) -> np.ndarray:
    return np.concatenate([motion.positions for motion in PEOPLE.read()])[:count]


def test_cameras_are_rigid_upright_and_where_they_should_be() -> None:
    world = make_world()
    generator = np.random.default_rng(0)
    limits = CameraRange(distance=(3, 4), height=(1, 2), focal=(1.2, 1.2), roll=0)
    cameras = limits.place(world, generator.random((len(world), DRAWS)))
    np.testing.assert_allclose(
        cameras.rotation @ cameras.rotation.swapaxes(1, 2), np.repeat(np.eye(3)[None], len(world), 0), atol=1e-12
    )
    assert (np.linalg.det(cameras.rotation) > 0.999).all()
    away = np.linalg.norm((cameras.position - world[:, 0])[:, [0, 2]], axis=-1)
    assert away.min() >= 3 and away.max() <= 4
    height = cameras.position[:, 1] - world[..., 1].min(axis=1)
    assert height.min() >= 1 and height.max() <= 2
    seen = cameras.see(world)
    for start, end in ((0, 5), (3, 16)):  # lengths are kept
        np.testing.assert_allclose(
            np.linalg.norm(seen[:, start] - seen[:, end], axis=-1),
            np.linalg.norm(world[:, start] - world[:, end], axis=-1), atol=1e-6,
        )
    assert (seen[..., 2] > 1.5).all(), "everybody is in front of the camera"
    head, ankle = seen[:, JOINTS.index("head"), 1], seen[:, JOINTS.index("left_ankle"), 1]
    assert (head < ankle).all(), "y points down"
    # What a pinhole with this focal length sees of a point.
    places = cameras.project(seen)
    np.testing.assert_allclose(places[3, 7], 1.2 * seen[3, 7, :2] / seen[3, 7, 2], atol=1e-12)
    assert np.abs(places[:, 0]).max() < 1.2 * 0.4 / 2.5, "the pelvis is near the middle"


def test_left_and_right_follow_the_way_someone_faces() -> None:
    """From the front the person's left is on the right of the picture."""
    world = make_world(1)
    across = world[0, JOINTS.index("left_hip")] - world[0, JOINTS.index("right_hip")]
    front = np.cross(across, [0, 1, 0])
    azimuth = np.arctan2(front[0], front[2]) / (2 * np.pi) % 1
    draws = np.array([[azimuth, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]])
    cameras = CameraRange().place(world, draws)
    seen = cameras.project(cameras.see(world))[0]
    assert seen[JOINTS.index("left_shoulder"), 0] > seen[JOINTS.index("right_shoulder"), 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"distance": (4, 3)}, "rising"), ({"focal": (0, 1)}, "above 0"), ({"distance": (1, 2)}, "arm's reach")],
)
def test_cameras_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        CameraRange(**options)


def test_peaks_are_gaussians_of_the_stated_blur_where_the_joints_are() -> None:
    peaks = np.array([[[[20.0, 40.0], [50.0, 10.0]]]])
    maps = draw_peaks(peaks, np.array([[[0.7, 0.3]]]), np.array([[2.0]]))
    assert maps.shape == (1, 1, SIZE, SIZE) and maps.dtype == np.float32
    assert maps[0, 0, 40, 20] == pytest.approx(0.7, abs=1e-6), "rows are y, columns x"
    assert maps[0, 0, 10, 50] == pytest.approx(0.3, abs=1e-6)
    assert maps[0, 0, 40, 22] == pytest.approx(0.7 * np.exp(-0.5), abs=1e-6)
    assert maps.sum() == pytest.approx(2 * np.pi * 4, rel=1e-3)


def test_clear_heatmaps_peak_at_the_projected_joints() -> None:
    data = make_data(heatmaps=CLEAR, limit=12)
    batch = data.view("val")[list(range(4))]
    view = data.view("val")
    world = np.stack([view.motions[view.owners[i]].positions[view.frames[i]] for i in range(4)])
    cameras = view.cameras.place(world, view._draw(np.arange(4))[0][:, :DRAWS])
    places = cameras.project(cameras.see(world))
    low, high = places.min(axis=1), places.max(axis=1)
    side = 1.25 * (high - low).max(axis=1)
    expected = (places - ((low + high) / 2)[:, None]) / side[:, None, None] * SIZE + SIZE / 2
    top = batch.heatmaps.flatten(2).argmax(dim=-1).numpy()
    found = np.stack([top % SIZE, top // SIZE], axis=-1)
    assert np.abs(found - expected[:, list(HEATMAP_INDEX)]).max() <= 0.51
    assert not batch.exchanged.any() and not batch.occluded.any()
    torch.testing.assert_close(batch.poses[:, 0], torch.zeros(4, 3))
    seen = cameras.see(world)
    np.testing.assert_allclose(batch.poses.numpy(), seen - seen[:, :1], atol=1e-6)


def test_doubts_come_as_often_and_as_heavy_as_stated() -> None:
    recipe = HeatmapRecipe(exchange=0.4, exchange_sides=0, exchange_mass=(0.6, 0.9), occlusion=0.2, missing=0.5)
    draws = np.random.default_rng(0).random((20_000, UNIFORM_DRAWS))
    doubts = recipe.doubt(draws)
    wrist, ankle = JOINTS.index("left_wrist"), JOINTS.index("right_ankle")
    assert doubts.exchanged[:, wrist].mean() == pytest.approx(0.4, abs=0.01)
    assert (doubts.exchanged[:, wrist] & doubts.exchanged[:, ankle]).mean() == pytest.approx(0.16, abs=0.01)
    np.testing.assert_array_equal(doubts.exchanged[:, wrist], doubts.exchanged[:, MIRRORED[wrist]])
    np.testing.assert_array_equal(doubts.weight[:, wrist], doubts.weight[:, JOINTS.index("right_elbow")])
    assert not doubts.exchanged[:, [0, 1, 4, 7, 8, 9, 10, 11, 14]].any(), "only limbs are exchanged"
    weight = doubts.weight[doubts.exchanged[:, wrist], wrist]
    # The mass at the true place is what a fair detector gives: of all views with mass near w, w are right.
    heavy = np.maximum(weight, 1 - weight)
    assert heavy.min() >= 0.6 and heavy.max() <= 0.9
    for low, high in ((0.6, 0.7), (0.8, 0.9)):
        chosen = (heavy >= low) & (heavy < high)
        assert (weight[chosen] > 0.5).mean() == pytest.approx(heavy[chosen].mean(), abs=0.03)
    assert (doubts.weight[~doubts.exchanged] == 1).all()
    assert doubts.occluded.mean() == pytest.approx(0.2, abs=0.01)
    assert doubts.missing.mean() == pytest.approx(0.1, abs=0.01) and not (doubts.missing & ~doubts.occluded).any()


def test_a_person_may_be_in_doubt_as_a_whole() -> None:
    draws = np.random.default_rng(0).random((5000, UNIFORM_DRAWS))
    doubts = HeatmapRecipe(exchange=0.5, exchange_sides=0.3, exchange_mass=(0.7, 0.7)).doubt(draws)
    hip, wrist = JOINTS.index("left_hip"), JOINTS.index("right_wrist")
    whole = doubts.exchanged[:, hip]
    assert whole.mean() == pytest.approx(0.3, abs=0.02)
    paired = [place for place in range(17) if MIRRORED[place] != place]
    assert doubts.exchanged[whole][:, paired].all() and not doubts.exchanged[:, [0, 7, 8, 9, 10]].any()
    np.testing.assert_array_equal(doubts.weight[whole, hip], doubts.weight[whole, wrist])
    assert (doubts.weight[whole, hip] == 0.7).mean() == pytest.approx(0.7, abs=0.03)
    assert doubts.exchanged[~whole, wrist].mean() == pytest.approx(0.5, abs=0.02)


def test_exchanged_limbs_have_two_peaks_and_missing_joints_none() -> None:
    recipe = HeatmapRecipe(exchange=1, exchange_mass=(0.7, 0.7), occlusion=0, jitter=0, shift=0, height=(1, 1))
    places = np.zeros((1, 17, 2))
    places[0] = np.random.default_rng(1).uniform(-1, 1, (17, 2))
    draws = np.full((1, UNIFORM_DRAWS), 0.9)
    doubts = recipe.doubt(draws)
    maps = recipe.render(places, doubts, draws, np.zeros((1, NORMAL_DRAWS)))
    wrist = HEATMAP_JOINTS.index("left_wrist")
    level = np.sort(maps[0, wrist].ravel())[::-1]
    assert doubts.weight[0, JOINTS.index("left_wrist")] == pytest.approx(0.3), "0.9 is above the mass, so it is wrong"
    assert level[0] == pytest.approx(0.7, abs=0.05)
    mirrored = maps[0, HEATMAP_JOINTS.index("right_wrist")]
    place = np.unravel_index(maps[0, wrist].argmax(), (SIZE, SIZE))
    assert mirrored[place] == pytest.approx(0.3, abs=0.05), "where one has its heavy peak the other has its light one"
    hidden = HeatmapRecipe(exchange=0, occlusion=1, missing=1)
    nothing = hidden.render(places, hidden.doubt(draws), draws, np.zeros((1, NORMAL_DRAWS)))
    assert not nothing.any()
    faint = HeatmapRecipe(exchange=0, occlusion=1, missing=0)
    assert 0 < faint.render(places, faint.doubt(draws), draws, np.zeros((1, NORMAL_DRAWS))).max() <= 0.2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"exchange": 1.2}, "exchange is a probability"), ({"blur": 0}, "blur 0"),
        ({"exchange_mass": (0.8, 0.5)}, "rise"),
    ],
)
def test_recipes_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        HeatmapRecipe(**options)


@given(st.lists(st.integers(0, 39), min_size=1, max_size=6))
def test_a_view_is_the_same_in_any_batch(places: list[int]) -> None:
    view = make_data().view("train")
    together, alone = view[places], view[[places[-1]]]
    torch.testing.assert_close(together.heatmaps[-1], alone.heatmaps[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(together.poses[-1], alone.poses[0])
    assert together.clips[-1] == alone.clips[0] and together.index.tolist() == places


def test_splits_views_and_limits() -> None:
    data = make_data()
    counts = {split: len(data.view(split)) for split in ("train", "val", "test")}
    assert counts == {"train": 2 * 5 * 6, "val": 5, "test": 5}
    batch = next(iter(data.train_dataloader()))
    assert batch.heatmaps.shape == (len(batch), 16, SIZE, SIZE) and len(batch) in (4, 8)
    one, two = data.view("train")[[0, 1]].poses
    assert not torch.allclose(one, two) and torch.allclose(one.norm(dim=-1), two.norm(dim=-1), atol=1e-5)
    assert len(make_data(limit={"train": 4}).view("train")) == 8
    other = make_data(seed=1).view("train")[[0]]
    assert not torch.allclose(other.heatmaps, data.view("train")[[0]].heatmaps)
    moved = batch.to("cpu")
    assert torch.equal(moved.heatmaps, batch.heatmaps) and moved.clips == batch.clips


def test_mistakes_of_the_data_module_are_named(tmp_path: Path) -> None:
    for options, message in (
        ({"stride": 0}, "stride must be at least 1"), ({"limit": {"training": 3}}, "limit names"),
        ({"requests": [{"image": "x.png"}]}, "unknown wish 'image'"),
        ({"requests": [{"hypotheses": 3}]}, "names heatmaps"),
        ({"requests": [{"frame": 0, "hypotheses": 0}]}, "1 or more"), ({"splits": [1, 1, 1]}, "three fractions"),
    ):
        with pytest.raises(UserError, match=message):
            make_data(**options)
    with pytest.raises(DataError, match="test split is empty"):
        make_data(splits=[1.0, 0.0, 0.0]).setup("test")
    with pytest.raises(ConfigurationError, match="nothing to estimate"):
        make_data().predict_dataloader()
    with pytest.raises(UserError, match="frame 99 is none of the 5"):
        make_data(requests=[{"frame": 99}]).predict_dataloader()
    with pytest.raises(DataError, match="there is no file"):
        make_data(requests=[{"heatmaps": str(tmp_path / "x.npz")}]).predict_dataloader()


def test_requests_of_files_and_frames_bring_their_heatmaps(tmp_path: Path) -> None:
    batch = make_data().view("test")[[0, 1, 2]]
    inputs = [HeatmapInput(f"{i}", maps, pose) for i, (maps, pose) in
              enumerate(zip(batch.heatmaps.numpy(), batch.poses.numpy(), strict=True))]
    write_heatmaps(tmp_path / "h.npz", inputs)
    path = str(tmp_path / "h.npz")
    data = make_data(requests=[
        {"heatmaps": path, "hypotheses": 7}, {"heatmaps": path, "frame": 2}, {"frame": 1, "count": 2}
    ])  # fmt: skip
    requests = [request for batch in data.predict_dataloader() for request in batch]
    assert [request.seed for request in requests] == list(range(6))
    names = [str(request.wishes["heatmaps"]) for request in requests]
    assert names[:4] == ["h.npz[0]", "h.npz[1]", "h.npz[2]", "h.npz[2]"] and names[4] == names[5]
    assert "array" not in repr(requests[0])
    wishes = PoseWishes.parse(requests[0].wishes)
    assert wishes.hypotheses == 7 and wishes.heatmaps.pose is not None
    np.testing.assert_array_equal(wishes.heatmaps.maps, batch.heatmaps[0].numpy())
    np.testing.assert_allclose(wishes.heatmaps.pose, batch.poses[0].numpy(), atol=1e-6)
    np.testing.assert_array_equal(requests[4].wishes["heatmaps"].maps, batch.heatmaps[1].numpy())
    with pytest.raises(UserError, match="holds heatmaps of 3 frames"):
        PoseWishes.parse({"heatmaps": path})
    assert PoseWishes.parse({"heatmaps": path, "frame": 1}).heatmaps.name == "h.npz[1]"
    assert PoseWishes.parse({"heatmaps": batch.heatmaps[0].numpy()}).hypotheses is None
    with pytest.raises(UserError, match="did you mean 'heatmaps'"):
        PoseWishes.parse({"heatmap": path})
    with pytest.raises(UserError, match="names heatmaps"):
        PoseWishes.parse({})


def spoil(maps: np.ndarray, kind: str) -> np.ndarray:
    spoiled = maps.copy()
    if kind == "nan":
        spoiled[1, 3, 5, 5] = np.nan
    if kind == "infinite":
        spoiled[0, 15] = np.inf
    return {
        "joints": spoiled[:, :15], "size": spoiled[..., :32], "empty": spoiled[:0], "flat": spoiled[0, 0],
        "words": np.full((1, 16, 64, 64), "x"),
    }.get(kind, spoiled)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("nan", "frame 1, left_hip: 1 values are no finite"), ("infinite", "frame 0, left_wrist: 4096 values"),
        ("joints", r"give \[frames, 16, 64, 64\]"), ("size", "64 x 32 pixels: resize"), ("empty", "of no frame"),
        ("flat", "give .frames"), ("words", "give numbers"),
    ],
)  # fmt: skip
def test_bad_heatmaps_are_named(tmp_path: Path, kind: str, message: str) -> None:
    maps = spoil(np.zeros((2, 16, 64, 64), np.float32), kind)
    np.savez(tmp_path / "h.npz", heatmaps=maps)
    with pytest.raises(DataError, match=message):
        read_heatmaps(tmp_path / "h.npz")
    with pytest.raises(DataError, match=message):
        check_heatmaps(maps, "here")


def test_heatmap_files_that_do_not_fit_together(tmp_path: Path) -> None:
    path = tmp_path / "h.npz"
    maps = np.zeros((2, 16, 64, 64), np.float32)
    for poses in (np.zeros((3, 17, 3)), np.zeros((2, 16, 3)), np.full((2, 17, 3), np.nan)):
        np.savez(path, heatmaps=maps, poses=poses)
        with pytest.raises(DataError, match=r"give finite \[2, 17, 3\]"):
            read_heatmaps(path)
    np.savez(path, maps=maps)
    with pytest.raises(DataError, match="lacks heatmaps; it holds maps"):
        read_heatmaps(path)
    np.savez_compressed(path, heatmaps=np.random.default_rng(0).random((2, 16, 64, 64)).astype(np.float32))
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(DataError, match="write it again"):
        read_heatmaps(path)
    np.savez(path, heatmaps=(255 * np.random.default_rng(0).random((16, 64, 64))).astype(np.uint8))
    assert read_heatmaps(path)[0].maps.dtype == np.float32, "one frame, whole numbers"
