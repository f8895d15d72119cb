"""Batches of paired tiles: whole slides to a split, joint turns, crops, thresholds that travel, and requests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from polydit.data.pathology.builtin import SyntheticTissue
from polydit.data.pathology.datamodule import TilePairDataModule
from polydit.data.pathology.dataset import turn_image
from polydit.data.pathology.folders import PairedFolders
from polydit.data.pathology.images import write_picture
from polydit.data.pathology.tiles import TileBatch, TilePair, TileSet, TileSource
from polydit.platform.errors import ConfigurationError, DataError, UserError

from .conftest import PATTERN


class PlacedPixels(TileSource):
    """Pairs whose pixels say where they stand: H&E holds row and column, IHC it plus 3, the mask a pattern."""

    def __init__(self, height: int = 24, width: int = 32) -> None:
        self.size = height, width

    def open(self) -> TileSet:
        return _PlacedTiles(self.size)


class _PlacedTiles(TileSet):
    def __init__(self, size: tuple[int, int]) -> None:
        self._size = size

    def __len__(self) -> int:
        return 6

    def slide(self, index: int) -> str:
        return f"s{index % 3}"

    def size(self, index: int) -> tuple[int, int]:
        return self._size

    def read(self, index: int) -> TilePair:
        rows, columns = np.mgrid[: self._size[0], : self._size[1]].astype(np.uint8)
        he = np.stack([rows, columns, np.full_like(rows, index)], axis=-1)
        return TilePair(he, he + 3, f"t{index}", self.slide(index), (rows + columns) % 5 == 0)


def placed(**options: Any) -> TilePairDataModule:
    settings: dict[str, Any] = {"tile": 8, "batch_size": 4, "masks": "stored", "splits": [0.4, 0.3, 0.3], **options}
    return TilePairDataModule([PlacedPixels()], **settings)


def read_all(loader: Any) -> list[TileBatch]:
    return list(loader)


@pytest.mark.parametrize("seed", range(4))
def test_a_slide_stands_in_one_split_and_every_tile_in_one(seed: int) -> None:
    module = TilePairDataModule([SyntheticTissue(slides=7, tiles=3, size=32)], tile=32, seed=seed)
    names: list[str] = []
    slides = []
    for split in ("train", "val", "test"):
        tiles = module.tiles(split)
        pairs = [tiles.cut(None, place) for place in range(len(tiles))]
        names += [pair.name for pair in pairs]
        slides.append({pair.slide for pair in pairs})
        assert slides[-1], "every split with a fraction has a slide"
    assert len(names) == len(set(names)) == 21
    assert not (slides[0] & slides[1] or slides[0] & slides[2] or slides[1] & slides[2])


def test_stains_and_mask_are_cut_turned_and_flipped_as_one() -> None:
    turned = set()
    for batch in read_all(placed().train_dataloader()):
        torch.testing.assert_close(batch.ihc, batch.he + 3)
        rows, columns = batch.he[:, 0].long(), batch.he[:, 1].long()
        assert torch.equal(batch.mask[:, 0], (rows + columns) % 5 == 0)
        for tile in batch.he:
            difference = tile.int()[:2, 0, 1] - tile.int()[:2, 0, 0]
            turned.add(tuple(difference.tolist()))
    assert {(0, 1), (0, -1), (1, 0), (-1, 0)} <= turned


def test_the_eight_symmetries_differ_and_keep_the_pixels() -> None:
    image = np.arange(9).reshape(3, 3)
    turned = {turn_image(image, turn).tobytes() for turn in range(8)}
    assert len(turned) == 8
    assert all(sorted(turn_image(image, turn).ravel()) == list(range(9)) for turn in range(8))


def test_what_is_drawn_depends_on_the_epoch_and_is_repeated() -> None:
    def draw(epoch: int) -> torch.Tensor:
        loader = placed().train_dataloader()
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        batches = sorted(read_all(loader), key=lambda batch: int(batch.index[0]))
        return torch.cat([batch.he.flatten() for batch in batches])

    assert torch.equal(draw(1), draw(1)) and not torch.equal(draw(1), draw(2))


def test_held_out_tiles_stand_side_by_side_as_they_are() -> None:
    batches = read_all(placed().test_dataloader()[0])
    corners = torch.cat([batch.he[:, :2, 0, 0] for batch in batches])
    assert sorted(map(tuple, corners.tolist()))[::2] == [(y, x) for y in (0, 8, 16) for x in (0, 8, 16, 24)]
    assert [name[2:] for name in batches[0].names[:2]] == ["_y0_x0", "_y0_x8"]
    assert torch.cat([batch.index for batch in batches]).tolist() == list(range(24))


def test_masks_do_not_depend_on_whether_images_are_kept() -> None:
    def masks(cache: float) -> torch.Tensor:
        module = TilePairDataModule(
            [SyntheticTissue(slides=3, tiles=2, size=48)], tile=20, batch_size=8, cache_limit_mb=cache,
            brown_threshold=0.06,
        )
        return torch.cat([batch.mask for batch in read_all(module.train_dataloader())])

    assert torch.equal(masks(100), masks(0)) and masks(0).any()


def test_an_image_smaller_than_a_tile_and_an_empty_split_are_named() -> None:
    with pytest.raises(DataError, match="is 24 x 32 and training takes tiles of 30"):
        placed(tile=30).tiles("train")
    with pytest.raises(DataError, match=r"the test split is empty: 3 slides.*slides\s+are never divided"):
        placed(splits=[0.6, 0.4, 0.0]).setup("test")


def test_the_threshold_is_otsus_over_training_and_travels() -> None:
    tissue = SyntheticTissue(slides=4, tiles=2, size=48)
    module = TilePairDataModule([tissue], tile=48, splits=[0.5, 0.25, 0.25])
    found = module.brown_threshold
    assert 0.05 < found < 0.1
    other = TilePairDataModule([SyntheticTissue(slides=4, tiles=2, size=48, seed=5)], tile=48)
    other.load_state_dict(module.state_dict())
    assert other.brown_threshold == found
    given = TilePairDataModule([tissue], tile=48, brown_threshold=0.09)
    given.load_state_dict(module.state_dict())
    assert given.brown_threshold == 0.09


def test_without_stored_masks_stored_ones_cannot_be_asked_for(pairs: Path) -> None:
    source = PairedFolders(str(pairs / "he"), str(pairs / "ihc"), PATTERN)
    module = TilePairDataModule([source], tile=48, batch_size=2, masks="stored", splits=[1.0, 0.0, 0.0])
    with pytest.raises(DataError, match="brings no mask"):
        next(iter(module.train_dataloader()))


def test_pairs_without_any_brown_have_empty_masks(tmp_path: Path) -> None:
    tiles = SyntheticTissue(slides=3, tiles=1, size=32).open()
    for index in range(3):
        for stain in ("he", "ihc"):
            (tmp_path / stain).mkdir(exist_ok=True)
            write_picture(tmp_path / stain / f"s{index}.png", tiles.read(index).he)
    module = TilePairDataModule(
        [PairedFolders(str(tmp_path / "he"), str(tmp_path / "ihc"), "(s.)")], tile=32, splits=[0.34, 0.33, 0.33]
    )
    assert not next(iter(module.train_dataloader())).mask.any()


def test_a_folder_is_a_request_for_each_of_its_images(pairs: Path) -> None:
    module = TilePairDataModule([], requests=[
        {"folder": str(pairs / "he"), "truth": str(pairs / "ihc")},
        {"image": str(pairs / "he" / "slide000_tile000.png"), "count": 2},
    ], request_seed=7)  # fmt: skip
    requests = [request for batch in module.predict_dataloader() for request in batch]
    assert [request.seed for request in requests] == list(range(7, 15))
    assert requests[1].wishes["truth"].endswith("slide000_tile001.tiff")


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"imag": "a.png"}, "did you mean 'image'"),
        ({}, "names an H&E image"),
        ({"image": "nowhere.png"}, "there is no file nowhere.png"),
        ({"image": np.zeros((4, 4), np.uint8)}, r"\[h, w, 3\] of uint8"),
        ({"image": np.zeros((4, 4, 3), np.uint8), "region": [0, 0, 4]}, "region is"),
        ({"image": np.zeros((4, 4, 3), np.uint8), "mpp": -1}, "mpp is micrometres"),
        ({"folder": "nowhere"}, "there is no folder"),
    ],
)
def test_a_request_that_cannot_be_met_is_explained(request_: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        _ = TilePairDataModule([], requests=[request_]).requests


@pytest.mark.parametrize(
    "options",
    [{"tile": 0}, {"batch_size": 0}, {"smoothing": -1}, {"brown_threshold": 2.0}, {"splits": [0.5, 0.5, 0.5]}],
)
def test_contradictions_are_found_before_data_loads(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        placed(**options)
    with pytest.raises(ConfigurationError, match="sources is empty"):
        TilePairDataModule([])
