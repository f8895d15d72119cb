"""Images that keep their shape: how they are fitted, measured and batched, and what is refused.

Shape legend: h, w height and width, C channels.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from polydit.data.vision.builtin import SHAPES, ArraySet, StretchedDigits
from polydit.data.vision.datamodule import ImageDataModule
from polydit.data.vision.decoding import Decoder, measure_image
from polydit.data.vision.fitting import MOST_DISTORTION, keep_shape
from polydit.data.vision.folders import ImageFolder
from polydit.data.vision.pictures import ImageSet, ImageSource, MixedImageBatch
from polydit.data.vision.wishes import ImageWish
from polydit.platform.errors import ConfigurationError, DataError, UserError

from .conftest import Image, draw, encode


class Photographs(ImageSource):
    """Flat images of photographs' shapes and sizes, most of them larger than is wanted.

    Args:
        count: images.
    """

    def __init__(self, count: int = 600) -> None:
        self.count = count

    def open(self) -> ImageSet:
        generator = np.random.default_rng(0)
        ratios = generator.choice([1, 4 / 3, 3 / 2, 16 / 9, 3 / 4, 2 / 3, 9 / 16], self.count)
        ratios *= np.exp(generator.normal(0, 0.05, self.count))
        areas = np.exp(generator.normal(math.log(120**2), 0.8, self.count))
        images: list[NDArray[np.uint8]] = [
            np.full((max(8, round(math.sqrt(area / ratio))), max(8, round(math.sqrt(area * ratio)))), 90, np.uint8)
            for area, ratio in zip(areas, ratios, strict=True)
        ]
        return ArraySet(images, np.arange(self.count) % 2, ("a", "b"), "photograph")


def make(source: ImageSource, **options: Any) -> ImageDataModule:
    chosen: dict[str, Any] = {
        "size": 16, "fit": "keep", "multiple": 4, "batch_size": 8, "splits": [1.0, 0.0, 0.0], **options,
    }
    return ImageDataModule([source], **chosen)


@given(st.integers(1, 400), st.integers(1, 400), st.integers(1, 8), st.integers(1, 6))
def test_shapes_are_kept_within_the_limit(height: int, width: int, multiple: int, squares: int) -> None:
    size = multiple * squares
    try:
        rows, columns = keep_shape((height, width), size, multiple, "x")
    except DataError:
        scale = min(1.0, size / math.sqrt(height * width))
        assert min(height, width) * scale < multiple, "only what would be thinner than a square is refused"
        return
    assert rows % multiple == 0 and columns % multiple == 0 and min(rows, columns) >= multiple
    assert rows * columns <= size**2
    assert rows < height + multiple and columns < width + multiple, "never enlarged by as much as a multiple"
    assert 1 / MOST_DISTORTION - 1e-6 <= rows / columns / (height / width) <= MOST_DISTORTION + 1e-6
    if height % multiple == 0 and width % multiple == 0 and height * width <= size**2:
        assert (rows, columns) == (height, width), "what fits stays as it is"
    assert keep_shape((width, height), size, multiple, "x") in {(columns, rows), (rows, columns)}


@pytest.mark.parametrize(("shape", "expected"), [
    ((1000, 1000), (256, 256)), ((480, 640), (224, 288)), ((2000, 1000), (368, 176)), ((100, 90), (96, 96)),
    ((5, 5), (16, 16)), ((150, 1500), (80, 816)),
])  # fmt: skip
def test_known_shapes(shape: tuple[int, int], expected: tuple[int, int]) -> None:
    assert keep_shape(shape, 256, 16, "x") == expected


def test_what_is_too_thin_is_named_before_training() -> None:
    with pytest.raises(DataError, match=r"banner.png is 3 x 4000 pixels, too thin for 16 squares of 4 x 4"):
        keep_shape((3, 4000), 16, 4, "banner.png")


def test_a_folder_of_everything(tmp_path: Path) -> None:
    """Grey, transparent, turned, larger than the limit, smaller than a patch, of no multiple: each as it says."""
    files = {
        "grey": encode(draw(0, 16, 16, 1)), "transparent": encode(Image.fromarray(draw(1, 12, 20, 4), "RGBA")),
        "large": encode(draw(2, 300, 200)), "odd": encode(draw(3, 9, 19)), "tiny": encode(draw(4, 2, 3)),
        "turned": encode(Image.fromarray(draw(5, 8, 32)), "JPEG", exif=turned()),
    }
    for name, data in files.items():
        (tmp_path / f"{name}.{'jpg' if name == 'turned' else 'png'}").write_bytes(data)
    data = make(ImageFolder(str(tmp_path)))
    dataset = data.images("train")
    expected = {
        "grey": (16, 16), "transparent": (12, 20), "large": (20, 12), "odd": (8, 20), "tiny": (4, 4), "turned": (32, 8),
    }
    sizes = {Path(dataset.name(place)).stem: size for place, size in enumerate(dataset.measure())}
    assert sizes == expected
    for batch in data.train_dataloader():
        assert isinstance(batch, MixedImageBatch) and len(batch) == len(batch.images) == len(batch.labels)
        for image, name in zip(batch.images, batch.names, strict=True):
            assert image.shape == (3, *expected[Path(name).stem]) and image.dtype == torch.uint8
        assert batch.to("cpu").images[0] is not None and len(batch.to("cpu")) == len(batch)
    (tmp_path / "torn.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"torn.png is no image that can be read"):
        make(ImageFolder(str(tmp_path))).train_dataloader()
    (tmp_path / "torn.png").write_bytes(encode(draw(6, 1, 900)))
    with pytest.raises(DataError, match=r"torn.png is 1 x 900 pixels, too thin"):
        make(ImageFolder(str(tmp_path))).train_dataloader()


def turned() -> Any:
    exif = Image.Exif()
    exif[274] = 6
    return exif


def test_headers_say_what_decoding_gives(tmp_path: Path) -> None:
    upright = encode(Image.fromarray(draw(0, 7, 11)), "JPEG")
    lying = encode(Image.fromarray(draw(0, 7, 11)), "JPEG", exif=turned())
    for data, size in ((upright, (7, 11)), (lying, (11, 7)), (draw(1, 5, 6), (5, 6))):
        assert measure_image(data, "x") == size == Decoder().decode(data, "x").shape[:2]
    (tmp_path / "x.jpg").write_bytes(lying)
    assert measure_image(tmp_path / "x.jpg", "x") == (11, 7)
    with pytest.raises(DataError, match="x is an array"):
        measure_image(np.zeros(3, np.uint8), "x")


@pytest.mark.parametrize("batch_size", [16, 64])
def test_little_of_a_batch_is_padding(batch_size: int) -> None:
    data = make(Photographs(), size=128, multiple=8, batch_size=batch_size)
    sampler: Any = data.train_dataloader().sampler
    shuffled = make(Photographs(), size=128, multiple=8, batch_size=batch_size)
    tokens = sampler.lengths
    assert tokens.max() <= 256 and len(set(tokens.tolist())) > 50
    for epoch in range(3):
        sampler.set_epoch(epoch)
        assert sampler.padding_fraction() < 0.10
        assert sorted(place for batch in sampler for _, place in batch) == list(range(600))
    order = np.random.default_rng(0).permutation(600)
    padded = sum(len(part) * tokens[part].max() for part in np.array_split(order, 600 // batch_size))
    assert 1 - tokens.sum() / padded > 0.2, "without buckets"
    first = [[place for _, place in batch] for batch in shuffled.train_dataloader().sampler]
    sampler.set_epoch(0)
    assert first == [[place for _, place in batch] for batch in sampler], "the same order for the same seed"


def test_photographs_keep_their_shape() -> None:
    """Kodak's suite, upright and lying, and scikit-image's samples, grey and in colour."""
    folder = Path(__file__).resolve().parents[3] / "shared" / "data" / "images"
    if not folder.is_dir():
        pytest.skip("the photographs are not at hand")
    sources: list[ImageSource] = [ImageFolder(str(folder / name)) for name in ("kodak", "skimage_samples")]
    data = ImageDataModule(sources, size=64, fit="keep", multiple=4, batch_size=8, splits=[1.0, 0.0, 0.0])
    dataset = data.images("train")
    sizes = {Path(dataset.name(place)).stem: size for place, size in enumerate(dataset.measure())}
    assert sizes["kodim01"] == (52, 76) and sizes["kodim04"] == (76, 52) and sizes["camera"] == (64, 64)
    sampler: Any = data.train_dataloader().sampler
    assert sampler.padding_fraction() < 0.05
    for batch in data.train_dataloader():
        for image, name in zip(batch.images, batch.names, strict=True):
            assert tuple(image.shape[1:]) == sizes[Path(name).stem]


def test_stretched_digits_are_the_same_every_time() -> None:
    pytest.importorskip("sklearn")
    first, second = StretchedDigits().open(), StretchedDigits().open()
    sizes = [np.asarray(first.read(i)).shape[:2] for i in range(len(first))]
    assert set(sizes) == set(SHAPES) and len(first) == 1797
    assert min(sizes.count(size) for size in set(sizes)) > 200
    assert all(np.array_equal(first.read(i), second.read(i)) for i in range(0, 1797, 50))
    other = StretchedDigits([[8, 8]], seed=1).open()
    assert np.asarray(other.read(3)).shape == (8, 8, 1) and other.label(3) == first.label(3)
    for sizes_given in ([], [[8]], [[0, 8]]):
        with pytest.raises(ConfigurationError, match="pairs of height and width"):
            StretchedDigits(sizes_given)


def test_height_and_width_are_wishes() -> None:
    assert ImageWish.parse({"height": 8, "width": 20}).size == ImageWish.parse({"size": [8, 20]}).size == (8, 20)
    for raw, message in (
        ({"height": 8}, "one of height and width: give both"),
        ({"width": 8, "height": 8, "size": 8}, "give one or the other"),
        ({"height": 0, "width": 4}, r"not \[0, 4\]"), ({"heigth": 8, "width": 8}, "did you mean 'height'"),
    ):
        with pytest.raises(UserError, match=message):
            ImageWish.parse(raw)


def test_multiples_that_do_not_divide_the_size_are_refused() -> None:
    for multiple in (3, 0):
        with pytest.raises(ConfigurationError, match=f"multiple {multiple} must be a divisor of size 16"):
            make(Photographs(4), multiple=multiple)
