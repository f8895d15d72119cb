"""Sight against sound: true clips agree, shifted and swapped ones do not."""

from __future__ import annotations

import numpy as np
import pytest

from polydit.data.video.builtin import BouncingBodies
from polydit.data.video.clips import Clip, ClipFormat
from polydit.data.video.samples import ClipAnswer
from polydit.domains.audio_video.alignment import AlignmentEvaluator, compare_events, merge
from polydit.platform.requests import Request, Sample


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    pytest.importorskip("mujoco", reason="the extra 'video' is not installed")
    source = BouncingBodies(24, bodies=(2, 2), speed=(0.3, 0.8), silence=0.0)
    return [source.make(index, ClipFormat(16, 32, 12.5, 8000)) for index in range(24)]


def judge(clips: list[Clip], task: str, shift: float = 0.0) -> dict[str, float]:
    evaluator = AlignmentEvaluator()
    samples = []
    for clip in clips:
        assert clip.sound is not None
        late = np.roll(clip.sound, round(shift * 8000))
        late[: round(shift * 8000)] = 0
        made = Clip(clip.frames, clip.frame_rate, late, 8000, name=clip.name)
        given = np.full(clip.frames.shape[:3], task == "sound")
        samples.append(Sample(Request(0, {}), ClipAnswer(made, task, given, clip)))
    assert all(map(evaluator.accepts, samples))
    evaluator.update(samples)
    numbers = evaluator.compute()
    assert len(evaluator.rows()) == len(clips) and set(numbers) <= set(evaluator.descriptions())
    assert all(estimate.count for estimate in numbers.values())
    return {name: estimate.value for name, estimate in numbers.items()}


@pytest.mark.parametrize("task", ["sound", "unconditional"])
def test_true_clips_agree_and_swapped_ones_do_not(clips: list[Clip], task: str) -> None:
    numbers = judge(clips, task)
    error, swapped = numbers[f"{task}/onset_error_ms"], numbers[f"{task}/onset_error_ms_of_shuffled"]
    assert error < (10 if task == "sound" else 45) and swapped > 2 * error and swapped > 80
    assert error == numbers[f"{task}/onset_error_ms_of_real"]
    assert numbers[f"{task}/within_a_frame"] > 0.9 > numbers[f"{task}/within_a_frame_of_shuffled"] + 0.2


def test_a_delay_is_measured(clips: list[Clip]) -> None:
    assert judge(clips, "sound", 0.05)["sound/onset_error_ms"] == pytest.approx(50, abs=12)


def test_events_count_both_ways() -> None:
    clip = Clip(np.zeros((10, 8, 8, 3), np.uint8), 10.0)
    numbers = compare_events(np.array([0.2]), np.array([0.25, 0.6]), clip)
    assert numbers["events"] == 3 and numbers["near"] == 2
    assert numbers["onset_error_ms"] == pytest.approx((50 + 50 + 400) / 3)
    silent = compare_events(np.array([0.2, 0.4]), np.empty(0), clip)
    assert silent["onset_error_ms"] == 500 and silent["near"] == 0
    assert compare_events(np.empty(0), np.empty(0), clip)["onset_error_ms"] is None
    assert merge(np.array([0.31, 0.3, 0.5])).tolist() == [0.3, 0.5]


def test_silent_and_unknown_clips_are_left_out(clips: list[Clip]) -> None:
    evaluator = AlignmentEvaluator()
    given = np.zeros((16, 32, 32), bool)
    mute = Clip(clips[0].frames, 12.5)
    assert not evaluator.accepts(Sample(Request(0, {}), ClipAnswer(mute, "unconditional", given, clips[0])))
    assert not evaluator.accepts(Sample(Request(0, {}), ClipAnswer(clips[0], "unconditional", given, None)))
