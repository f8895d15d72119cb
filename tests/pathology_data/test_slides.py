"""Whole slides, written as pyramidal TIFF: levels, resolution, regions, and tiles of what is not glass."""

from __future__ import annotations

import gc
import warnings
from pathlib import Path

import numpy as np
import pytest

from polydit.data.pathology.slides import PairedSlides, WholeSlide
from polydit.data.pathology.wishes import StainWish
from polydit.platform.errors import ConfigurationError, DataError

tifffile = pytest.importorskip("tifffile", reason="the extra 'slides' is not installed")
pytest.importorskip("tiffslide", reason="the extra 'slides' is not installed")

SIDE = 256


def write_slide(path: Path, image: np.ndarray, mpp: float = 0.5) -> Path:
    """Tiles of 64 pixels, three levels by averaging."""
    levels = [image]
    for _ in range(2):
        height, width, _ = levels[-1].shape
        cells = levels[-1].reshape(height // 2, 2, width // 2, 2, 3)
        levels.append(cells.mean(axis=(1, 3)).round().astype(np.uint8))
    with tifffile.TiffWriter(path) as writer:
        for number, level in enumerate(levels):
            unit = {"resolution": (1e4 / mpp / 2**number, 1e4 / mpp / 2**number), "resolutionunit": "CENTIMETER"}
            main = {"subifds": 2} if number == 0 else {"subfiletype": 1}
            writer.write(level, tile=(64, 64), photometric="rgb", **unit, **main)
    return path


@pytest.fixture
def image() -> np.ndarray:
    """Glass, with a stained square that says where it stands."""
    picture = np.full((SIDE, SIDE, 3), 245, np.uint8)
    rows, columns = np.mgrid[:128, :64]
    picture[64:192, 128:192] = np.stack([rows, columns * 2, np.full_like(rows, 90)], axis=-1)
    return picture


def test_regions_are_read_at_any_resolution(tmp_path: Path, image: np.ndarray) -> None:
    with WholeSlide(write_slide(tmp_path / "slide.tiff", image)) as slide:
        assert slide.levels == [(256, 256), (128, 128), (64, 64)] and slide.downsamples == [1.0, 2.0, 4.0]
        assert slide.mpp == pytest.approx(0.5)
        np.testing.assert_array_equal(slide.read(), image)
        np.testing.assert_array_equal(slide.read((120, 60, 30, 20)), image[60:80, 120:150])
        half, between = slide.read((128, 64, 32, 64), mpp=1.0), slide.read((0, 0, 100, 100), mpp=1.25)
    assert half.shape == (64, 32, 3)
    np.testing.assert_allclose(half[:, :, 0].mean(axis=1), 0.5 + 2 * np.arange(64), atol=1.1)
    assert between.shape == (100, 100, 3), "read from the finer level and resized"


def test_what_a_slide_cannot_give_is_explained(tmp_path: Path, image: np.ndarray) -> None:
    with WholeSlide(write_slide(tmp_path / "slide.tiff", image)) as slide:
        with pytest.raises(DataError, match=r"leaves .*slide\.tiff, which is 256 wide"):
            slide.read((200, 0, 100, 20))
        with pytest.raises(DataError, match=r"coarser than the 0\.1 asked for"):
            slide.read(mpp=0.1)
    with pytest.raises(DataError, match="there is no file"):
        WholeSlide(tmp_path / "nowhere.svs")
    (tmp_path / "text.svs").write_text("no slide")
    with pytest.raises(DataError, match="no slide that can be read"):
        WholeSlide(tmp_path / "text.svs")


def test_a_slide_that_nobody_holds_is_closed(tmp_path: Path, image: np.ndarray) -> None:
    path = str(write_slide(tmp_path / "slide.tiff", image))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        for _ in range(3):
            assert WholeSlide(path).read((0, 0, 8, 8)).shape == (8, 8, 3)
        tiles = PairedSlides({"p1": {"he": path, "ihc": path}}, tile=32).open()
        tiles.read(0)
        del tiles
        gc.collect()
    assert not [str(each.message) for each in caught if path in str(each.message)]


def test_tiles_are_where_tissue_is(tmp_path: Path, image: np.ndarray) -> None:
    he = write_slide(tmp_path / "he.tiff", image)
    ihc = write_slide(tmp_path / "ihc.tiff", image[..., ::-1])
    source = PairedSlides({"p1": {"he": str(he), "ihc": str(ihc)}}, tile=32, mpp=1.0)
    tiles = source.open()
    assert [tiles.read(index).name for index in range(len(tiles))] == ["p1_x128_y64", "p1_x128_y128"]
    pair = tiles.read(0)
    assert pair.slide == "p1" and pair.he.shape == (32, 32, 3)
    np.testing.assert_array_equal(pair.he, pair.ihc[..., ::-1])
    with pytest.raises(ConfigurationError, match="give the paths"):
        PairedSlides({"p1": {"he": str(he)}})
    with pytest.raises(DataError, match="no tile of 32 pixels has"):
        PairedSlides({"p1": {"he": str(he), "ihc": str(ihc)}}, tile=32, tissue=1.0, mpp=2.0).open()


def test_a_request_may_name_a_region_of_a_slide(tmp_path: Path, image: np.ndarray) -> None:
    path = write_slide(tmp_path / "slide.tiff", image)
    wish = StainWish.parse({"image": str(path), "region": [128, 64, 40, 30]})
    assert wish.size == (30, 40)
    np.testing.assert_array_equal(wish.read()[0], image[64:94, 128:168])
    whole = StainWish.parse({"image": str(path), "mpp": 2.0})
    assert whole.size == (64, 64) and whole.read()[0].shape == (64, 64, 3)
