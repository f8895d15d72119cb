"""The binary form gives back what went in, names what it refuses, and appears whole or not at all."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polydit.data.chemistry.store import StructureStore
from polydit.data.chemistry.structure import AtomicStructure
from polydit.data.chemistry.writer import BadRecordError, StoreWriter
from polydit.platform.errors import DataError

from .conftest import structures

GOOD = AtomicStructure(np.array([6, 8]), np.array([[0.0, 0, 0], [0, 0, 1.13]]), None, {}, "carbon monoxide")


def assert_equal(a: AtomicStructure, b: AtomicStructure) -> None:
    assert a.name == b.name
    assert a.labels == b.labels
    np.testing.assert_array_equal(a.numbers, b.numbers)
    np.testing.assert_array_equal(a.positions, b.positions)
    assert (a.cell is None) == (b.cell is None)
    if a.cell is not None:
        np.testing.assert_array_equal(a.cell, b.cell)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(items=st.lists(structures(), min_size=1, max_size=8))
def test_round_trip_is_exact(items: list[AtomicStructure], tmp_path_factory: pytest.TempPathFactory) -> None:
    store = StructureStore.write(items, tmp_path_factory.mktemp("store") / "s")
    assert len(store) == len(items)
    for stored, item in zip(store, items, strict=True):
        assert_equal(stored, item)


def test_labels_names_and_negative_places(mixed: list[AtomicStructure], tmp_path: Path) -> None:
    store = StructureStore.write(mixed, tmp_path / "s")
    assert_equal(store[-1], mixed[-1])
    with pytest.raises(IndexError, match="structure 40 of a store of 40"):
        store[40]
    np.testing.assert_array_equal(np.isnan(store.label("gap")), [not s.labels for s in mixed])
    assert np.isnan(store.label("absent")).all()


def test_arrays_are_memory_mapped_and_workers_get_a_path(mixed: list[AtomicStructure], tmp_path: Path) -> None:
    store = StructureStore.write(mixed, tmp_path / "s")
    assert isinstance(store.positions.base, np.memmap)
    pickled = pickle.dumps(store)
    assert len(pickled) < 1000
    assert_equal(pickle.loads(pickled)[3], store[3])  # noqa: S301 - made one line above


def test_chunks_do_not_matter(
    mixed: list[AtomicStructure], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = StructureStore.write(mixed, tmp_path / "whole")
    monkeypatch.setattr("polydit.data.chemistry.writer.CHUNK", 3)
    assert StructureStore.write(mixed, tmp_path / "chunks").meta["digest"] == whole.meta["digest"]


def test_digest_depends_on_the_data_alone(mixed: list[AtomicStructure], tmp_path: Path) -> None:
    one, two = (StructureStore.write(mixed, tmp_path / name) for name in ("one", "two"))
    other = StructureStore.write(mixed[1:], tmp_path / "three")
    assert one.meta["digest"] == two.meta["digest"] != other.meta["digest"]


CUBE = 4.0 * np.eye(3)
BAD = {
    "not finite": AtomicStructure(np.array([6]), np.array([[0.0, np.nan, 0]]), None, {}, "x"),
    "no atoms": AtomicStructure(np.zeros(0, dtype=np.int64), np.zeros((0, 3)), None, {}, "x"),
    "atomic number 100 is outside the element table 1..99": AtomicStructure(
        np.array([6, 100]), np.array([[0.0, 0, 0], [0, 0, 2]]), None, {}, "x"
    ),
    "atomic number 0 is outside": AtomicStructure(np.array([0]), np.zeros((1, 3)), None, {}, "x"),
    "cell volume 0 Å": AtomicStructure(np.array([6]), np.zeros((1, 3)), np.zeros((3, 3)), {}, "x"),
    "0.100 Å apart": AtomicStructure(np.array([6, 6]), np.array([[0.0, 0, 0], [0, 0, 0.1]]), None, {}, "x"),
    "0.200 Å apart": AtomicStructure(np.array([6, 6]), np.array([[0.0, 0, 0.1], [0, 0, 3.9]]), CUBE, {}, "x"),
}


@pytest.mark.parametrize("reason", BAD)
def test_bad_records_are_named_and_skipped_or_refused(reason: str, tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "skip", on_error="skip") as writer:
        writer.add(GOOD)
        writer.add(BAD[reason])
    store = StructureStore.open(tmp_path / "skip")
    assert len(store) == 1
    assert [bad.name for bad in store.bad_records] == ["x"]
    assert reason in store.bad_records[0].reason
    with pytest.raises(BadRecordError, match=f"x: .*{reason}"), StoreWriter(tmp_path / "no", "raise") as refusing:
        refusing.add(BAD[reason])


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), StoreWriter(tmp_path / "s") as writer:
        writer.add(GOOD)
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_nothing_usable_is_an_error_with_the_first_reason(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="1 bad records; first: x: no atoms"), StoreWriter(tmp_path / "s") as writer:
        writer.add(BAD["no atoms"])
    assert list(tmp_path.iterdir()) == []


def test_the_faster_of_two_writers_wins(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "s") as slow:
        slow.add(GOOD)
        first = StructureStore.write([GOOD, GOOD], tmp_path / "s")
    assert len(StructureStore.open(tmp_path / "s")) == len(first) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_other_folders_and_schemas_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no meta\.json"):
        StructureStore.open(tmp_path)
    StructureStore.write([GOOD], tmp_path / "s")
    meta = tmp_path / "s" / "meta.json"
    good = json.loads(meta.read_text())
    meta.write_text(json.dumps({**good, "count": 2}))
    with pytest.raises(DataError, match="counts 2 structures"):
        StructureStore.open(tmp_path / "s")
    meta.write_text(json.dumps({**good, "schema": "polydit-structures-0"}))
    with pytest.raises(DataError, match="schema 'polydit-structures-0'"):
        StructureStore.open(tmp_path / "s")
