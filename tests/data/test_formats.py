"""What we write as extended XYZ and as an ASE database is read back, by us and by ASE, with labels and names."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import ase.db
import ase.io
import numpy as np
import pytest
from ase.build import bulk, molecule
from hypothesis import given, settings

from polydit.data.chemistry.formats import write_ase_database, write_extxyz
from polydit.data.chemistry.sources import FilesSource
from polydit.data.chemistry.sources.parsing import parse_file
from polydit.data.chemistry.store import BadRecord
from polydit.data.chemistry.structure import AtomicStructure

from .test_interchange import assert_same, labelled

AWKWARD = {
    "energy": -3.5, "free_energy": 0.1, "magmom": 2.0, "gap": 1 / 3, "missing": math.nan, "Lattice": 1.0, "pbc": 2.0,
    "stress": 3.0, "dipole": 4.0, "a b": 5.0, "E=1": 6.0, 'quote"': 7.0, "line\nbreak": 8.0, "é": 9.0, "back\\": 1e-300,
    "": -0.0, "mass": 11.0, "C2": 12.0, "id": 13.0, "1x": 14.0, "_x": 15.0,
}
WATER = replace(AtomicStructure.from_ase(molecule("H2O"), "water"), labels=AWKWARD)
COPPER = AtomicStructure.from_ase(bulk("Cu"), "copper")


def read_one(path: Path) -> AtomicStructure:
    (item,) = parse_file(path, "file")
    assert isinstance(item, AtomicStructure), item
    return item


@settings(max_examples=60, deadline=None)
@given(item=labelled())
def test_extxyz_round_trip(item: AtomicStructure, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "any.extxyz"
    write_extxyz(path, [item])
    back = read_one(path)
    assert back.name == f"file {item.name}".strip()
    assert_same(replace(back, name=item.name), item, positions=False)
    np.testing.assert_allclose(back.positions, item.positions, rtol=0, atol=5.1e-9)


@settings(max_examples=20, deadline=None)
@given(item=labelled())
def test_database_round_trip(item: AtomicStructure, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "any.db"
    write_ase_database(path, [item])
    back = read_one(path)
    assert back.name == f"file id 1 {item.name}".strip()
    assert_same(replace(back, name=item.name), item)


@pytest.mark.parametrize(
    "name", ["12", "007", "1.50", "T", "1 2 3", "_JSON [1]", "a\nb", "\\", '"', "[x]", "=", " edge ", "é"]
)
def test_names_that_read_like_something_else(name: str, tmp_path: Path) -> None:
    write_extxyz(tmp_path / "a.extxyz", [replace(COPPER, name=name)])
    assert AtomicStructure.from_ase(ase.io.read(tmp_path / "a.extxyz")).name == name


def test_ase_finds_labels_where_the_field_puts_them(tmp_path: Path) -> None:
    write_extxyz(tmp_path / "a.extxyz", [WATER, COPPER])
    water, copper = ase.io.read(tmp_path / "a.extxyz", ":")
    assert water.get_potential_energy() == -3.5
    assert water.info["gap"] == 1 / 3 and water.info["name"] == "water"
    assert "pbc" in json.loads(water.info["labels"]) and "gap" not in json.loads(water.info["labels"])
    assert copper.info == {"name": "copper"} and copper.pbc.all()
    write_ase_database(tmp_path / "a.db", [WATER, COPPER])
    with ase.db.connect(tmp_path / "a.db") as database:
        (row,) = database.select("gap>0.3,energy<-3")
        assert row.toatoms().get_potential_energy() == -3.5
        assert row.key_value_pairs["gap"] == 1 / 3 and row._x == 15.0
        assert not {"mass", "C2", "id", "1x", "pbc"} & set(row.key_value_pairs)
        assert row.mass == pytest.approx(18.015)
        assert row.data["labels"]["mass"] == 11.0


def test_sources_read_what_is_written(tmp_path: Path) -> None:
    write_extxyz(tmp_path / "a.extxyz", [WATER, COPPER], [{"seed": 7, "index": 0, "request": "{}"}] * 2)
    write_ase_database(tmp_path / "b.db", [WATER, COPPER], [{"seed": 7}] * 2)
    with ase.db.connect(tmp_path / "c.json") as database:
        database.write(molecule("NH3"), gap=1.5, data={"note": [1, 2]})
        database.write(bulk("Cu"), relaxed=True)
    (tmp_path / "manifest.json").write_text('{"count": 2, "files": []}')  # some JSON that is none of ASE's
    store = FilesSource(str(tmp_path)).load(tmp_path / "cache")
    assert store.bad_records == []
    found = {item.name: item.labels for item in store}
    kept = {key: value for key, value in AWKWARD.items() if not math.isnan(value)}  # a store takes NaN for missing
    assert found == {
        "a.extxyz frame 1 water": kept, "a.extxyz frame 2 copper": {}, "b.db id 1 water": kept, "b.db id 2 copper": {},
        "c.json id 1": {"gap": 1.5}, "c.json id 2": {"relaxed": 1.0},
    }  # fmt: skip


def test_json_that_is_no_database_is_named(tmp_path: Path) -> None:
    for text, reason in (('{"a": 1}', "unknown format '.json'"), ('{"nextid": 2', "ASE cannot read this database")):
        (tmp_path / "a.json").write_text(text + '\n"nextid"' * reason.startswith("ASE"))
        (bad,) = parse_file(tmp_path / "a.json")
        assert isinstance(bad, BadRecord) and reason in bad.reason and bad.name == "a.json"


def test_appending_and_beginning_anew(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    write_ase_database(path, [WATER, COPPER])
    write_ase_database(path, [COPPER], start=2)
    for _ in range(2):  # a batch that is written again takes its own place
        write_ase_database(path, [WATER, COPPER], start=3)
    assert [row.index for row in ase.db.connect(path).select()] == [0, 1, 2, 3, 4]
    write_ase_database(path, [COPPER])
    assert [(row.id, row.index) for row in ase.db.connect(path).select()] == [(1, 0)]
    for append, count in ((False, 1), (True, 2), (False, 1)):
        write_extxyz(tmp_path / "a.extxyz", [COPPER], append=append)
        assert len(ase.io.read(tmp_path / "a.extxyz", ":")) == count


def test_a_batch_that_fails_enters_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    write_ase_database(path, [WATER])
    for broken, error in ((replace(COPPER, labels={"name": 1.0}), ValueError), (COPPER, AttributeError)):
        with pytest.raises(error):
            write_ase_database(path, [COPPER, broken], [{}, {"request": {1, 2}}], start=1)
        assert ase.db.connect(path).count() == 1
    assert list(tmp_path.iterdir()) == [path]


def test_a_killed_process_leaves_whole_batches(tmp_path: Path) -> None:
    script = (
        "import os, sys\nfrom ase.build import bulk\nfrom ase.db.sqlite import SQLite3Database\n"
        "from polydit.data.chemistry.formats import write_ase_database\n"
        "from polydit.data.chemistry.structure import AtomicStructure\n"
        "copper = AtomicStructure.from_ase(bulk('Cu'))\nwrite_ase_database(sys.argv[1], [copper] * 3)\n"
        "write, rows = SQLite3Database._write, []\n"
        "def dying(self, *args):\n    rows.append(0)\n    len(rows) < 3 or os._exit(9)\n    return write(self, *args)\n"
        "SQLite3Database._write = dying\nwrite_ase_database(sys.argv[1], [copper] * 3, start=3)\n"
    )
    path = tmp_path / "a.db"
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 9, done.stderr
    assert [row.index for row in ase.db.connect(path).select()] == [0, 1, 2]
    path.with_name("a.db.lock").unlink(missing_ok=True)  # ASE's own, of the process that died
    write_ase_database(path, [COPPER] * 3, start=3)
    assert [row.index for row in ase.db.connect(path).select()] == [0, 1, 2, 3, 4, 5]
