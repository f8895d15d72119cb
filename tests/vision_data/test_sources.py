"""Every source gives the same images for the same content, and names what is wrong with a file."""

from __future__ import annotations

import copy
import gzip
import io
import json
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polydit.data.vision.archives import ImageZip, TarShards, list_files
from polydit.data.vision.builtin import Digits
from polydit.data.vision.decoding import Decoder
from polydit.data.vision.folders import ImageFolder, name_classes
from polydit.data.vision.idx import IdxFiles, read_idx
from polydit.data.vision.parquet import ParquetShards
from polydit.data.vision.pictures import UNKNOWN, ImageSet
from polydit.platform.errors import ConfigurationError, DataError

from .conftest import draw, encode

REAL = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "images"


def content(images: ImageSet) -> list[tuple[str, int]]:
    """Pixels, hashed, and class name of each image."""
    decoder = Decoder()
    return [
        (str(hash(decoder.decode(images.read(i), images.name(i)).tobytes())),
         images.classes[images.label(i)] if images.label(i) != UNKNOWN else "")
        for i in range(len(images))
    ]


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


def write_idx(path: Path, values: Any, zipped: bool = False) -> None:
    data = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()
    path.write_bytes(gzip.compress(data) if zipped else data)


def test_folder_zip_tar_and_parquet_hold_the_same(class_folders: Path, tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    expected = content(ImageFolder(str(class_folders)).open())
    assert len(expected) == 10 and [name for _, name in expected].count("bee") == 6

    files = sorted(class_folders.rglob("*.png"))
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for file in files:
            archive.write(file, file.relative_to(tmp_path))  # wrapped in the folder `insects`
    assert content(ImageZip(str(tmp_path / "all.zip")).open()) == expected

    for number in range(2):
        members = {}
        for place, file in enumerate(files[number::2]):
            key = f"{place:04d}"
            name = file.parent.name
            beside = {"cls": name.encode()} if number else {"json": json.dumps({"label": name}).encode()}
            members |= {f"{key}.{suffix}": data for suffix, data in beside.items()} | {f"{key}.png": file.read_bytes()}
        write_tar(tmp_path / f"shard-{number:03d}.tar", members)
    tar = TarShards([str(tmp_path / "shard-{000..001}.tar")]).open()
    assert sorted(content(tar)) == sorted(expected) and tar.classes == ("ant", "bee")
    assert content(copy.deepcopy(tar)) == content(tar), "workers get a copy"

    rows = {
        "image": [{"bytes": file.read_bytes(), "path": file.name} for file in files],
        "label": [("ant", "bee").index(file.parent.name) for file in files],
    }
    features = {"info": {"features": {"label": {"names": ["ant", "bee"], "_type": "ClassLabel"}}}}
    table = arrow.table(rows).replace_schema_metadata({"huggingface": json.dumps(features)})
    parquet.write_table(table, tmp_path / "data.parquet", row_group_size=3)
    found = ParquetShards([str(tmp_path / "*.parquet")]).open()
    assert content(found) == expected and content(copy.deepcopy(found)) == expected
    assert found.name(4).endswith("data.parquet, row 4")


def test_a_folder_without_classes_has_none(class_folders: Path) -> None:
    flat = ImageFolder(str(class_folders / "ant"), split="val").open()
    assert flat.classes == () and flat.label(0) == UNKNOWN and flat.split(0) == "val" and len(flat) == 4
    (class_folders / "stray.png").write_bytes(encode(draw(5)))
    with pytest.raises(DataError, match=r"1 images beside class folders, such as stray\.png"):
        ImageFolder(str(class_folders)).open()
    (class_folders / "stray.png").unlink()
    (class_folders / ".thumbs").mkdir()
    (class_folders / ".thumbs" / "x.png").write_bytes(b"no image")
    (class_folders / "ant" / "notes.txt").write_text("left out")
    assert len(ImageFolder(str(class_folders)).open()) == 10
    with pytest.raises(DataError, match="there is no folder"):
        ImageFolder(str(class_folders / "wasp")).open()
    (class_folders / "empty").mkdir()
    with pytest.raises(DataError, match="holds no image"):
        ImageFolder(str(class_folders / "empty")).open()


@given(st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=8), st.booleans(), st.booleans())
def test_classes_are_the_first_folder(classes: list[str], wrapped: bool, deep: bool) -> None:
    names = [f"{'all/' if wrapped else ''}{name}/{'x/' if deep else ''}{i}.png" for i, name in enumerate(classes)]
    if deep and not wrapped and len(set(classes)) == 1:
        return  # one folder that holds folders: which of them is the class cannot be told
    kept, labels, found = name_classes(names, "here")
    assert kept == names and [found[label] for label in labels] == classes


@pytest.mark.parametrize("zipped", [False, True])
def test_idx_files_are_read_and_checked(tmp_path: Path, zipped: bool) -> None:
    images, labels = draw(0, 5, 4, 3), np.array([0, 2, 1, 2, 0], np.uint8)
    write_idx(tmp_path / "images", images, zipped)
    write_idx(tmp_path / "labels", labels, zipped)
    found = IdxFiles(str(tmp_path / "images"), str(tmp_path / "labels"), ["x", "y", "z"], split="test").open()
    assert found.classes == ("x", "y", "z") and found.split(3) == "test" and found.label(1) == 2
    np.testing.assert_array_equal(found.read(2), images[2])
    assert IdxFiles(str(tmp_path / "images")).open().label(0) == UNKNOWN
    assert IdxFiles(str(tmp_path / "images"), str(tmp_path / "labels")).open().classes == ("0", "1", "2")
    with pytest.raises(DataError, match="holds class 2, and only 2 classes are named"):
        IdxFiles(str(tmp_path / "images"), str(tmp_path / "labels"), ["x", "y"]).open()
    with pytest.raises(DataError, match="they are no pair"):
        IdxFiles(str(tmp_path / "images"), str(tmp_path / "images")).open()
    whole = (tmp_path / "images").read_bytes()
    for end in (0, 2, 7, len(whole) - 3):
        (tmp_path / "cut").write_bytes(whole[:end])
        with pytest.raises(DataError, match="cut is "):
            read_idx(tmp_path / "cut")
    with pytest.raises(ConfigurationError, match="no labels are given"):
        IdxFiles("images", classes=["x"])


@given(st.binary(max_size=60))
def test_any_bytes_are_an_idx_file_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.idx"
    path.write_bytes(data)
    try:
        assert read_idx(path).dtype == np.uint8
    except DataError as error:
        assert "any.idx" in str(error)


def test_shards_that_are_damaged_are_named(tmp_path: Path) -> None:
    good = encode(draw(1, 30, 30))
    write_tar(tmp_path / "one.tar", {"a.png": good, "a.cls": b"3", "b.png": good, "b.cls": b"1"})
    found = TarShards([str(tmp_path / "one.tar")]).open()
    assert found.classes == ("0", "1", "2", "3") and [found.label(0), found.label(1)] == [3, 1]
    whole = (tmp_path / "one.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[:2000])
    with pytest.raises(DataError, match=r"cut\.tar is (truncated within|no plain tar)"):
        TarShards([str(tmp_path / "cut.tar")]).open()
    (tmp_path / "packed.tar.gz").write_bytes(gzip.compress(whole))
    with pytest.raises(DataError, match="no plain tar file"):
        TarShards([str(tmp_path / "packed.tar.gz")]).open()
    write_tar(tmp_path / "partly.tar", {"a.png": good, "a.cls": b"3", "b.png": good})
    with pytest.raises(DataError, match=r"partly\.tar:b\.png has no class, and others have"):
        TarShards([str(tmp_path / "partly.tar")]).open()
    write_tar(tmp_path / "mixed.tar", {"a.png": good, "a.cls": b"3", "b.png": good, "b.cls": b"cat"})
    with pytest.raises(DataError, match="partly numbers and partly names"):
        TarShards([str(tmp_path / "mixed.tar")]).open()
    for broken in (b"{", b"[1]", b'{"label": {}}'):
        write_tar(tmp_path / "broken.tar", {"a.png": good, "a.json": broken})
        with pytest.raises(DataError, match=r"a\.json holds "):
            TarShards([str(tmp_path / "broken.tar")]).open()
    with pytest.raises(DataError, match="matches no file"):
        list_files([str(tmp_path / "*.webp")])


def test_files_that_are_no_zip_or_parquet_are_named(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "junk").write_bytes(b"PK\3\4 and nothing more")
    with pytest.raises(DataError, match="no zip file"):
        ImageZip(str(tmp_path / "junk")).open()
    with pytest.raises(DataError, match="no parquet file"):
        ParquetShards([str(tmp_path / "junk")]).open()
    missing = str(tmp_path / "no")
    for source in (ImageZip(missing), ParquetShards([missing]), TarShards([missing])):
        with pytest.raises(DataError, match="there is no file"):
            source.open()
    with zipfile.ZipFile(tmp_path / "good.zip", "w") as archive:
        archive.writestr("a.png", encode(draw(0, 30, 30)), zipfile.ZIP_DEFLATED)
    data = bytearray((tmp_path / "good.zip").read_bytes())
    data[60:90] = b"\xff" * 30
    (tmp_path / "torn.zip").write_bytes(data)
    with pytest.raises(DataError, match=r"torn\.zip:a\.png cannot be read"):
        ImageZip(str(tmp_path / "torn.zip")).open().read(0)


def test_parquet_rows_without_an_image_are_named(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "links.parquet"
    parquet.write_table(arrow.table({"image": [{"bytes": None, "path": "a.png"}], "label": [0]}), path)
    with pytest.raises(DataError, match=r"links\.parquet, row 0 holds no bytes of an image"):
        ParquetShards([str(path)]).open().read(0)
    with pytest.raises(DataError, match=r"has no column 'picture', only \['image', 'label'\]"):
        ParquetShards([str(path)], image="picture").open()
    parquet.write_table(arrow.table({"image": [b"x", b"y"], "label": [0, None]}), path)
    with pytest.raises(DataError, match="row 1 has no class"):
        ParquetShards([str(path)]).open()
    assert ParquetShards([str(path)], label=None).open().read(1) == b"y"


def test_digits_are_all_there() -> None:
    pytest.importorskip("sklearn")
    digits = Digits().open()
    assert len(digits) == 1797 and digits.classes == tuple("0123456789")
    values = np.stack([np.asarray(digits.read(i)) for i in range(50)])
    assert values.shape == (50, 8, 8) and values.min() == 0 and values.max() == 255


@pytest.mark.skipif(not REAL.is_dir(), reason="no real images here")
def test_real_sets_are_read() -> None:
    files = [str(REAL / "mnist_t10k" / f"t10k-{part}-ubyte.gz") for part in ("images-idx3", "labels-idx1")]
    mnist = IdxFiles(*files).open()
    assert len(mnist) == 10_000 and len(mnist.classes) == 10 and np.asarray(mnist.read(0)).shape == (28, 28)
    cifar = ImageZip(str(REAL / "cifar10_jpg" / "test.zip")).open()
    assert len(cifar) == 10_000 and len(cifar.classes) == 10
    assert Decoder().decode(cifar.read(1234), "x").shape == (32, 32, 3)
    kodak = ImageFolder(str(REAL / "kodak")).open()
    assert len(kodak) == 24 and kodak.classes == ()
    samples = ImageFolder(str(REAL / "skimage_samples")).open()
    assert all(Decoder().decode(samples.read(i), samples.name(i)).ndim == 3 for i in range(len(samples)))
