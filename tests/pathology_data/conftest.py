"""Small pairs on disk: synthetic tissue of three slides, two tiles each."""

from __future__ import annotations

from pathlib import Path

import pytest

from polydit.data.pathology.builtin import SyntheticTissue
from polydit.data.pathology.images import write_picture

PATTERN = r"(slide\d+)_tile\d+"


@pytest.fixture(autouse=True)
def colour_deconvolution() -> None:
    """Needed by nearly every test here."""
    pytest.importorskip("skimage", reason="the extra 'pathology' is not installed")


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """A folder with ``he`` and ``ihc``."""
    tiles = SyntheticTissue(slides=3, tiles=2, size=48).open()
    for stain in ("he", "ihc"):
        (tmp_path / stain).mkdir()
    for index in range(len(tiles)):
        pair = tiles.read(index)
        write_picture(tmp_path / "he" / f"{pair.name}.png", pair.he)
        write_picture(tmp_path / "ihc" / f"{pair.name}.tiff", pair.ihc)
    return tmp_path
