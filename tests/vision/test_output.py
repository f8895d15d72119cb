"""Images as files and in the report.

Shape legend: h, w height and width, C channels.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polydit.data.vision.folders import ImageFolder
from polydit.data.vision.pictures import Picture
from polydit.domains.vision.gallery import ImageGallery, arrange_by_class, draw_grid, scale
from polydit.domains.vision.writers import PngWriter
from polydit.platform.requests import Request, Sample

Image = pytest.importorskip("PIL.Image", reason="the extra 'vision' is not installed")


def make_samples(*shapes: tuple[int, int, int], labels: tuple[int, ...] = ()) -> list[Sample]:
    generator = np.random.default_rng(0)
    names = {-1: "", 0: "cat", 1: "a dog/or wolf"}
    return [
        Sample(Request(i), Picture(generator.integers(0, 256, shape, dtype=np.uint8), label, names[label]))
        for i, (shape, label) in enumerate(zip(shapes, labels or (-1,) * len(shapes), strict=True))
    ]


def test_files_hold_the_images_and_are_named_by_class(tmp_path: Path) -> None:
    samples = make_samples((4, 6, 3), (5, 5, 1), (3, 3, 3), labels=(0, 1, -1))
    first = PngWriter().write(samples[:2], tmp_path)
    second = PngWriter().write([samples[2], Sample(Request(9), "no image")], tmp_path, start=2)
    assert [path.name for path in first + second] == ["00000_cat.png", "00001_a_dog_or_wolf.png", "00002.png"]
    for path, sample in zip(first + second, samples, strict=True):
        found = np.asarray(Image.open(path))
        np.testing.assert_array_equal(found.reshape(sample.item.pixels.shape), sample.item.pixels)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in first + second)


def test_class_folders_can_be_read_as_data(tmp_path: Path) -> None:
    PngWriter(class_folders=True).write(make_samples((4, 4, 3), (4, 4, 3), labels=(0, 1)), tmp_path)
    assert ImageFolder(str(tmp_path)).open().classes == ("a_dog_or_wolf", "cat")


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 70), st.integers(1, 70), st.sampled_from([1, 3])), min_size=1, max_size=6),
    st.integers(1, 4), st.data(),
)
def test_any_images_make_a_grid(shapes: list[tuple[int, int, int]], columns: int, data: st.DataObject) -> None:
    labels = tuple(data.draw(st.sampled_from([-1, 0, 1])) for _ in shapes)
    gallery = ImageGallery(columns=columns, cell=32, alone=2)
    samples = make_samples(*shapes, labels=labels)
    picture, caption = gallery.overview(samples)
    assert Image.open(io.BytesIO(picture)).mode == "RGB" and "order" in caption
    assert len(gallery.figures(samples)) == len(shapes)
    rows = arrange_by_class([sample.item for sample in samples], columns)
    assert sum(len(images) for _, images in rows) == len(shapes) and max(len(images) for _, images in rows) <= columns


def test_rows_are_classes_and_cells_the_images() -> None:
    samples = make_samples(*[(16, 16, 1)] * 5, labels=(1, 0, 0, 1, 0))
    rows = arrange_by_class([sample.item for sample in samples], 2)
    assert [(name, len(images)) for name, images in rows] == [("cat", 2), ("cat", 1), ("a dog/or wolf", 2)]
    grid = draw_grid(rows, 2, 32)
    cell = grid[2:34, 62:94]
    np.testing.assert_array_equal(cell, scale(samples[1].item.pixels, 32))


def test_settings_that_show_nothing_are_refused() -> None:
    for options in ({"limit": 0}, {"columns": 0}, {"cell": 4}):
        with pytest.raises(ValueError, match="at least"):
            ImageGallery(**options)
