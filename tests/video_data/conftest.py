"""Small clips: two bodies, half a second, sound."""

from __future__ import annotations

from pathlib import Path

import pytest

from polydit.data.video.builtin import BouncingBodies
from polydit.data.video.clips import Clip, ClipFormat


@pytest.fixture(autouse=True)
def packages() -> None:
    """Needed by nearly every test here."""
    for name in ("mujoco", "av", "PIL"):
        pytest.importorskip(name, reason="the extra 'video' is not installed")


@pytest.fixture
def wanted(tmp_path: Path) -> ClipFormat:
    return ClipFormat(8, 32, 12.5, 8000, str(tmp_path / "cache"))


@pytest.fixture
def clip(wanted: ClipFormat) -> Clip:
    return BouncingBodies(1, bodies=(2, 2), silence=0.0, seed=3).make(0, wanted)
