"""Structures to pymatgen and ASE and back, by value and through their files."""

from __future__ import annotations

from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.build import bulk, molecule
from hypothesis import HealthCheck, given, settings
from pymatgen.core import Lattice, Structure

from polydit.data.chemistry.lattice import find_space_group, niggli_reduce
from polydit.data.chemistry.sources import FilesSource
from polydit.data.chemistry.structure import AtomicStructure

from .conftest import structures


@settings(max_examples=40, deadline=None)
@given(item=structures())
def test_ase_round_trip(item: AtomicStructure) -> None:
    back = AtomicStructure.from_ase(item.to_ase())
    np.testing.assert_array_equal(back.numbers, item.numbers)
    np.testing.assert_array_equal(back.positions, item.positions)
    assert back.name == item.name
    assert back.is_periodic == item.is_periodic
    if item.cell is not None:
        np.testing.assert_array_equal(back.cell, item.cell)


@settings(max_examples=40, deadline=None)
@given(item=structures())
def test_pymatgen_round_trip(item: AtomicStructure) -> None:
    if item.cell is None:
        with pytest.raises(ValueError, match="has no cell"):
            item.to_pymatgen()
        return
    back = AtomicStructure.from_pymatgen(item.to_pymatgen(), item.name)
    np.testing.assert_array_equal(back.numbers, item.numbers)
    np.testing.assert_allclose(back.cell, item.cell)
    difference = back.fractional - item.fractional
    np.testing.assert_allclose(difference - np.round(difference), 0, atol=1e-9)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(item=structures())
def test_extended_xyz_files(item: AtomicStructure, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("files")
    ase.io.write(folder / "one.extxyz", item.to_ase())
    back = FilesSource(str(folder), minimum_distance=0.0).load(folder / "cache")[0]
    np.testing.assert_array_equal(back.numbers, item.numbers)
    np.testing.assert_allclose(back.positions, item.positions, atol=1e-6)
    assert back.is_periodic == item.is_periodic


def test_labels_travel() -> None:
    atoms = molecule("H2O")
    atoms.info.update(gap=1.5, count=3, note="text")
    structure = AtomicStructure.from_ase(atoms, "water")
    assert structure.labels == {"gap": 1.5, "count": 3.0}
    assert structure.to_ase().info["gap"] == 1.5


def test_known_space_groups_and_reductions() -> None:
    rock_salt = AtomicStructure.from_ase(bulk("NaCl", "rocksalt", a=5.64, cubic=True))
    assert find_space_group(rock_salt) == 225
    assert find_space_group(AtomicStructure.from_ase(bulk("Si"))) == 227
    assert find_space_group(AtomicStructure.from_ase(molecule("CH4"))) == 0
    skewed = Structure(Lattice([[4, 0, 0], [4, 4, 0], [0, 0, 4]]), ["Po"], [[0, 0, 0]])
    reduced = niggli_reduce(AtomicStructure.from_pymatgen(skewed, "polonium", {"gap": 0.0}))
    np.testing.assert_allclose(reduced.to_pymatgen().lattice.parameters, [4, 4, 4, 90, 90, 90])
    assert (reduced.name, reduced.labels) == ("polonium", {"gap": 0.0})


def test_partial_occupancy_is_refused() -> None:
    alloy = Structure(Lattice.cubic(3.0), [{"Cu": 0.5, "Au": 0.5}], [[0, 0, 0]])
    with pytest.raises(ValueError, match=r"alloy: partial occupancy; order the structure"):
        AtomicStructure.from_pymatgen(alloy, "alloy")


def test_a_file_of_ours_is_read_by_pymatgen(tmp_path: Path) -> None:
    rock_salt = AtomicStructure.from_ase(bulk("NaCl", "rocksalt", a=5.64))
    rock_salt.to_pymatgen().to(str(tmp_path / "POSCAR"))
    store = FilesSource(str(tmp_path / "POSCAR")).load(tmp_path / "cache")
    assert store.space_group.tolist() == [225]
    assert sorted(store[0].numbers.tolist()) == [11, 17]
