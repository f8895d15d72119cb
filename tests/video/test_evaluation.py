"""Numbers of clips against known answers, what is written, and what the report shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polydit.data.video.builtin import BouncingBodies
from polydit.data.video.clips import Clip, ClipFormat
from polydit.data.video.datamodule import VideoDataModule
from polydit.data.video.samples import ClipAnswer
from polydit.domains.video.evaluation import ClipEvaluator, fill_in, measure_psnr
from polydit.domains.video.gallery import ClipGallery
from polydit.domains.video.motion import BodiesEvaluator, MotionEvaluator, describe_motion, examine, measure_frechet
from polydit.domains.video.writers import ClipWriter
from polydit.platform.errors import ConfigurationError, DataError
from polydit.platform.requests import Request, Sample

FORMAT = ClipFormat(16, 32, 12.5, 8000)


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    pytest.importorskip("mujoco", reason="the extra 'video' is not installed")
    source = BouncingBodies(12, bodies=(2, 3), speed=(0.3, 0.8))
    return [source.make(index, FORMAT) for index in range(12)]


def answer(clip: Clip, truth: Clip | None = None, task: str = "interpolate", step: int = 4) -> Sample:
    given = np.zeros(clip.frames.shape[:3], bool)
    if task != "unconditional":
        given[::step] = True
    return Sample(Request(0, {"task": task}), ClipAnswer(clip, task, given, truth))


def change(clip: Clip, frames: Any) -> Clip:
    return Clip(np.asarray(frames, np.uint8), clip.frame_rate, name=clip.name)


def test_baselines_copy_and_blend() -> None:
    truth = np.repeat(np.arange(0, 90, 10, dtype=np.uint8), 3).reshape(9, 1, 1, 3)
    given = np.zeros((9, 1, 1), bool)
    given[[1, 5]] = True
    assert fill_in(truth, given, blend=False)[:, 0, 0, 0].tolist() == [10, 10, 10, 10, 10, 50, 50, 50, 50]
    assert fill_in(truth, given, blend=True)[:, 0, 0, 0].tolist() == [10, 10, 20, 30, 40, 50, 50, 50, 50]
    part = np.zeros((9, 1, 2), bool)
    part[..., 0] = True
    wide = np.concatenate([truth, truth], axis=2)
    assert (fill_in(wide, part, blend=True)[:, 0, 1] == 40).all()


def test_psnr_of_known_errors() -> None:
    truth, where = np.full((2, 8, 8, 3), 100, np.uint8), np.ones((2, 8, 8), bool)
    assert measure_psnr(truth, truth, where) == 100
    assert measure_psnr(truth + np.uint8(10), truth, where) == pytest.approx(20 * np.log10(25.5))


def test_the_true_clip_beats_both_baselines_and_the_blend_ties_itself(clips: list[Clip]) -> None:
    evaluator = ClipEvaluator()
    samples = [answer(clip, clip) for clip in clips]
    assert all(map(evaluator.accepts, samples))
    evaluator.update(samples)
    numbers = evaluator.compute()
    assert numbers["interpolate/psnr"].value == 100 and numbers["interpolate/ssim"].value == pytest.approx(1)
    assert numbers["interpolate/psnr_over_blend"].low > 50 and numbers["interpolate/psnr_over_copy"].low > 50
    assert numbers["interpolate/psnr"].count == len(evaluator.rows()) == 12
    assert set(numbers) <= set(evaluator.descriptions())
    evaluator.reset()
    given = samples[0].item.given
    evaluator.update([answer(change(clip, fill_in(clip.frames, given, blend=True)), clip) for clip in clips])
    assert evaluator.compute()["interpolate/psnr_over_blend"].value == 0
    assert not evaluator.accepts(answer(clips[0], clips[0], "unconditional"))
    assert not evaluator.accepts(answer(clips[0], None))


def test_frechet_knows_real_from_blurred_from_noise(tmp_path: Path, clips: list[Clip]) -> None:
    module = VideoDataModule([BouncingBodies(90, bodies=(2, 3), speed=(0.3, 0.8), seed=1)], cache_dir=str(tmp_path))
    evaluator = MotionEvaluator()
    evaluator.prepare(module)
    true = evaluator._true
    assert true is not None
    source = BouncingBodies(40, bodies=(2, 3), speed=(0.3, 0.8), seed=2)
    fresh = [source.make(index, ClipFormat(16, 32, 12.5)).frames for index in range(40)]

    def blur(frames: Any, times: int) -> Any:
        values = frames.astype(float)
        for _ in range(times):
            for axis in (1, 2):
                values = (np.roll(values, 1, axis) + 2 * values + np.roll(values, -1, axis)) / 4
        return values.astype(np.uint8)

    def distance(change: Any) -> float:
        return measure_frechet(np.stack([describe_motion(change(frames)) for frames in fresh]), true)

    generator = np.random.default_rng(0)
    real = distance(lambda frames: frames)
    blurred = [distance(lambda frames, n=n: blur(frames, n)) for n in (1, 3, 9)]
    noise = distance(lambda frames: generator.integers(0, 256, frames.shape, dtype=np.uint8))
    shuffled = distance(lambda frames: frames[generator.permutation(len(frames))])
    still = distance(lambda frames: np.repeat(frames[:1], len(frames), axis=0))
    assert real < blurred[0] < blurred[1] < blurred[2] < noise
    assert min(shuffled, still) > 3 * real
    evaluator.update([answer(change(clip, clip.frames), None, "unconditional") for clip in clips])
    assert evaluator.compute() == {}  # too few
    evaluator.update([answer(change(clip, clip.frames), None, "unconditional") for clip in clips])
    numbers = evaluator.compute()
    assert numbers["motion/frechet"].count == 24 and numbers["motion/frechet_of_real"].value < 20
    assert len(evaluator.rows()) == 24 and set(numbers) == set(evaluator.descriptions())


def test_too_few_training_clips_leave_the_distance_out(tmp_path: Path, clips: list[Clip]) -> None:
    evaluator = MotionEvaluator()
    evaluator.prepare(VideoDataModule([BouncingBodies(10)], cache_dir=str(tmp_path)))
    evaluator.update([answer(clip, None, "unconditional") for clip in 2 * clips])
    assert evaluator.compute() == {} and len(evaluator.rows()) == 24
    with pytest.raises(DataError, match="use VideoDataModule"):
        evaluator.prepare(object())


def test_laws_of_motion_hold_in_true_clips_and_not_in_broken_ones(clips: list[Clip]) -> None:
    evaluator = BodiesEvaluator()
    generator = np.random.default_rng(0)
    vanishing = [clip.frames.copy() for clip in clips]
    for frames in vanishing:
        frames[8:, :, :16] = (18, 20, 26)
    swerving = [frames[generator.permutation(16)] for frames in (clip.frames for clip in clips)]
    evaluator.update([answer(clip, clip) for clip in clips])
    true = evaluator.compute()
    assert true["bodies/number_kept"].value > 0.97 and true["bodies/turns_explained"].value > 0.9
    assert true["bodies/energy_change"].value < 0.3 and true["bodies/jitter_px"].value < 0.15
    assert true["bodies/number_kept"].value == true["bodies/number_kept_of_real"].value
    assert set(true) == set(evaluator.descriptions())
    for broken, name in ((vanishing, "bodies/number_kept"), (swerving, "bodies/turns_explained")):
        evaluator.reset()
        evaluator.update([answer(change(c, f), c) for c, f in zip(clips, broken, strict=True)])
        assert evaluator.compute()[name].value < true[name].value - 0.1, name
    still = examine(np.repeat(clips[0].frames[:1], 16, axis=0), 12.5)
    assert still["turns"] == 0 and still["energy_change"] is None and still["jitter_px"] == 0


def test_clips_are_written_in_every_format(clips: list[Clip], tmp_path: Path) -> None:
    writer = ClipWriter(("mp4", "gif", "strip", "wav", "npz"))
    silent = change(clips[1], clips[1].frames)
    paths = writer.write([answer(clips[0], clips[0]), answer(silent, None, "unconditional")], tmp_path, start=3)
    assert [path.name for path in paths] == [
        *(f"00003_interpolate_clip00000.{ending}" for ending in ("mp4", "gif", "png", "wav", "npz")),
        *(f"00004_unconditional_clip00001.{ending}" for ending in ("mp4", "gif", "png", "npz")),
    ]
    assert sorted(paths) == sorted(tmp_path.iterdir())
    with np.load(paths[4]) as stored:
        assert np.array_equal(stored["frames"], clips[0].frames) and int(stored["sample_rate"]) == 8000
        assert np.array_equal(stored["sound"], clips[0].sound)
    with pytest.raises(ConfigurationError, match="choose of mp4"):
        ClipWriter(("avi",))  # type: ignore[arg-type]


def test_the_gallery_shows_strips_and_plays_clips(clips: list[Clip]) -> None:
    gallery = ClipGallery()
    both, alone = gallery.figures([answer(clips[0], clips[0]), answer(clips[1], None, "unconditional")])
    assert isinstance(both.figure, str) and both.figure.count("<video controls") == 2
    assert "PSNR 100.0 dB" in both.caption and "above made, below true" in both.caption
    assert isinstance(alone.figure, str) and alone.figure.count("<video") == 1
    quiet = ClipGallery(players=False).figures([answer(clips[0], clips[0])])[0]
    assert isinstance(quiet.figure, str) and "<video" not in quiet.figure and "data:image/png" in quiet.figure
