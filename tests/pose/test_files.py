"""Hypotheses in files and pictures: what is written reads back to the same joints."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from polydit.data.pose.skeleton import JOINTS, PARENTS
from polydit.data.pose.walking import WalkingSource
from polydit.domains.pose.bvh import AXES, UNIT, read_bvh, read_poses, rotate, to_euler, write_bvh
from polydit.domains.pose.gallery import PoseGallery
from polydit.domains.pose.hypotheses import PoseHypotheses
from polydit.domains.pose.writers import PoseBVHWriter, PoseNPZWriter
from polydit.platform.errors import DataError
from polydit.platform.requests import Request, Sample


def make_poses(count: int = 5) -> np.ndarray:
    """Walking people in camera axes, metres from the pelvis."""
    poses = np.concatenate([motion.positions[:: 10] for motion in WalkingSource(4, seconds=1).read()])[:count]
    return ((poses - poses[:, :1]) * [1, -1, -1]).astype(np.float32)


def make_sample(truth: bool = True, name: str = "walk_003[12]") -> Sample:
    poses = make_poses()
    maps = np.zeros((16, 64, 64), np.float32)
    maps[:, 30:33, 20:23] = 0.9
    return Sample(Request(3), PoseHypotheses(name, poses, maps, poses[0].copy() if truth else None))


@given(st.integers(0, 10_000), st.floats(0.0, 0.3))
def test_bvh_reads_back_to_the_same_joints(tmp_path_factory: pytest.TempPathFactory, seed: int, noise: float) -> None:
    """Whatever the lengths of the bones: hypotheses are no rigid bodies."""
    path = tmp_path_factory.mktemp("bvh") / "poses.bvh"
    poses = make_poses() + np.random.default_rng(seed).normal(0, noise, (5, 17, 3)).astype(np.float32)
    poses -= poses[:, :1]
    write_bvh(path, poses)
    np.testing.assert_allclose(read_poses(path), poses, atol=2e-6)


def test_the_hierarchy_is_a_body_and_its_rotations_turn_it(tmp_path: Path) -> None:
    path = tmp_path / "walk.bvh"
    poses = make_poses()
    write_bvh(path, poses, frame_time=0.04)
    held = read_bvh(path)
    assert held.frame_time == 0.04 and len(held.names) == 17 and held.motion.shape == (5, 17 * 6)
    plain = [name.title().replace("_", "") for name in JOINTS]
    tree = {name: (held.names[parent], parent < 0) for name, parent in zip(held.names, held.parents, strict=True)}
    assert {name: parent for name, (parent, root) in tree.items() if not root} == {
        name: plain[parent] for name, parent in zip(plain, PARENTS, strict=True) if parent >= 0
    }
    assert path.read_text().count("End Site") == 5
    # Rotations alone, on bones of mean length, come near: that is what turns a rigged body.
    rigid = held.motion.copy()
    for joint in range(1, 17):
        rigid[:, 6 * joint : 6 * joint + 3] = held.offsets[joint]
    body = type(held)(held.names, held.parents, held.offsets, held.channels, rigid, held.frame_time).positions()
    order = [held.names.index(name) for name in plain]
    expected = poses * AXES * UNIT
    assert np.linalg.norm(body[:, order] - expected, axis=-1).mean() < 8, "cm, with bones of the wrong people"
    assert (expected[:, JOINTS.index("head"), 1] > 30).all(), "y is up"


def test_forward_kinematics_of_a_file_with_known_joints(tmp_path: Path) -> None:
    """A right angle at the second joint, channels in another order, an offset without channels of position."""
    path = tmp_path / "known.bvh"
    path.write_text("""HIERARCHY
ROOT Hips
{
  OFFSET 0 0 0
  CHANNELS 6 Xposition Yposition Zposition Xrotation Yrotation Zrotation
  JOINT Knee
  {
    OFFSET 0 -10 0
    CHANNELS 3 Zrotation Yrotation Xrotation
    JOINT Foot
    {
      OFFSET 0 -10 0
      CHANNELS 3 Zrotation Yrotation Xrotation
      End Site
      {
        OFFSET 0 0 3
      }
    }
  }
}
MOTION
Frames: 2
Frame Time: 0.1
1 2 3 0 0 0 0 0 0 0 0 0
1 2 3 0 90 0 0 0 90 0 0 0
""")
    places = read_bvh(path).positions()
    np.testing.assert_allclose(places[0], [[1, 2, 3], [1, -8, 3], [1, -18, 3]], atol=1e-9)
    # The knee swings the foot to -z of the body, which the hips have turned by 90 degrees about y to -x.
    np.testing.assert_allclose(places[1], [[1, 2, 3], [1, -8, 3], [-9, -8, 3]], atol=1e-9)
    with pytest.raises(DataError, match="another skeleton"):
        read_poses(path)
    path.write_text(path.read_text()[:-20])
    with pytest.raises(DataError, match="no whole BVH file"):
        read_bvh(path)
    path.write_text("ply")
    with pytest.raises(DataError, match="not HIERARCHY"):
        read_bvh(path)


def test_angles_give_their_rotation_at_right_angles_too() -> None:
    turns = Rotation.random(50, random_state=0).as_matrix()
    locked = np.stack([
        (Rotation.from_euler("Z", z, degrees=True) * Rotation.from_euler("X", 90 * sign, degrees=True)).as_matrix()
        for z in (0, 30, -120) for sign in (1, -1)
    ])
    for each in (turns, locked):
        angles = to_euler(each)
        again = rotate(2, angles[:, 0]) @ rotate(0, angles[:, 1]) @ rotate(1, angles[:, 2])
        np.testing.assert_allclose(again, each, atol=1e-6)
    np.testing.assert_allclose(rotate(1, np.radians([30.0]))[0], Rotation.from_euler("Y", 30, degrees=True).as_matrix())


def test_writers_give_one_file_a_set(tmp_path: Path) -> None:
    samples = [make_sample(), Sample(Request(0), "something else"), make_sample(truth=False, name="in/put.npz[0]")]
    paths = PoseNPZWriter().write(samples, tmp_path, start=7)
    assert [path.name for path in paths] == ["00007_walk_003_12.npz", "00009_in_put_npz_0.npz"]
    with np.load(paths[0]) as held:
        np.testing.assert_array_equal(held["poses"], make_poses())
        assert list(held["joints"]) == list(JOINTS) and list(held["parents"]) == list(PARENTS)
        assert held["seed"] == 3 and str(held["name"]) == "walk_003[12]" and held["truth"].shape == (17, 3)
    with np.load(paths[1]) as held:
        assert "truth" not in held.files
    (first, _) = PoseBVHWriter(limit=2).write(samples, tmp_path)
    np.testing.assert_allclose(read_poses(first), make_poses(2), atol=2e-6)
    with pytest.raises(ValueError, match="at least 1"):
        PoseBVHWriter(limit=0)


def test_pictures_show_hypotheses_truth_and_heatmaps() -> None:
    gallery = PoseGallery()
    known, unknown = gallery.figures([make_sample(), make_sample(truth=False)])
    assert isinstance(known.figure, str) and known.figure.startswith("<svg") and "NaN" not in known.figure.upper()
    assert known.figure.count("#2ca02c") == 9 and "#2ca02c" not in str(unknown.figure)
    assert "error: best 0 mm" in known.caption and "error" not in unknown.caption
    (turning,) = PoseGallery(turning=True).figures([make_sample()])
    assert len(turning.figure.data) == 6 and turning.poster.startswith("<svg")  # type: ignore[union-attr]
    broken = make_sample()
    broken.item.poses[1, 3] = np.nan
    assert "nan" not in str(gallery.figures([broken])[0].figure)
    broken.item.poses[:] = np.inf
    assert gallery.figures([broken])
    assert not gallery.accepts(Sample(Request(0), 3))
