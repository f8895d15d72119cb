"""Clips: the skeleton's mappings, readers of three layouts on written and real files, the made set, and splits."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polydit.data.pose.cmu import CMUSource
from polydit.data.pose.human36m import Human36MSource, MPIInf3DHPSource
from polydit.data.pose.motion import Motion, divide_motions
from polydit.data.pose.skeleton import (
    CMU_ASF,
    CMU_BVH,
    HEATMAP_INDEX,
    HEATMAP_JOINTS,
    HUMAN36M_INDEX,
    JOINTS,
    MIRRORED,
    MPI_INF_3DHP_INDEX,
    PARENTS,
    exchange_limbs,
)
from polydit.data.pose.walking import WalkingSource
from polydit.platform.errors import ConfigurationError, DataError

LEFT, RIGHT = (np.array([place for place, name in enumerate(JOINTS) if name.startswith(side)]) for side in
               ("left", "right"))


def stand(frames: int = 6) -> np.ndarray:
    """Someone who stands, [frames, 17, 3] metres, y up."""
    return WalkingSource(1, seconds=frames / 30).read()[0].positions


def facing(positions: np.ndarray, toes: np.ndarray) -> np.ndarray:
    """Cosine, over the ground, of where the toes point and where left and right say that the front is."""
    across = positions[:, JOINTS.index("left_hip")] - positions[:, JOINTS.index("right_hip")]
    front = np.cross(across, [0.0, 1.0, 0.0])
    ends = [(vector[:, [0, 2]] / np.linalg.norm(vector[:, [0, 2]], axis=-1, keepdims=True)) for vector in (front, toes)]
    return (ends[0] * ends[1]).sum(axis=-1)


def test_mappings_name_every_joint_once() -> None:
    for mapping in (CMU_ASF, CMU_BVH):
        assert set(mapping) == set(JOINTS) and len(set(mapping.values())) == len(JOINTS)
    assert len(set(HUMAN36M_INDEX)) == len(set(MPI_INF_3DHP_INDEX)) == len(JOINTS)
    assert sorted(MPI_INF_3DHP_INDEX) == list(range(17)) and max(HUMAN36M_INDEX) < 32
    assert set(HEATMAP_JOINTS) == set(JOINTS) - {"spine"} and len(HEATMAP_INDEX) == 16
    assert [MIRRORED[MIRRORED[place]] for place in range(17)] == list(range(17))
    assert all(parent < joint for joint, parent in enumerate(PARENTS))


@pytest.mark.parametrize(("name", "foot"), [("cmu_mocap_60fps", "tibia foot"), ("cmu_actions_30fps", "Foot ToeBase")])
def test_real_clips_are_people_with_their_left_on_the_left(shared_data: Path, name: str, foot: str) -> None:
    path = shared_data / "pose" / "cmu_mocap" / f"{name}.npz"
    motions = CMUSource(str(path)).read()
    positions = np.concatenate([motion.positions for motion in motions])
    with np.load(path) as held:
        assert len(positions) == len(held["joints"]) and len(motions) == len(held["clip"])
        names = [text.decode() for text in held["joint_names"]]
        if "tibia" in foot:
            ends = held["joints"][:, names.index("lfoot")] - held["joints"][:, names.index("ltibia")]
        else:
            ends = held["joints"][:, names.index("LeftToeBase")] - held["joints"][:, names.index("LeftFoot")]
    bones = np.linalg.norm(positions[:, 1:] - positions[:, list(PARENTS[1:])], axis=-1)
    assert bones.min() > 0.05 and bones.max() < 0.55
    assert np.median(facing(positions, ends)) > 0.8
    height = positions[..., 1].max(axis=1) - positions[..., 1].min(axis=1)
    assert 1.2 < np.median(height) < 1.9


def test_made_people_walk_forwards_on_the_ground_with_constant_bones() -> None:
    first, again = WalkingSource(6, seconds=2).read(), WalkingSource(6, seconds=2).read()
    for motion, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(motion.positions, other.positions)
        bones = np.linalg.norm(motion.positions[:, 1:] - motion.positions[:, list(PARENTS[1:])], axis=-1)
        legs = [JOINTS.index(name) - 1 for name in ("left_knee", "right_ankle", "left_elbow", "right_wrist")]
        assert np.ptp(bones[:, legs], axis=0).max() < 1e-5
        lowest = motion.positions[..., 1].min(axis=1)
        assert lowest.min() > 0 and np.ptp(lowest) < 1e-5
        travelled = motion.positions[1:, 0] - motion.positions[:-1, 0]
        assert np.median(facing(motion.positions[1:], travelled)) > 0.7
    assert not np.allclose(first[0].positions, first[1].positions)
    with pytest.raises(ConfigurationError, match="make no frame"):
        WalkingSource(0)


def save_human36m(path: Path, **changes: Any) -> np.ndarray:
    poses = np.zeros((4, 32, 3), np.float32)
    upright = stand(4)
    poses[:, list(HUMAN36M_INDEX)] = np.stack([upright[..., 0], -upright[..., 2], upright[..., 1]], axis=-1)
    held: Any = {"S1": {"Walking": poses}, "S9": {"Walking": poses, "Eating 1": poses}}
    np.savez(path, **({"positions_3d": held} | changes))
    return upright


def test_human36m_file_is_read_upright_with_its_test_subjects(tmp_path: Path) -> None:
    upright = save_human36m(tmp_path / "h.npz")
    motions = Human36MSource(str(tmp_path / "h.npz")).read()
    assert [(motion.name, motion.subject, motion.split) for motion in motions] == [
        ("S1/Walking", "S1", ""), ("S9/Eating 1", "S9", "test"), ("S9/Walking", "S9", "test")
    ]
    np.testing.assert_allclose(motions[0].positions, upright, atol=1e-6)
    assert len(Human36MSource(str(tmp_path / "h.npz"), every=2).read()[0].positions) == 2


def test_mpi_inf_3dhp_files_are_read_upright(tmp_path: Path) -> None:
    upright = stand(5)
    seen = np.zeros((5, 17, 3), np.float32)
    seen[:, list(MPI_INF_3DHP_INDEX)] = upright * [1000, -1000, -1000]
    np.savez(tmp_path / "train.npz", data=np.array({"S1 Seq2": [{"0": {"data_3d": seen}, "1": {"data_3d": seen}}]}))
    valid = np.array([1, 1, 0, 1, 0])
    np.savez(tmp_path / "test.npz", data=np.array({"TS1": {"data_3d": seen, "valid": valid}}))
    (train,) = MPIInf3DHPSource(str(tmp_path / "train.npz")).read()
    (test,) = MPIInf3DHPSource(str(tmp_path / "test.npz")).read()
    assert (train.name, train.subject, train.split, test.split) == ("S1 Seq2", "S1", "", "test")
    np.testing.assert_allclose(train.positions, upright, atol=1e-5)
    np.testing.assert_allclose(test.positions, upright[[0, 1, 3]], atol=1e-5)


class Harm:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("harmed"),))


def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "f.npz"
    cases: list[tuple[type, dict[str, Any], str]] = [
        (Human36MSource, {"positions": np.zeros(3)}, "lacks positions_3d; it holds positions"),
        (Human36MSource, {"positions_3d": np.zeros((2, 32, 3))}, "not a dict"),
        (Human36MSource, {"positions_3d": {"S1": np.zeros((2, 32, 3))}}, "not a dict of entries"),
        (Human36MSource, {"positions_3d": {"S1": {"Eating": np.zeros((2, 17, 3))}}}, r"give \[frames, 32, 3\]"),
        (Human36MSource, {"positions_3d": {"S1": {"Eating": np.full((2, 32, 3), np.nan)}}}, "no finite numbers"),
        (Human36MSource, {"positions_3d": {"S1": Harm()}}, "only arrays are read"),
        (MPIInf3DHPSource, {"data": {"S1 Seq1": [{"0": {"data_2d": np.zeros(3)}}]}}, "lacks data_3d"),
        (MPIInf3DHPSource, {"data": {"S1 Seq1": []}}, "not a dict of entries"),
        (CMUSource, {"joints": np.zeros((3, 31, 3))}, "lacks clip, clip_length, joint_names, fps"),
    ]
    for source, arrays, message in cases:
        np.savez(path, **arrays)
        with pytest.raises(DataError, match=message):
            source(str(path)).read()
    assert not (tmp_path / "harmed").exists()
    for source in (Human36MSource, MPIInf3DHPSource, CMUSource):
        with pytest.raises(DataError, match="there is no file"):
            source(str(tmp_path / "absent.npz")).read()
    np.save(tmp_path / "bare.npy", np.zeros(3))
    with pytest.raises(DataError, match="one bare array"):
        CMUSource(str(tmp_path / "bare.npy")).read()


@given(st.integers(1, 99))
def test_a_torn_file_is_an_error_of_the_user(part: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "h.npz"
        save_human36m(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size * part // 100])
        with pytest.raises(DataError, match=r"no whole npz file|cannot be read"):
            Human36MSource(str(path)).read()


def save_cmu(path: Path, **changes: Any) -> None:
    names = [*dict.fromkeys(CMU_ASF.values()), *(f"other{i}" for i in range(14))]
    positions = np.zeros((4, 31, 3), np.float32)
    positions[:, :17] = stand(4)[:, [JOINTS.index(joint) for joint in CMU_ASF]]
    held = {"joints": positions, "clip": np.array([b"02_01", b"05_01"]), "clip_length": np.array([3, 1]),
            "joint_names": np.array([name.encode() for name in names]), "fps": np.float32(60)}
    np.savez(path, **(held | changes))


def test_cmu_layout_by_subject_and_its_mistakes(tmp_path: Path) -> None:
    path = tmp_path / "c.npz"
    save_cmu(path)
    motions = CMUSource(str(tmp_path)).read()
    assert [(motion.subject, len(motion.positions)) for motion in motions] == [("02", 3), ("05", 1)]
    np.testing.assert_array_equal(motions[0].positions, stand(4)[:3])
    assert [motion.name for motion in CMUSource(str(path), clips="05").read()] == ["05_01"]
    with pytest.raises(DataError, match="none of 2 clips"):
        CMUSource(str(path), clips="dance").read()
    save_cmu(path, clip_length=np.array([3, 2]))
    with pytest.raises(DataError, match="clips of 5 frames in all"):
        CMUSource(str(path)).read()
    save_cmu(path, joint_names=np.array([f"j{i}" for i in range(31)]))
    with pytest.raises(DataError, match=r"lack .*rfemur.*root or Hips"):
        CMUSource(str(path)).read()
    save_cmu(path, joints=np.zeros((4, 31, 3), np.float32))
    with pytest.raises(DataError, match="give metres"):
        CMUSource(str(path)).read()
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="there is no npz file"):
        CMUSource(str(tmp_path / "empty")).read()


@given(st.integers(1, 12), st.integers(0, 5), st.sampled_from([[0.8, 0.1, 0.1], [0.5, 0.25, 0.25], "stored"]))
def test_no_subject_is_in_two_splits(subjects: int, seed: int, splits: Any) -> None:
    pose = stand(2)
    motions = [Motion(f"{i}", f"s{i % subjects}", pose, 30.0) for i in range(2 * subjects)]
    parts = divide_motions(motions, splits, seed)
    assert sorted(place for places in parts.values() for place in places) == list(range(2 * subjects))
    assert parts["train"]
    owners = {name: {motions[place].subject for place in places} for name, places in parts.items()}
    assert not owners["train"] & owners["val"] and not owners["train"] & owners["test"]
    assert not owners["val"] & owners["test"]
    assert parts == divide_motions(motions, splits, seed)


def test_a_stored_test_split_is_kept() -> None:
    motions = [Motion(f"{i}", f"s{i}", stand(2), 30.0, "test" if i < 2 else "") for i in range(12)]
    parts = divide_motions(motions, "stored", 0)
    assert parts["test"] == [0, 1] and len(parts["val"]) == 1
    assert divide_motions(motions, [1.0, 0.0, 0.0], 0)["train"] == list(range(12))
    for splits in ("random", [0.5, 0.5], [0.5, 0.6, -0.1]):
        with pytest.raises(ConfigurationError, match="splits"):
            divide_motions(motions, splits, 0)


def test_exchanged_limbs_are_those_of_the_other_side() -> None:
    pose = stand(2)
    marked = np.zeros((2, 17), dtype=bool)
    marked[1, [*LEFT, *RIGHT]] = True
    swapped = exchange_limbs(pose, marked)
    np.testing.assert_array_equal(swapped[0], pose[0])
    np.testing.assert_array_equal(swapped[1, LEFT], pose[1, [MIRRORED[place] for place in LEFT]])


