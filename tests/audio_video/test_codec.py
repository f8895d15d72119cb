"""Spectrograms and back, and the codec of clips with sound."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polydit.data.video.clips import Clip, ClipFormat
from polydit.domains.audio_video.alignment import detect_onsets
from polydit.domains.audio_video.codec import SoundClipCodec
from polydit.domains.audio_video.mel import GriffinLim, MelSpectrogram
from polydit.platform.errors import ConfigurationError, DataError
from polydit.platform.requests import Request

from .conftest import BANDS, FRAMES, SIZE, make_batch, make_codec, make_system


class ClipList(list[Clip]):
    """Clips of a split."""

    read = list.__getitem__


def ring(times: tuple[float, ...], rate: int = 8000, seconds: float = 1.28) -> Any:
    sound = np.zeros(round(seconds * rate), np.float32)
    for time in times:
        late = np.arange(len(sound) - round(time * rate)) / rate
        sound[round(time * rate) :] += (0.4 * np.exp(-late / 0.06) * np.sin(2 * np.pi * 700 * late)).astype(np.float32)
    return sound


def test_spectrogram_agrees_with_librosa() -> None:
    librosa = pytest.importorskip("librosa")
    mel, sound = MelSpectrogram(), ring((0.3, 0.7))
    wanted = librosa.feature.melspectrogram(
        y=sound, sr=8000, n_fft=256, hop_length=128, n_mels=32, fmin=50.0, power=1.0, norm=None, pad_mode="constant"
    )
    made = mel.analyse(torch.from_numpy(sound)[None])[0].exp().numpy().T
    np.testing.assert_allclose(made, np.maximum(wanted, 1e-2)[:, : made.shape[1]], rtol=1e-3, atol=1e-4)
    assert made.shape == (32, mel.steps(len(sound))) == (32, 80)
    assert float(mel.seconds(len(sound))[10]) == pytest.approx(0.16)


def test_sound_survives_the_vocoder_with_its_onsets() -> None:
    mel = MelSpectrogram()
    sounds = torch.stack([torch.from_numpy(ring(times)) for times in ((0.3, 0.8), (0.5,))])
    mel.fit(sounds)
    standard = mel.encode(sounds)
    assert abs(float(standard.mean())) < 1e-4 and float(standard.std()) == pytest.approx(1, abs=1e-3)
    first, second = mel.decode(standard, sounds.shape[1])
    assert first.shape == (10240,) and np.abs(first).max() <= 1
    again = mel.encode(torch.from_numpy(np.stack([first, second])))
    assert float((again - standard).abs().mean()) < 0.15
    np.testing.assert_allclose(detect_onsets(first, 8000), [0.3, 0.8], atol=0.025)
    np.testing.assert_allclose(detect_onsets(second, 8000), [0.5], atol=0.025)
    np.testing.assert_allclose(detect_onsets(sounds[0].numpy(), 8000), [0.3, 0.8], atol=0.01)
    assert len(detect_onsets(np.zeros(8000, np.float32), 8000)) == 0


@given(st.integers(1, 9), st.integers(100, 3000))
@settings(max_examples=25, deadline=None)
def test_patches_hold_the_same_steps(patch: int, samples: int) -> None:
    """Values, moments and what is decoded are those of single steps; silence fills up the last patch."""
    mel = MelSpectrogram(2000, BANDS, 50, 100, vocoder=GriffinLim(2))
    patched = MelSpectrogram(2000, BANDS, 50, 100, vocoder=GriffinLim(2), patch=patch)
    sound = 0.2 * torch.randn(2, samples, generator=torch.Generator().manual_seed(0))
    single, together = mel.encode(sound), patched.encode(sound)
    assert together.shape == (2, patched.tokens(samples), patch * BANDS)
    steps = together.reshape(2, -1, BANDS)
    torch.testing.assert_close(steps[:, : mel.steps(samples)], single)
    beyond = steps[:, mel.steps(samples) + 2 :]
    torch.testing.assert_close(beyond, torch.full_like(beyond, float(np.log(1e-2))))
    middles = (torch.arange(len(steps[0])) * 0.025).unflatten(0, (-1, patch)).mean(dim=1)
    torch.testing.assert_close(patched.seconds(samples), middles)
    np.testing.assert_array_equal(patched.decode(together, samples)[0], mel.decode(single, samples)[0])


def test_training_turns_clips_in_eight_ways_and_nothing_else_does() -> None:
    codec, batch = make_codec(turned=True), make_batch(64)
    generator = torch.Generator().manual_seed(0)
    plain = make_codec().encode(batch, generator)[0]
    state, layout = codec.encode(batch, generator)
    ways = torch.stack([
        torch.rot90(frames, turns, (-2, -1)) for frames in (plain["video"], plain["video"].flip(-1))
        for turns in range(4)
    ])
    found = (ways == state["video"]).flatten(2).all(dim=2)
    assert bool((found.sum(dim=0) == 1).all()) and bool(found.any(dim=1).all())
    assert torch.equal(state["sound"], plain["sound"])
    assert torch.equal(layout.labels["given_video"], state["video"])
    assert torch.equal(codec.eval().encode(batch, generator)[0]["video"], plain["video"])
    assert torch.equal(codec.train().question(batch).labels["given_video"], plain["video"])


def test_frames_are_standardised_if_wanted() -> None:
    """Dark frames of little contrast become numbers of mean 0 and deviation 1, and the same frames again."""
    frames = np.random.default_rng(0).integers(20, 60, (6, FRAMES, SIZE, SIZE, 3), dtype=np.uint8)
    clips = [Clip(each, 8.0, 0.1 * np.ones(1000, np.float32), 2000) for each in frames]
    data = SimpleNamespace(format=ClipFormat(FRAMES, SIZE, 8.0, 2000), clips=lambda split: ClipList(clips))
    codec, plain, batch = make_codec(standardised=True), make_codec(), make_batch(6)
    batch.frames = torch.from_numpy(frames).permute(0, 1, 4, 2, 3)
    for each in (codec, plain):
        each.prepare(data)
    values = codec.encode(batch, torch.Generator())[0]["video"]
    assert abs(float(values.mean())) < 1e-4 and float(values.std()) == pytest.approx(1, abs=1e-3)
    assert float(plain.encode(batch, torch.Generator())[0]["video"].std()) < 0.1
    request = Request(0, {"task": "sound", "clip": clips[0]})
    layout = codec.layout([request])
    state = {name: layout.labels[f"given_{name}"] for name in ("video", "sound")}
    layout.extras["tasks"] = ["unconditional"]  # what was given would be handed through
    np.testing.assert_array_equal(codec.decode(state, layout)[0].clip.frames, frames[0])
    assert "frame_mean" in codec.state_dict() and "frame_mean" not in plain.state_dict()


def test_silence_is_silent_after_the_vocoder() -> None:
    mel = MelSpectrogram()
    silent = mel.decode(mel.encode(torch.zeros(1, 4096)), 4096)[0]
    assert np.abs(silent).max() < 1e-3


@pytest.mark.parametrize(("options", "message"), [
    ({"hop": 200, "window": 256}, "overlap"), ({"bands": 300}, "finer than a window"), ({"patch": 0}, "at least 1"),
])
def test_spectrograms_that_cannot_be_undone_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        MelSpectrogram(**options)


def test_chances_give_frames_or_sound() -> None:
    codec = make_codec(given=(0.5, 0.25))
    counts = {"video": 0, "sound": 0}
    generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        _, layout = codec.encode(make_batch(), generator)
        shown = {name: ~mask.flatten(1).any(dim=1) for name, mask in layout.loss_masks.items()}
        assert not (shown["video"] & shown["sound"]).any()
        for name in counts:
            counts[name] += int(shown[name].sum())
    assert abs(counts["video"] - 200) < 40 and abs(counts["sound"] - 100) < 35
    _, plain = make_codec(given=(0.0, 0.0), questions=("unconditional",)).encode(make_batch(), generator)
    assert all(bool(mask.all()) for mask in plain.loss_masks.values())


def test_positions_are_seconds() -> None:
    _, layout = make_codec().encode(make_batch(), torch.Generator())
    assert torch.allclose(layout.positions["video"][0], torch.arange(4) / 8.0)
    assert layout.positions["sound"].shape == (4, 20) and float(layout.positions["sound"][1, 4]) == pytest.approx(0.1)


def test_questions_ask_by_turns_and_answers_keep_what_was_given() -> None:
    system, batch = make_system(), make_batch()
    samples = system.reconstruct(batch)
    assert [sample.item.task for sample in samples] == ["unconditional", "sound"] * 2
    frames = batch.frames.permute(0, 1, 3, 4, 2).numpy()
    for row, sample in enumerate(samples):
        item = sample.item
        assert item.clip.sound.shape == (1000,) and item.truth.onsets.tolist() == [0.1, 0.3]
        assert np.array_equal(item.clip.frames, frames[row]) == (item.task == "sound") == bool(item.given.all())


def test_requests_add_sound_to_clips_or_frames_to_sound() -> None:
    system = make_system(codec={"given": (0.3, 0.3), "questions": ("frames",)})
    frames = np.random.default_rng(0).integers(0, 256, (FRAMES, SIZE, SIZE, 3), dtype=np.uint8)
    clip = Clip(frames, 8.0, 0.1 * np.ones(1000, np.float32), 2000, name="mine")
    wishes = [{"task": "sound", "clip": clip}, {"task": "frames", "clip": clip}, {}]
    samples = system.generate([Request(seed, wish) for seed, wish in enumerate(wishes)])
    made = [np.array_equal(sample.item.clip.frames, frames) for sample in samples]
    assert made == [True, False, False]
    assert np.array_equal(samples[1].item.clip.sound, clip.sound)
    again = system.generate([Request(0, wishes[0])])[0]
    np.testing.assert_allclose(again.item.clip.sound, samples[0].item.clip.sound, atol=1e-4)
    with pytest.raises(DataError, match="no sound to make frames from"):
        system.generate([Request(0, {"task": "frames", "clip": Clip(frames, 8.0)})])


def test_wrong_rates_and_sizes_are_explained() -> None:
    codec, batch = make_codec(), make_batch()
    batch.sample_rate = 8000
    with pytest.raises(ConfigurationError, match="8000 samples of sound per second and the codec 2000"):
        codec.encode(batch, torch.Generator())
    batch = make_batch()
    batch.sound = None
    with pytest.raises(ConfigurationError, match="with None samples"):
        codec.encode(batch, torch.Generator())
    with pytest.raises(ConfigurationError, match="two chances"):
        SoundClipCodec(given=(0.7, 0.7))
    with pytest.raises(ConfigurationError, match="questions"):
        SoundClipCodec(given=(0.5, 0.0), questions=("frames",))
