"""Pairs in two folders, and what can be wrong with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from polydit.data.pathology.builtin import SyntheticTissue
from polydit.data.pathology.folders import PairedFolders
from polydit.data.pathology.images import write_picture
from polydit.data.pathology.splitting import divide_tiles
from polydit.platform.errors import ConfigurationError, DataError

from .conftest import PATTERN


def source(folder: Path, **options: str) -> PairedFolders:
    options = options or {"slide_pattern": PATTERN}
    return PairedFolders(str(folder / "he"), str(folder / "ihc"), **options)


def test_pairs_of_equal_names_are_read_whatever_their_suffix(pairs: Path) -> None:
    opened, made = source(pairs).open(), SyntheticTissue(slides=3, tiles=2, size=48).open()
    assert len(opened) == 6
    for index in range(6):
        pair, wanted = opened.read(index), made.read(index)
        assert (pair.name, pair.slide, opened.size(index)) == (wanted.name, wanted.slide, (48, 48))
        np.testing.assert_array_equal(pair.he, wanted.he)
        np.testing.assert_array_equal(pair.ihc, wanted.ihc)


def test_a_tile_without_its_partner_is_named(pairs: Path) -> None:
    (pairs / "ihc" / "slide001_tile000.tiff").unlink()
    with pytest.raises(DataError, match=r"he/slide001_tile000.png has no partner in .*ihc \(1 of 6 tiles have none\)"):
        source(pairs).open()


def test_partners_of_unequal_size_are_named_with_both(pairs: Path) -> None:
    write_picture(pairs / "ihc" / "slide001_tile000.tiff", np.zeros((48, 40, 3), np.uint8))
    with pytest.raises(DataError, match=r"slide001_tile000.png is 48 x 48 .*slide001_tile000.tiff 48 x 40"):
        source(pairs).open()


def test_the_slide_must_be_told_by_one_rule(pairs: Path) -> None:
    with pytest.raises(ConfigurationError, match="give one of them, which says the slide"):
        PairedFolders("he", "ihc")
    with pytest.raises(ConfigurationError, match="has no group"):
        PairedFolders("he", "ihc", slide_pattern="slide")
    with pytest.raises(ConfigurationError, match="no regular expression"):
        PairedFolders("he", "ihc", slide_pattern="(slide")
    with pytest.raises(DataError, match="the slide of slide000_tile000 is unknown"):
        source(pairs, slide_pattern="(patient[0-9])").open()


def test_a_table_tells_patients_and_splits(pairs: Path) -> None:
    table = pairs / "tiles.csv"
    rows = [f"slide{i // 2:03d}_tile{i % 2:03d}.png,p{i // 2},{('train', 'val', 'test')[i // 2]}" for i in range(6)]
    table.write_text("name,patient,split\n" + "\n".join(rows) + "\n")
    opened = source(pairs, table=str(table), slide_column="patient").open()
    assert opened.slide(4) == "p2"
    divided = divide_tiles(opened, "stored", seed=0)
    assert [divided[name].tolist() for name in ("train", "val", "test")] == [[0, 1], [2, 3], [4, 5]]
    table.write_text("name,patient,split\n" + "\n".join(rows[:5]) + "\n")
    with pytest.raises(DataError, match="says nothing of tile slide002_tile001"):
        source(pairs, table=str(table), slide_column="patient").open()
    with pytest.raises(DataError, match="has no column 'slide'"):
        source(pairs, table=str(table)).open()


def test_a_slide_in_two_stored_splits_is_refused(pairs: Path) -> None:
    table = pairs / "tiles.csv"
    rows = [f"slide{i // 2:03d}_tile{i % 2:03d},s{i // 2},{'train' if i < 3 else 'test'}" for i in range(6)]
    table.write_text("name,slide,split\n" + "\n".join(rows) + "\n")
    with pytest.raises(DataError, match="slide 's1' stands in the splits train and test"):
        divide_tiles(source(pairs, table=str(table)).open(), "stored", seed=0)
    with pytest.raises(DataError, match="has split ''"):
        divide_tiles(source(pairs).open(), "stored", seed=0)


def test_masks_of_a_folder_stand_beside_their_tiles(pairs: Path) -> None:
    (pairs / "masks").mkdir()
    for path in (pairs / "he").iterdir():
        write_picture(pairs / "masks" / path.name, np.eye(48, dtype=np.uint8))
    opened = source(pairs, slide_pattern=PATTERN, masks=str(pairs / "masks")).open()
    mask = opened.read(3).mask
    assert mask is not None and mask.sum() == 48
    (pairs / "masks" / "slide002_tile001.png").unlink()
    with pytest.raises(DataError, match="has no mask slide002_tile001"):
        source(pairs, slide_pattern=PATTERN, masks=str(pairs / "masks")).open()


def test_a_file_that_is_truncated_after_its_header_is_named_when_it_is_read(pairs: Path) -> None:
    path = pairs / "he" / "slide000_tile000.png"
    path.write_bytes(path.read_bytes()[:400])
    opened = source(pairs).open()
    with pytest.raises(DataError, match=r"slide000_tile000\.png is truncated"):
        opened.read(0)
