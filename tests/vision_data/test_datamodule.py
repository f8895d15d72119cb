"""Splits, sizes, flips, requests and resuming.

Shape legend: B images, C channels, h, w height and width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from polydit.data.vision.builtin import ArraySet, Digits
from polydit.data.vision.datamodule import ImageDataModule
from polydit.data.vision.decoding import Decoder
from polydit.data.vision.fitting import fit_image
from polydit.data.vision.folders import ImageFolder
from polydit.data.vision.pictures import ImageSet, ImageSource
from polydit.data.vision.splitting import divide_evenly
from polydit.data.vision.wishes import ImageWish, expand_entries
from polydit.platform.errors import ConfigurationError, DataError, UserError

from .conftest import draw, encode


class Arrays(ImageSource):
    """Numbered images of two classes."""

    def __init__(self, count: int = 40, classes: tuple[str, ...] = ("cat", "dog"), split: str = "") -> None:
        self.count, self.classes, self.split = count, classes, split

    def open(self) -> ImageSet:
        images = np.stack([draw(i, 6, 6) for i in range(self.count)])
        return ArraySet(images, np.arange(self.count) % len(self.classes), self.classes, "array", self.split)


def make(**options: Any) -> ImageDataModule:
    chosen: dict[str, Any] = {"sources": [Arrays()], "size": 6, "batch_size": 8, **options}
    return ImageDataModule(**chosen)


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=80),
    st.sampled_from([[0.8, 0.1, 0.1], [1, 0, 0], [0.5, 0.25, 0.25]]), st.integers(0, 5),
)
def test_every_class_is_divided_alike_and_nothing_twice(labels: list[int], fractions: list[float], seed: int) -> None:
    array = np.array(labels)
    parts = divide_evenly(array, fractions, seed)
    np.testing.assert_array_equal(np.sort(np.concatenate(list(parts.values()))), np.arange(len(labels)))
    for label in set(labels):
        for part, share in zip(parts.values(), fractions, strict=True):
            assert abs((array[part] == label).sum() - share * labels.count(label)) < 1
    again = divide_evenly(array, fractions, seed)
    assert all(np.array_equal(parts[name], again[name]) for name in parts)


def test_batches_hold_every_image_once_and_resume() -> None:
    data = make()
    loader = data.train_dataloader()
    batches = list(loader)
    seen = torch.cat([batch.index for batch in batches])
    assert len(seen) == 32 and len(seen.unique()) == 32
    assert batches[0].images.shape == (8, 3, 6, 6) and batches[0].images.dtype == torch.uint8
    dataset = data.images("train")
    for batch in batches:
        for row, place in enumerate(batch.index.tolist()):
            assert dataset.label(place) == int(batch.labels[row]) and dataset.name(place) == batch.names[row]
    resumed = make().train_dataloader()
    resumed.load_state_dict({"epoch": 0, "handed_out": 2, "epoch_offset": 0})  # type: ignore[attr-defined]
    assert [batch.names for batch in resumed] == [batch.names for batch in batches[2:]]
    other = make(seed=1).train_dataloader()
    assert [batch.names for batch in other] != [batch.names for batch in batches]


def test_flips_come_in_training_alone_and_differ_between_epochs() -> None:
    data = make(flip=True)
    dataset = data.images("train")
    still = dataset.draw(None, 3)
    drawn = [dataset.draw(epoch, 3) for epoch in range(12)]
    flipped = [np.array_equal(image, still[:, ::-1]) for image in drawn]
    assert 0 < sum(flipped) < 12
    assert all(np.array_equal(image, still) or mirrored for image, mirrored in zip(drawn, flipped, strict=True))
    np.testing.assert_array_equal(drawn[4], dataset.draw(4, 3))
    held_out = next(iter(data.val_dataloader()))  # type: ignore[arg-type]
    np.testing.assert_array_equal(held_out.images[0].permute(1, 2, 0).numpy(), data.images("val").draw(None, 0))


def test_classes_of_several_sources_are_one_by_name() -> None:
    data = make(sources=[Arrays(classes=("cat", "dog")), Arrays(classes=("eel", "cat"))])
    assert data.classes == ("cat", "dog", "eel")
    names = {0: {"cat"}, 1: {"dog"}, 2: {"eel"}}
    for batch in data.train_dataloader():
        for label, name, image in zip(batch.labels.tolist(), batch.names, batch.images, strict=True):
            number = int(name.split()[-1])
            assert image.permute(1, 2, 0).numpy().tolist() == draw(number, 6, 6).tolist()
            assert names[label] <= {("cat", "dog")[number % 2], ("eel", "cat")[number % 2]}


def test_stored_splits_are_those_of_the_sources() -> None:
    data = make(sources=[Arrays(split="train"), Arrays(count=10, split="test")], splits="stored")
    assert [len(data.images(name)) for name in ("train", "val", "test")] == [40, 0, 10]
    assert data.val_dataloader() == []
    with pytest.raises(DataError, match=r"array 0 is listed in the split '': give its source `split: train`"):
        make(splits="stored").setup("fit")
    with pytest.raises(DataError, match="the test split is empty"):
        make(splits=[1.0, 0.0, 0.0]).setup("test")


def test_sizes_are_fitted_or_refused(tmp_path: Path) -> None:
    for number, shape in enumerate([(6, 6), (12, 8), (5, 9)]):
        (tmp_path / f"{number}.png").write_bytes(encode(draw(number, *shape)))
    source = ImageFolder(str(tmp_path))
    for fit in ("crop", "random_crop", "resize"):
        batch = next(iter(make(sources=[source], fit=fit, splits=[1.0, 0.0, 0.0]).train_dataloader()))
        assert batch.images.shape == (3, 3, 6, 6)
    with pytest.raises(DataError, match=r"(1\.png is 12 x 8|2\.png is 5 x 9) pixels and 6 x 6 are wanted"):
        list(make(sources=[source], fit="refuse", splits=[1.0, 0.0, 0.0]).train_dataloader())
    with pytest.raises(ConfigurationError, match="fit 'pad' is none of crop"):
        make(fit="pad")


@settings(deadline=None)
@given(
    hnp.arrays(np.uint8, st.tuples(st.integers(1, 20), st.integers(1, 20), st.sampled_from([1, 3]))),
    st.integers(1, 12), st.sampled_from(["crop", "random_crop", "resize"]), st.integers(0, 3),
)
def test_any_image_is_fitted(image: Any, size: int, fit: Any, seed: int) -> None:
    found = fit_image(image, size, fit, "x", np.random.default_rng(seed))
    assert found.shape == (size, size, image.shape[2]) and found.dtype == np.uint8
    np.testing.assert_array_equal(found, fit_image(image, size, fit, "x", np.random.default_rng(seed)))
    flat = np.full_like(image, 77)
    assert (fit_image(flat, size, fit, "x", np.random.default_rng(seed)) == 77).all()


def test_a_truncated_file_in_the_middle_is_named(tmp_path: Path) -> None:
    for number in range(5):
        data = encode(draw(number, 20, 20))
        (tmp_path / f"{number}.png").write_bytes(data[: len(data) // 2] if number == 3 else data)
    data = make(sources=[ImageFolder(str(tmp_path))], splits=[1.0, 0.0, 0.0])
    with pytest.raises(DataError, match=r"3\.png is truncated or damaged"):
        list(data.train_dataloader())


def test_worker_processes_give_the_same_batches(class_folders: Path) -> None:
    options: dict[str, Any] = {"sources": [ImageFolder(str(class_folders))], "size": 8, "flip": True}
    alone, helped = (list(make(**options, num_workers=count).train_dataloader()) for count in (0, 1))
    assert [batch.names for batch in alone] == [batch.names for batch in helped]
    assert all(torch.equal(a.images, b.images) for a, b in zip(alone, helped, strict=True))


def test_requests_name_classes_counts_seeds_and_sizes() -> None:
    data = make(
        requests=[{"class": "dog", "count": 2}, {"class": 0, "seed": 7}, {"size": 12}, {"class": "all", "count": 2}]
    )
    found = [(request.seed, request.wishes) for request in data.requests]
    assert found == [
        (0, {"class": "dog"}), (1, {"class": "dog"}), (7, {"class": 0}), (2, {"size": 12}), (3, {"class": 0}),
        (4, {"class": 0}), (5, {"class": 1}), (6, {"class": 1}),
    ]
    assert ImageWish.parse({"size": [4, 6]}).size == (4, 6) and ImageWish.parse({"label": 1}).resolve(["a", "b"]) == 1
    assert len(next(iter(data.predict_dataloader()))) == 8


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"class": "cow"}, "no class is called 'cow': there are 2, such as cat, dog"),
        ({"class": "dg"}, "no class is called 'dg': there are 2, such as dog"),
        ({"class": 2}, "class 2 is not one of 0 to 1"),
        ({"class": True}, "class is a number from 0 or a name, not True"),
        ({"class": 1, "label": 1}, "both class and label"),
        ({"clas": 1}, "unknown wish 'clas' in a request: did you mean 'class'"),
        ({"size": "big"}, "size is a number of pixels"),
        ({"size": [1, 2, 3]}, "size is a number of pixels"),
        ({"seed": -1}, "seed is a whole number from 0, not -1"),
        ({"count": 0}, "count must be a positive integer"),
    ],
)
def test_wishes_that_cannot_be_met_are_refused(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _ = make(requests=[entry]).requests


def test_classes_need_a_model_or_data_that_have_some() -> None:
    with pytest.raises(UserError, match="the data have no classes"):
        expand_entries([{"class": "all"}], 0, 0)
    with pytest.raises(UserError, match="this model knows no classes"):
        ImageWish.parse({"class": 0}).resolve([])


@pytest.mark.parametrize(
    "options",
    [
        {"sources": []}, {"batch_size": 0}, {"limit": 0}, {"size": 0}, {"splits": [0.5, 0.4, 0.3]}, {"splits": "some"},
        {"splits": [1.0, 0.5, -0.5]},
    ],
)
def test_settings_that_contradict_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        make(**options)


def test_digits_fill_batches_of_grey() -> None:
    pytest.importorskip("sklearn")
    data = ImageDataModule([Digits()], size=8, decoder=Decoder(channels=1), batch_size=16, limit=20)
    assert data.classes == tuple("0123456789") and len(data.images("train")) == 20
    assert next(iter(data.train_dataloader())).images.shape == (16, 1, 8, 8)
    larger = ImageDataModule([Digits()], size=16, decoder=Decoder(channels=1), limit=20, batch_size=4)
    assert next(iter(larger.train_dataloader())).images.shape == (4, 1, 16, 16)
