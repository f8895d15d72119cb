"""Loss curves are read back from what CSVLogger really writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pytorch_lightning.loggers import CSVLogger

from polydit.platform.evaluation.curves import MAX_POINTS, Curve, find_losses, thin


def log(folder: Path, version: int, steps: range, offset: float = 0.0) -> None:
    logger = CSVLogger(str(folder), name="logs", version=version)
    for step in steps:
        logger.log_metrics({"train/loss": 1.0 / (step + 1) + offset}, step)
        if step % 5 == 0:
            logger.log_metrics({"val/loss": 2.0 / (step + 1) + offset, "val/type": 0.5, "words/validity": 0.9}, step)
    logger.save()


def test_losses_of_a_logged_run(tmp_path: Path) -> None:
    log(tmp_path, 0, range(20))
    (losses,) = find_losses([tmp_path, tmp_path])
    assert losses.title == ""
    assert set(losses.curves) == {"train/loss", "val/loss", "val/type"}
    np.testing.assert_array_equal(losses.curves["train/loss"].steps, np.arange(20))
    np.testing.assert_allclose(losses.curves["val/loss"].values, 2 / (np.array([0, 5, 10, 15]) + 1))


def test_resumed_run_is_one_curve_and_the_later_log_wins(tmp_path: Path) -> None:
    log(tmp_path, 0, range(20))
    log(tmp_path, 10, range(10, 30), offset=1.0)  # 10 comes after 2, as a number and not as text
    log(tmp_path, 2, range(10, 25), offset=5.0)
    (losses,) = find_losses([tmp_path])
    steps, values = losses.curves["train/loss"].steps, losses.curves["train/loss"].values
    np.testing.assert_array_equal(steps, np.arange(30))
    np.testing.assert_allclose(values, 1 / (steps + 1) + (steps >= 10))


def test_stages_below_the_run_folder_have_their_own_title(tmp_path: Path) -> None:
    log(tmp_path / "autoencoder", 0, range(5))
    log(tmp_path, 0, range(5))
    assert [losses.title for losses in find_losses([tmp_path])] == ["autoencoder", ""]


@pytest.mark.parametrize("text", ["", "epoch,step\n", "epoch,step,train/loss\n0,1,nan\n0,2,\n0,3,inf\n"])
def test_log_without_a_finite_loss_gives_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "metrics.csv").write_text(text)
    assert find_losses([tmp_path]) == []


def test_line_cut_off_by_a_kill_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("epoch,step,train/loss\n0,1,0.5\n0,2,0.4\n0,3,1e-")
    (losses,) = find_losses([tmp_path])
    np.testing.assert_array_equal(losses.curves["train/loss"].values, [0.5, 0.4])


def test_thinning_keeps_the_mean_and_short_curves() -> None:
    values = np.random.default_rng(0).random(10 * MAX_POINTS)
    long = Curve(np.arange(len(values), dtype=float), values)
    assert len(thin(long).values) == MAX_POINTS
    np.testing.assert_allclose(thin(long).values.mean(), values.mean())
    short = Curve(long.steps[:7], values[:7])
    np.testing.assert_array_equal(thin(short).values, short.values)
