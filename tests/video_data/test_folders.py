"""Clips of the user: files, frames and archives, whole and damaged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from polydit.data.video.clips import Clip, ClipFormat
from polydit.data.video.folders import ClipArchive, FrameFolders, VideoFolder
from polydit.data.video.media import write_video
from polydit.platform.errors import ConfigurationError, DataError, UserError


@pytest.fixture
def videos(clip: Clip, tmp_path: Path) -> Path:
    """Two videos of 16 frames in folders of their own, one without sound."""
    folder = tmp_path / "videos"
    long = Clip(
        np.concatenate([clip.frames, clip.frames[::-1]]), clip.frame_rate,
        np.concatenate([clip.sound, clip.sound]), clip.sample_rate,
    )
    write_video(folder / "one" / "heard.mp4", long)
    write_video(folder / "two" / "mute.mp4", Clip(long.frames, long.frame_rate))
    return folder


def test_videos_are_cut_into_clips(videos: Path, wanted: ClipFormat) -> None:
    mute = replace(wanted, sample_rate=0)
    clips = VideoFolder(str(videos)).open(mute)
    assert [clips.read(i).name for i in range(len(clips))] == [
        "heard_00000", "heard_00008", "mute_00000", "mute_00008",
    ]
    assert clips.group(0) == clips.group(1) != clips.group(2)
    assert len(VideoFolder(str(videos), stride=4).open(mute)) == 6
    assert clips.read(0).sound is None


def test_sound_is_cut_with_its_frames(videos: Path, wanted: ClipFormat, clip: Clip) -> None:
    clips = VideoFolder(str(videos)).open(wanted)
    assert len(clips) == 2 and clips.describe() == ["2 clips are silent or have no sound"]
    for index in range(2):
        sound = clips.read(index).sound
        assert sound is not None and len(sound) == wanted.samples
        assert np.corrcoef(sound[: 8000 // 2], clip.sound[: 8000 // 2])[0, 1] > 0.9
    assert len(VideoFolder(str(videos), soundless="keep").open(wanted)) == 4
    with pytest.raises(ConfigurationError, match="soundless: skip"):
        VideoFolder(str(videos), soundless="refuse").open(wanted)


def test_damaged_and_short_videos_are_refused_or_counted(videos: Path, wanted: ClipFormat) -> None:
    whole = (videos / "one" / "heard.mp4").read_bytes()
    (videos / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="truncated"):
        VideoFolder(str(videos)).open(wanted)
    notes = VideoFolder(str(videos), unreadable="skip").open(wanted).describe()
    assert len(notes) == 2 and "cut.mp4 is truncated" in notes[0]
    (videos / "cut.mp4").unlink()
    long = replace(wanted, frames=17)
    with pytest.raises(DataError, match=r"has 16 frames at 12\.5 per second and clips have 17"):
        VideoFolder(str(videos)).open(long)
    with pytest.raises(DataError, match="no clip is left"):
        VideoFolder(str(videos), unreadable="skip").open(long)


def test_changed_files_are_read_again(videos: Path, wanted: ClipFormat) -> None:
    before = len(VideoFolder(str(videos)).open(wanted))
    (videos / "three.mp4").write_bytes((videos / "one" / "heard.mp4").read_bytes())
    assert len(VideoFolder(str(videos)).open(wanted)) == before + 2
    assert len(VideoFolder(str(videos / "three.mp4")).open(wanted)) == 2


def test_empty_and_absent_folders_are_named(tmp_path: Path, wanted: ClipFormat) -> None:
    with pytest.raises(DataError, match="there is no folder"):
        VideoFolder(str(tmp_path / "absent")).open(wanted)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no videos"):
        VideoFolder(str(tmp_path / "empty")).open(wanted)
    with pytest.raises(DataError, match="holds no frames"):
        FrameFolders(str(tmp_path / "empty")).open(wanted)
    with pytest.raises(UserError, match="at least 1"):
        VideoFolder(str(tmp_path), stride=0)


def test_frames_in_folders_count_by_number_and_may_differ(clip: Clip, tmp_path: Path, wanted: ClipFormat) -> None:
    image = pytest.importorskip("PIL.Image")
    folder = tmp_path / "frames" / "walk"
    folder.mkdir(parents=True)
    for number in range(1, 13):
        picture = image.fromarray(np.full((40 + number, 48, 3), 20 * number, np.uint8))
        modes = {3: "L", 4: "RGBA", 5: "P"}
        picture.convert(modes.get(number, "RGB")).save(folder / f"f{number}.png")
    clips = FrameFolders(str(tmp_path / "frames"), frame_rate=12.5, soundless="keep").open(wanted)
    levels = clips.read(0).frames.mean(axis=(1, 2, 3))
    assert np.allclose(levels, 20 * np.arange(1, 9), atol=6) and (np.diff(levels) > 0).all()
    faster = FrameFolders(str(tmp_path / "frames"), frame_rate=18.75).open(replace(wanted, sample_rate=0))
    assert len(faster) == 1 and faster.read(0).name.startswith("walk")


def test_archives(clip: Clip, tmp_path: Path, wanted: ClipFormat) -> None:
    path = tmp_path / "clips.npz"
    sound = np.round(clip.sound * 32767).astype(np.int16)
    arrays = {
        "video": np.concatenate([clip.frames] * 2), "num_frames": np.array([8, 8]),
        "audio": np.concatenate([sound] * 2), "num_audio": np.array([len(sound)] * 2),
    }
    np.savez(path, **arrays)
    clips = ClipArchive(str(path), frame_rate=12.5, sample_rate=8000).open(wanted)
    assert len(clips) == 2 and np.array_equal(clips.read(1).frames, clip.frames)
    np.testing.assert_allclose(clips.read(1).sound, clip.sound, atol=1e-3)
    np.savez(path, **{**arrays, "num_frames": np.array([8, 9])})
    with pytest.raises(DataError, match="num_frames"):
        ClipArchive(str(path), frame_rate=12.5, sample_rate=8000).open(wanted)
    np.savez(path, video=arrays["video"])
    with pytest.raises(DataError, match="lacks num_frames"):
        ClipArchive(str(path)).open(wanted)
    path.write_bytes(b"PK no archive")
    with pytest.raises(DataError, match="damaged"):
        ClipArchive(str(path)).open(wanted)


def test_real_archive_at_another_rate(shared_data: Path, wanted: ClipFormat) -> None:
    path = shared_data / "video" / "grid_samples" / "grid_64px.npz"
    if not path.exists():
        pytest.skip("no archive")
    pytest.importorskip("librosa", reason="the extra 'audio' is not installed")
    clips = ClipArchive(str(path), frame_rate=25, sample_rate=16000).open(replace(wanted, frames=16, size=64))
    assert len(clips) == 22 and clips.read(0).frames.shape == (16, 64, 64, 3)
    assert len({clips.group(i) for i in range(22)}) == 11
