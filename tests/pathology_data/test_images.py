"""8-bit colour is read as it is; what would lose something on the way is refused, and so is damage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polydit.data.pathology.images import list_images, read_mask, read_picture, read_size, write_picture
from polydit.platform.errors import DataError

Image = pytest.importorskip("PIL.Image")

PICTURE = np.random.default_rng(0).integers(0, 256, (10, 14, 3), dtype=np.uint8)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".tiff", ".bmp"])
def test_colour_is_read_as_it_was_written(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"tile{suffix}"
    write_picture(path, PICTURE)
    assert read_size(path) == (10, 14)
    np.testing.assert_array_equal(read_picture(path), PICTURE)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name], "nothing temporary is left"


def test_opaque_alpha_is_dropped_and_a_palette_resolved(tmp_path: Path) -> None:
    Image.fromarray(np.dstack([PICTURE, np.full((10, 14), 255, np.uint8)])).save(tmp_path / "opaque.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "opaque.png"), PICTURE)
    few = np.zeros((6, 6, 3), np.uint8)
    few[3:] = (120, 60, 30)
    Image.fromarray(few).convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "palette.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "palette.png"), few)


def test_transparent_pixels_are_refused(tmp_path: Path) -> None:
    alpha = np.full((10, 14), 255, np.uint8)
    alpha[:, :7] = 0
    Image.fromarray(np.dstack([PICTURE, alpha])).save(tmp_path / "half.png")
    with pytest.raises(DataError, match=r"half.png: 50.0% of the pixels are transparent.*save it as RGB"):
        read_picture(tmp_path / "half.png")


def test_sixteen_bits_are_refused_and_never_cut_to_eight(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    deep = PICTURE.astype(np.uint16) * 257
    tifffile.imwrite(tmp_path / "deep.tiff", deep, photometric="rgb")
    Image.fromarray(deep[..., 0]).save(tmp_path / "grey.png")
    for name in ("deep.tiff", "grey.png"):
        with pytest.raises(DataError, match=rf"{name} has 16 bits a channel.*dividing by 257"):
            read_size(tmp_path / name)


def test_sixteen_bit_colour_in_png_is_refused(tmp_path: Path) -> None:
    imageio = pytest.importorskip("imagecodecs")
    path = tmp_path / "deep.png"
    path.write_bytes(imageio.png_encode(PICTURE.astype(np.uint16) * 257))
    with pytest.raises(DataError, match="16 bits a channel"):
        read_picture(path)


@pytest.mark.parametrize("mode", ["L", "1"])
def test_grey_is_no_stain(tmp_path: Path, mode: str) -> None:
    Image.fromarray(PICTURE).convert(mode).save(tmp_path / "grey.png")
    with pytest.raises(DataError, match="is grey and a stain is a colour"):
        read_size(tmp_path / "grey.png")


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_a_truncated_file_is_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"tile{suffix}"
    write_picture(path, np.random.default_rng(1).integers(0, 256, (80, 80, 3), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=rf"tile{suffix} is (truncated or damaged|no image)"):
        read_picture(path)


@settings(max_examples=30)
@given(junk=st.binary(max_size=200), start=st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"II*\x00", b"BM"]))
def test_whatever_stands_in_a_file_the_error_names_it(
    tmp_path_factory: pytest.TempPathFactory, junk: bytes, start: bytes
) -> None:
    path = tmp_path_factory.mktemp("junk") / "tile.png"
    path.write_bytes(start + junk)
    with pytest.raises(DataError, match=r"tile\.png"):
        read_picture(path)


def test_missing_files_and_empty_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no file"):
        read_picture(tmp_path / "nowhere.png")
    with pytest.raises(DataError, match="holds no image"):
        list_images(tmp_path)
    with pytest.raises(DataError, match="there is no folder"):
        list_images(tmp_path / "nowhere")


def test_a_mask_is_whatever_is_not_zero_and_fits_its_tile(tmp_path: Path) -> None:
    labels = np.zeros((10, 14), np.uint16)
    labels[2:5] = 700
    Image.fromarray(labels).save(tmp_path / "labels.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "labels.png", (10, 14)), labels > 0)
    with pytest.raises(DataError, match="10 x 14 pixels, its tile 10 x 10"):
        read_mask(tmp_path / "labels.png", (10, 10))
