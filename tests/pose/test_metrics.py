"""Scores of hypotheses on poses whose errors are known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from polydit.data.pose.skeleton import JOINTS, MIRRORED, exchange_limbs, limb_joints
from polydit.data.pose.walking import WalkingSource
from polydit.domains.pose.evaluation import PoseEvaluator
from polydit.domains.pose.hypotheses import PoseComparison
from polydit.domains.pose.metrics import (
    align,
    calibration_error,
    calibration_quantiles,
    cps,
    mode_shares,
    mpjpe,
    pck,
    symmetry_error,
)


def make_truth(number: int = 0) -> np.ndarray:
    """A walking person in mm from the pelvis."""
    pose = WalkingSource(number + 1, seconds=1).read()[number].positions[number % 30].astype(np.float64) * 1000
    return pose - pose[:1]


def compare(poses: np.ndarray, truth: np.ndarray, clip: str = "a", exchanged: Any = None) -> PoseComparison:
    none = np.zeros(17, dtype=bool)
    marked = none if exchanged is None else exchanged
    return PoseComparison(clip, 0, (poses / 1000).astype(np.float32), (truth / 1000).astype(np.float32), marked, none)


def test_the_truth_itself_has_no_error() -> None:
    truth = make_truth()
    poses = np.repeat(truth[None], 3, axis=0)
    assert mpjpe(poses, truth).max() == 0 and mpjpe(align(poses, truth), truth).max() < 1e-9
    assert pck(poses, truth).min() == 1 and cps(align(poses, truth), truth) == 300
    assert symmetry_error(poses).max() < 0.2, "walking people are the same on both sides, but for a twist"


@given(st.integers(0, 1000), st.floats(0.3, 3.0))
def test_motion_and_scale_do_not_count_after_alignment(seed: int, scale: float) -> None:
    truth = make_truth()
    turn = Rotation.random(random_state=seed).as_matrix()
    moved = (scale * truth @ turn.T + np.array([100.0, -50.0, 300.0]))[None]
    assert mpjpe(align(moved, truth), truth)[0] < 1e-6
    if scale != 1:
        assert mpjpe(moved, truth)[0] > 1


def test_alignment_is_that_of_the_public_libraries_and_never_mirrors() -> None:
    truth = make_truth()
    generator = np.random.default_rng(0)
    noisy = truth + generator.normal(0, 60, truth.shape)
    found = align(noisy[None], truth)[0]
    # By another road: rotation of scipy, then the least-squares scale.
    centred, goal = noisy - noisy.mean(axis=0), truth - truth.mean(axis=0)
    turn, _ = Rotation.align_vectors(goal, centred)
    turned = turn.apply(centred)
    scale = (turned * goal).sum() / (turned**2).sum()
    np.testing.assert_allclose(found, scale * turned + truth.mean(axis=0), atol=1e-6)
    mirrored = truth * np.array([-1, 1, 1])
    assert mpjpe(align(mirrored[None], truth), truth)[0] > 5
    lump = np.repeat(truth.mean(axis=0)[None], 17, axis=0)[None] + 7.0
    assert np.isfinite(align(lump, truth)).all()


def test_known_errors() -> None:
    truth = make_truth()
    shifted = truth.copy()
    shifted[JOINTS.index("left_wrist"), 2] += 170.0
    assert mpjpe(shifted[None], truth)[0] == pytest.approx(10.0)
    assert pck(shifted[None], truth)[0] == pytest.approx(13 / 14)
    near, far = truth + np.array([0, 0, 149.0]), truth + np.array([0, 0, 151.0])
    assert pck(np.stack([near, far]), truth).tolist() == [1.0, 0.0]
    assert cps(shifted[None], truth) == 130, "right from 171 mm on, to 300"
    spine = truth.copy()
    spine[JOINTS.index("spine")] += 500
    assert cps(spine[None], truth) == 300, "the spine does not count"
    longer = truth.copy()
    wrist, elbow = JOINTS.index("right_wrist"), JOINTS.index("right_elbow")
    bone = longer[wrist] - longer[elbow]
    longer[wrist] += 50 * bone / np.linalg.norm(bone)
    assert symmetry_error(longer[None])[0] == pytest.approx(10.0, abs=0.2), "one of five bones"


def test_random_poses_are_about_as_wrong_as_chance() -> None:
    generator = np.random.default_rng(0)
    truth = make_truth()
    poses = generator.normal(0, 300, (500, 17, 3))
    expected = np.linalg.norm(generator.normal(0, 300, (500, 17, 3)) - truth, axis=-1).mean()
    assert mpjpe(poses, truth).mean() == pytest.approx(expected, rel=0.02)
    assert pck(poses, truth).mean() < 0.1


def test_calibration_of_hypotheses_that_are_spread_as_the_truth_is() -> None:
    generator = np.random.default_rng(0)
    quantiles: dict[float, list[np.ndarray]] = {1.0: [], 0.3: [], 3.0: [], 0.0: []}
    for _ in range(400):
        centre = generator.normal(0, 300, (17, 3))
        truth = centre + generator.normal(0, 50, (17, 3))
        for spread, found in quantiles.items():
            poses = centre + spread * generator.normal(0, 50, (100, 17, 3))
            found.append(calibration_quantiles(poses, truth))
    errors = {spread: calibration_error(np.stack(found)) for spread, found in quantiles.items()}
    assert errors[1.0] < 0.03 and errors[0.3] > 0.2 and errors[3.0] > 0.2
    assert errors[0.0] == pytest.approx(0.475), "no spread at all"


def test_modes_are_the_true_limbs_and_the_exchanged_ones() -> None:
    truth = make_truth()
    truth[:, 0] *= 3  # so that the two lie apart in the picture
    marked = np.zeros(17, dtype=bool)
    marked[list(limb_joints("arms"))] = True
    other = exchange_limbs(truth[None], marked[None])[0]
    np.testing.assert_array_equal(other[marked], truth[list(MIRRORED)][marked])
    poses = np.stack([truth, truth, truth, other, (truth + other) / 2])
    assert mode_shares(poses, truth, marked) == pytest.approx((0.6, 0.2))
    deep = poses + np.array([0, 0, 400.0])
    assert mode_shares(deep, truth, marked) == pytest.approx((0.6, 0.2)), "depth is not what a picture shows"
    assert all(map(math.isnan, mode_shares(poses, truth, np.zeros(17, dtype=bool))))
    assert all(map(math.isnan, mode_shares(poses / 10, truth / 10, marked))), "too close together to tell"


def test_evaluator_sums_up_over_clips() -> None:
    truth, generator = make_truth(), np.random.default_rng(0)
    evaluator = PoseEvaluator()
    for clip in range(4):
        for _ in range(5):
            poses = truth + generator.normal(0, 20 * (clip + 1), (24, 17, 3))
            evaluator.update([compare(poses, truth, f"clip {clip}")])
    estimates, rows = evaluator.compute(), evaluator.rows()
    assert len(rows) == 20 and rows[0]["clip"] == "clip 0" and rows[0]["modes/near_truth"] is None
    best = estimates["mpjpe/best"]
    assert best.count == 20 and best.low < best.value < best.high
    assert best.value == pytest.approx(np.mean([row["mpjpe/best"] for row in rows]))
    frames = np.array([row["mpjpe/best"] for row in rows], dtype=float)
    naive = 1.96 * frames.std(ddof=1) / math.sqrt(20)
    assert best.high - best.low > 1.3 * 2 * naive, "frames of a clip are no independent witnesses"
    for row in rows:
        nested = [row[f"mpjpe/best_of_{n}"] for n in (1, 5, 20)]
        assert nested == sorted(nested, reverse=True) and "mpjpe/best_of_200" not in row
        assert row["mpjpe/best"] <= row["mpjpe/median"] <= row["mpjpe/worst"]
        assert row["mpjpe/of_mean"] <= row["mpjpe/mean"]
    assert set(estimates) <= set(evaluator.descriptions())
    assert {"ece", "pck", "cps", "symmetry", "spread"} <= set(estimates)
    assert evaluator.histograms()
    evaluator.reset()
    evaluator.update([compare(truth[None], truth)])
    alone = evaluator.compute()["mpjpe/best"]
    assert alone.value == 0 and math.isnan(alone.low), "of one clip there is no interval"
    assert not evaluator.accepts(3)


def test_joints_that_are_no_numbers_count_as_far_off() -> None:
    truth = make_truth()
    poses = np.repeat(truth[None], 4, axis=0)
    poses[1, 5], poses[2] = np.nan, np.inf
    evaluator = PoseEvaluator()
    evaluator.update([compare(poses, truth)])
    (row,) = evaluator.rows()
    assert row["lost_joints"] == 18 and row["mpjpe/best"] == 0
    assert row["mpjpe/worst"] == pytest.approx(10_000, rel=1e-3)
    assert all(math.isfinite(estimate.value) for name, estimate in evaluator.compute().items() if "modes" not in name)
