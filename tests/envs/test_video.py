"""Videos hold the frames they were given, in the format that players expect."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from polydit.envs.video import write_video
from polydit.platform.errors import ConfigurationError


def make_frames(count: int, height: int, width: int) -> list[NDArray[np.uint8]]:
    """A white bar that moves over a grey picture."""
    frames = np.full((count, height, width, 3), 90, np.uint8)
    for index, frame in enumerate(frames):
        frame[:, 4 * index : 4 * index + 8] = 250
    return list(frames)


def test_frames_come_back(tmp_path: Path) -> None:
    import av

    frames = make_frames(7, 48, 64)
    path = write_video(tmp_path / "new" / "a.mp4", frames, 12.5, quality=10)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert float(stream.average_rate) == 12.5
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    assert len(decoded) == 7
    for frame, read in zip(frames, decoded, strict=True):
        assert np.abs(frame.astype(int) - read).mean() < 6
    assert [path.name for path in path.parent.iterdir()] == ["a.mp4"]


def test_odd_sizes_lose_a_row_and_a_column(tmp_path: Path) -> None:
    import av

    with av.open(str(write_video(tmp_path / "odd.mp4", make_frames(3, 33, 47), 10))) as container:
        assert (container.streams.video[0].height, container.streams.video[0].width) == (32, 46)


def test_what_is_no_video_is_refused(tmp_path: Path) -> None:
    frames = make_frames(2, 16, 16)
    for wrong, rate, message in (
        ([], 10, "no frames"),
        (frames, 0, "frame_rate is 0"),
        ([frames[0], frames[1][:8]], 10, r"frame 1 is \(8, 16, 3\), the first is \(16, 16, 3\)"),
        ([frames[0].astype(np.float32)], 10, "frame 0 is float32"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            write_video(tmp_path / "a.mp4", wrong, rate)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
