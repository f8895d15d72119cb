"""Files in and out: sight and sound keep their time, and bad files are named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from polydit.data.video.clips import Clip
from polydit.data.video.media import enlarge, read_video, resize_square, write_animation, write_sound, write_video
from polydit.data.video.pictures import draw_wave, encode_png, make_strip
from polydit.platform.errors import DataError


def test_a_written_clip_comes_back_with_its_sound_in_time(clip: Clip, tmp_path: Path) -> None:
    path = write_video(tmp_path / "new" / "clip.mp4", clip)
    back = read_video(path, 32, 12.5, 8000)
    assert back.frames.shape == clip.frames.shape and back.note == ""
    assert np.abs(back.frames.astype(float) - clip.frames).mean() < 4
    assert back.sound is not None and clip.sound is not None
    shared = min(len(back.sound), len(clip.sound))
    lag = np.correlate(back.sound[:shared], clip.sound[:shared], "full").argmax() - (shared - 1)
    assert abs(lag) <= 8  # a millisecond
    assert [file.name for file in path.parent.iterdir()] == ["clip.mp4"]


def test_rates_and_sizes_are_brought_to_what_is_wanted(clip: Clip, tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", clip)
    half = read_video(path, 16, 6.25, 4000)
    assert half.frames.shape == (4, 16, 16, 3)
    assert half.sound is not None and len(half.sound) == pytest.approx(4000 * 0.64, abs=200)
    full = read_video(path, 32, 12.5)
    assert full.sound is None
    np.testing.assert_allclose(half.frames[1].mean(), full.frames[2].mean(), atol=1.5)
    assert len(read_video(path, 32, 25.0).frames) == 16


def test_a_video_without_sound_has_none(clip: Clip, tmp_path: Path) -> None:
    silent = Clip(clip.frames, clip.frame_rate)
    assert read_video(write_video(tmp_path / "clip.mp4", silent), 32, 12.5, 8000).sound is None
    with pytest.raises(DataError, match="no sound to write"):
        write_sound(tmp_path / "clip.wav", silent)


def test_bad_files_are_named(clip: Clip, tmp_path: Path) -> None:
    whole = write_video(tmp_path / "clip.mp4", clip)
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(DataError, match=r"cut\.mp4 is truncated"):
        read_video(cut, 32, 12.5)
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    with pytest.raises(DataError, match=r"text\.mp4"):
        read_video(text, 32, 12.5)
    with pytest.raises(DataError, match="holds no video"):
        read_video(write_sound(tmp_path / "clip.wav", clip), 32, 12.5)
    with pytest.raises(DataError, match="there is no file"):
        read_video(tmp_path / "absent.mp4", 32, 12.5)


def test_real_recordings_with_sound(shared_data: Path, tmp_path: Path) -> None:
    files = sorted((shared_data / "video" / "grid_samples").glob("*.mpg"))
    if not files:
        pytest.skip("no recordings")
    recording = read_video(files[0], 64, 25.0, 16000)
    assert recording.frames.shape == (75, 64, 64, 3)
    assert recording.sound is not None and len(recording.sound) == pytest.approx(3 * 16000, abs=1600)
    assert np.abs(recording.sound).max() > 0.01
    cut = tmp_path / "cut.mpg"
    cut.write_bytes(files[0].read_bytes()[: files[0].stat().st_size // 2])
    assert 10 < len(read_video(cut, 64, 25.0).frames) < 75


@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 1), (20, 30, 3), (20, 30, 4)])
def test_grey_and_transparent_pictures_become_rgb(shape: tuple[int, ...]) -> None:
    picture = np.full(shape, 200, np.uint8)
    fitted = resize_square(picture, 10)
    assert fitted.shape == (10, 10, 3) and fitted.dtype == np.uint8
    assert abs(int(fitted[5, 5, 0]) - (157 if shape[-1] == 4 else 200)) <= 1  # transparent: on black


def test_animations_sounds_and_strips(clip: Clip, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    with image.open(write_animation(tmp_path / "clip.gif", clip)) as gif:
        assert gif.n_frames == len(clip.frames) and gif.size == (128, 128)
    soundfile = pytest.importorskip("soundfile", reason="the extra 'audio' is not installed")
    sound, rate = soundfile.read(write_sound(tmp_path / "clip.wav", clip))
    assert rate == 8000 and np.allclose(sound, clip.sound, atol=1e-4)
    marks = np.zeros(8, bool)
    marks[0] = True
    strip = make_strip([clip.frames, clip.frames], [marks, None])
    assert strip.shape == (2 * 68, 8 * 68, 3)
    assert tuple(strip[0, 5]) != tuple(strip[68, 5])  # the rim of a given frame
    wave = draw_wave(clip, 544)
    assert wave.shape == (48, 544, 3) and (wave != 255).any()
    assert encode_png(strip).startswith(b"\x89PNG")
    assert enlarge(clip.frames, 100).shape == (8, 128, 128, 3)
