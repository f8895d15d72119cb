"""Small images on disk.

Shape legend: h, w height and width, C channels.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

try:
    from PIL import Image
except ImportError:  # every test here is then skipped
    Image = None  # type: ignore[assignment]


@pytest.fixture(autouse=True)
def pillow() -> None:
    """Needed by nearly every test here."""
    pytest.importorskip("PIL", reason="the extra 'vision' is not installed")


def draw(seed: int, height: int = 8, width: int = 8, channels: int = 3) -> NDArray[np.uint8]:
    """Noise [h, w, C]."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def encode(image: Any, kind: str = "PNG", **options: Any) -> bytes:
    """Bytes of an array or a Pillow image."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image)
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


@pytest.fixture
def class_folders(tmp_path: Path) -> Path:
    """Two classes, 'ant' with four images and 'bee' with six."""
    for name, count in (("ant", 4), ("bee", 6)):
        (tmp_path / "insects" / name).mkdir(parents=True)
        for number in range(count):
            data = encode(draw(len(name) * 100 + ord(name[0]) + number))
            (tmp_path / "insects" / name / f"{number}.png").write_bytes(data)
    return tmp_path / "insects"
