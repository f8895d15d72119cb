"""Files become pixels, every loss is chosen, and whatever is damaged is refused by name.

Shape legend: h, w height and width, C channels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from polydit.data.vision.decoding import ORIENTATION, Decoder
from polydit.platform.errors import ConfigurationError, DataError

from .conftest import Image, draw, encode

GREY, COLOUR = Decoder(channels=1), Decoder(channels=3)
pixels = hnp.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3])))


@given(pixels, st.sampled_from(["PNG", "TIFF", "WEBP", "BMP"]))
def test_lossless_files_give_their_values(image: Any, kind: str) -> None:
    data = encode(image, kind, **({"lossless": True} if kind == "WEBP" else {}))
    channels = image.shape[2]
    np.testing.assert_array_equal(Decoder(channels=channels).decode(data, "x"), image)
    np.testing.assert_array_equal(Decoder(channels=channels).decode(image, "x"), image)


@given(pixels)
def test_grey_and_colour_become_each_other(image: Any) -> None:
    colour = COLOUR.decode(image, "x")
    assert colour.shape == (*image.shape[:2], 3)
    if image.shape[2] == 1:
        assert (colour == image).all()
        np.testing.assert_array_equal(GREY.decode(colour, "x"), image)
    np.testing.assert_array_equal(GREY.decode(encode(image), "x"), GREY.decode(image, "x"))


def test_jpeg_is_near_and_its_rotation_is_applied() -> None:
    smooth = np.tile(np.linspace(0, 255, 40).astype(np.uint8)[None, :, None], (24, 1, 3))
    upright = COLOUR.decode(encode(smooth, "JPEG", quality=95), "x")
    assert np.abs(upright.astype(int) - smooth).max() < 12
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # a quarter turn clockwise
    turned = COLOUR.decode(encode(smooth, "JPEG", quality=95, exif=exif), "x")
    np.testing.assert_array_equal(turned, np.rot90(upright, -1))


def test_transparency_lies_over_the_chosen_ground_or_is_refused() -> None:
    image = np.zeros((2, 3, 4), np.uint8)
    image[0, 0] = (200, 100, 50, 255)
    data = encode(Image.fromarray(image, "RGBA"))
    for alpha, ground in (("white", 255), ("black", 0)):
        found = Decoder(alpha=alpha).decode(data, "x")  # type: ignore[arg-type]
        assert tuple(found[0, 0]) == (200, 100, 50) and (found[1] == ground).all()
    with pytest.raises(DataError, match=r"x: 83.3% of the pixels are transparent"):
        Decoder(alpha="refuse").decode(data, "x")
    image[..., 3] = 255
    assert Decoder(alpha="refuse").decode(encode(Image.fromarray(image, "RGBA")), "x").shape == (2, 3, 3)


def test_palettes_are_resolved_with_their_transparency() -> None:
    colours = Image.fromarray(draw(0)).quantize(8)
    np.testing.assert_array_equal(COLOUR.decode(encode(colours), "x"), np.asarray(colours.convert("RGB")))
    flat = Image.new("P", (2, 2), 0)
    flat.putpalette([10, 20, 30] * 256)
    assert (COLOUR.decode(encode(flat, transparency=0), "x") == 255).all()
    assert (COLOUR.decode(encode(flat), "x") == (10, 20, 30)).all()


def test_sixteen_bits_are_scaled_or_refused() -> None:
    deep = np.array([[0, 257, 32896, 65535]], np.uint16)
    data = encode(Image.fromarray(deep))
    np.testing.assert_array_equal(GREY.decode(data, "x")[0, :, 0], [0, 1, 128, 255])
    assert COLOUR.decode(data, "x").shape == (1, 4, 3)
    with pytest.raises(DataError, match="x has 16 bits a channel: convert it to 8, or set depth: scale"):
        Decoder(depth="refuse").decode(data, "x")
    with pytest.raises(DataError, match="floating-point values"):
        GREY.decode(encode(Image.fromarray(np.ones((2, 2), np.float32)), "TIFF"), "x")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_truncated_files_are_named(kind: str) -> None:
    data = encode(draw(1, 40, 40), kind)
    for share in (0.0, 0.3, 0.7):
        with pytest.raises(DataError, match=r"sample\.img is "):
            COLOUR.decode(data[: int(len(data) * share)], "sample.img")


@settings(deadline=None)
@given(st.binary(max_size=200), st.integers(0, 400), st.sampled_from(["PNG", "JPEG", "WEBP", "TIFF", "BMP"]))
def test_bytes_that_are_overwritten_are_decoded_or_refused_with_a_message(junk: bytes, place: int, kind: str) -> None:
    data = bytearray(encode(draw(2, 9, 9), kind))
    data[place : place + len(junk)] = junk
    try:
        found = COLOUR.decode(bytes(data), "sample.img")
    except DataError as error:
        assert "sample.img" in str(error)
    else:
        assert found.ndim == 3 and found.shape[2] == 3 and found.dtype == np.uint8


@pytest.mark.parametrize("array", [np.zeros((2, 2), np.float32), np.zeros((2, 2, 4), np.uint8), np.zeros(3, np.uint8)])
def test_arrays_of_another_kind_are_refused(array: Any) -> None:
    with pytest.raises(DataError, match="x is an array"):
        COLOUR.decode(array, "x")


@pytest.mark.parametrize("options", [{"channels": 2}, {"alpha": "grey"}, {"depth": "clip"}])
def test_options_that_do_not_exist_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=str(next(iter(options.values())))):
        Decoder(**options)
