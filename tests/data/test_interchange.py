"""Structures to ASE, pymatgen, RDKit and torch-geometric and back, with every label, name, cell and coordinate."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import ase
import numpy as np
import pytest
import torch
from ase.build import bulk, fcc111, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import DummySpecies, Element, Lattice, Molecule, Species, Structure
from rdkit import Chem
from rdkit.Chem import AllChem
from torch_geometric.data import Batch, Data

from polydit.data.chemistry.interchange import (
    from_ase,
    from_pymatgen,
    from_rdkit,
    from_torch_geometric,
    to_ase,
    to_pymatgen,
    to_rdkit,
    to_torch_geometric,
)
from polydit.data.chemistry.lattice import find_space_group, niggli_reduce
from polydit.data.chemistry.sources import FilesSource
from polydit.data.chemistry.structure import AtomicStructure

from .conftest import structures

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
COORDINATES = st.floats(-1e6, 1e6)


@st.composite
def labelled(draw: st.DrawFn, periodic: bool | None = None, dummies: bool = True) -> AtomicStructure:
    """Any structure that can be written down: odd names, NaN, cells left-handed, skewed or a thousand to one."""
    count = draw(st.integers(1, 6))
    numbers = draw(st.lists(st.integers(0 if dummies else 1, 118), min_size=count, max_size=count))
    positions = draw(st.lists(COORDINATES, min_size=3 * count, max_size=3 * count))
    cell = None
    if draw(st.booleans()) if periodic is None else periodic:
        rows = np.diag(draw(st.lists(st.floats(1, 1000), min_size=3, max_size=3)))
        skew = draw(st.lists(st.floats(-50, 50), min_size=3, max_size=3))
        rows[1, 0], rows[2, 0], rows[2, 1] = skew
        cell = rows * draw(st.sampled_from([1.0, -1.0])) @ _turn(draw(st.floats(0, 3)))
    names = TEXT.filter(lambda name: name not in ("name", "labels"))
    labels = draw(st.dictionaries(names, st.floats(), max_size=4))
    return AtomicStructure(
        np.array(numbers, dtype=np.int64), np.array(positions).reshape(-1, 3), cell, labels, draw(TEXT)
    )


def _turn(angle: float) -> np.ndarray:
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1.0]])


def assert_same(back: AtomicStructure, item: AtomicStructure, positions: bool = True) -> None:
    """Every bit the same, NaN equal to itself."""
    assert back.numbers.dtype == np.int64 and back.positions.dtype == np.float64
    np.testing.assert_array_equal(back.numbers, item.numbers)
    if positions:
        assert back.positions.tobytes() == item.positions.tobytes()
    assert (back.cell is None) == (item.cell is None)
    if back.cell is not None and item.cell is not None:
        assert back.cell.dtype == np.float64 and back.cell.tobytes() == item.cell.tobytes()
    assert back.labels.keys() == item.labels.keys()
    for key, value in item.labels.items():
        np.testing.assert_equal(back.labels[key], value)
        assert isinstance(back.labels[key], float)
    assert back.name == item.name


@settings(max_examples=80, deadline=None)
@given(item=labelled())
def test_ase_round_trip(item: AtomicStructure) -> None:
    assert_same(AtomicStructure.from_ase(item.to_ase()), item)


@settings(max_examples=80, deadline=None)
@given(item=labelled())
def test_pymatgen_round_trip(item: AtomicStructure) -> None:
    back = AtomicStructure.from_pymatgen(item.to_pymatgen())
    assert_same(back, item, positions=not item.is_periodic)
    if item.cell is not None:  # pymatgen keeps fractions of the cell, so coordinates are computed again
        size = np.abs(item.positions).max() + np.abs(item.cell).max()
        np.testing.assert_allclose(back.positions, item.positions, rtol=0, atol=1e-11 * size)


@settings(max_examples=80, deadline=None)
@given(item=labelled(periodic=False))
def test_rdkit_round_trip(item: AtomicStructure) -> None:
    mol = item.to_rdkit(sanitize=False)
    assert mol.GetNumConformers() == 1
    assert_same(AtomicStructure.from_rdkit(mol), item)


@settings(max_examples=80, deadline=None)
@given(item=labelled())
def test_torch_geometric_round_trip(item: AtomicStructure) -> None:
    assert_same(AtomicStructure.from_torch_geometric(item.to_torch_geometric()), item)


@settings(max_examples=15, deadline=None)
@given(item=structures())
def test_one_library_after_the_other(item: AtomicStructure) -> None:
    item = replace(item, labels={"gap": 1 / 3, "x": math.nan})
    back = from_torch_geometric(to_torch_geometric(from_ase(to_ase(item))))
    if not item.is_periodic:
        back = from_rdkit(to_rdkit(from_pymatgen(to_pymatgen(back)), sanitize=False))  # type: ignore[arg-type]
    assert_same(back, item)


def test_molecules_that_rdkit_accepts_have_bonds_and_come_back() -> None:
    for name in ("CH3CH2OH", "C2H2", "CH3CONH2"):
        item = replace(AtomicStructure.from_ase(molecule(name), name), labels={"gap": 0.1})
        mol = item.to_rdkit()
        assert mol is not None and mol.GetNumBonds() >= len(item.numbers) - 1
        assert_same(AtomicStructure.from_rdkit(mol), item)
    assert AtomicStructure.from_ase(molecule("CO2")).to_rdkit().GetNumBonds() == 2
    with pytest.raises(ValueError, match="to_pymatgen"):
        AtomicStructure.from_ase(bulk("Cu")).to_rdkit()


def test_rdkit_keeps_hydrogens_and_the_conformer_asked_for() -> None:
    mol = Chem.AddHs(Chem.MolFromSmiles("CCO"))
    AllChem.EmbedMultipleConfs(mol, 3, randomSeed=1)
    mol.SetProp("_Name", "ethanol")
    mol.SetIntProp("count", 3)
    mol.SetBoolProp("measured", True)
    mol.SetProp("source", "text")
    item = AtomicStructure.from_rdkit(mol, conformer=2)
    np.testing.assert_array_equal(item.positions, mol.GetConformer(2).GetPositions())
    assert (len(item.numbers), item.name, item.labels) == (9, "ethanol", {"count": 3.0, "measured": 1.0})
    with pytest.raises(ValueError, match=r"no conformer 7; the molecule has \[0, 1, 2\]"):
        AtomicStructure.from_rdkit(mol, conformer=7)
    for lacking, reason in ((Chem.RemoveHs(mol), "6 hydrogens have no"), (Chem.MolFromSmiles("C"), "no 3D")):
        with pytest.raises(ValueError, match=reason):
            AtomicStructure.from_rdkit(lacking)
    block = Chem.MolFromMolBlock(Chem.MolToMolBlock(Chem.RemoveHs(mol)), sanitize=False)
    with pytest.raises(ValueError, match="6 hydrogens have no"):  # of a molecule that RDKit has never looked at
        AtomicStructure.from_rdkit(block)


def test_deuterium_is_hydrogen_and_dummies_are_number_zero() -> None:
    heavy = Chem.AddHs(Chem.MolFromSmiles("[2H]O*"))
    AllChem.EmbedMolecule(heavy, randomSeed=0)
    assert sorted(AtomicStructure.from_rdkit(heavy).numbers.tolist()) == [0, 1, 8]
    water = Molecule([Element("D"), Species("O", -2), DummySpecies("Xa")], np.eye(3))
    assert AtomicStructure.from_pymatgen(water).numbers.tolist() == [1, 8, 0]
    assert AtomicStructure.from_ase(ase.Atoms("XH", positions=np.eye(3)[:2])).numbers.tolist() == [0, 1]
    dummy = AtomicStructure(np.array([0, 1]), np.eye(3)[:2])
    assert dummy.to_ase().get_chemical_symbols() == ["X", "H"]
    assert [atom.GetSymbol() for atom in dummy.to_rdkit(sanitize=False).GetAtoms()] == ["*", "H"]
    assert isinstance(dummy.to_pymatgen()[0].specie, DummySpecies)


def test_a_store_refuses_dummies_by_name(tmp_path: Path) -> None:
    ase.io.write(tmp_path / "a.extxyz", [ase.Atoms("X"), ase.Atoms("H")])
    store = FilesSource(str(tmp_path / "a.extxyz")).load(tmp_path / "cache")
    (bad,) = store.bad_records
    assert bad.name == "a.extxyz frame 1" and "atomic number 0" in bad.reason


def test_integers_flags_text_and_numbers_too_large() -> None:
    atoms = molecule("H2O")
    atoms.info.update(gap=1.5, count=3, n=np.int32(4), flag=np.True_, note="text", huge=10**400, x=1j, vector=[1.0])
    structure = AtomicStructure.from_ase(atoms, "water")
    assert structure.labels == {"gap": 1.5, "count": 3.0, "n": 4.0, "flag": 1.0}
    assert structure.to_ase().info == {**structure.labels, "name": "water"}


@pytest.mark.parametrize("to", [to_ase, to_pymatgen, to_rdkit, to_torch_geometric])
@pytest.mark.parametrize("label", ["name", "labels"])
def test_labels_named_like_the_name_are_refused(to: Callable[[AtomicStructure], object], label: str) -> None:
    item = AtomicStructure(np.array([1]), np.zeros((1, 3)), None, {label: 1.0}, "proton")
    with pytest.raises(ValueError, match=f"proton has a label '{label}'"):
        to(item)


def test_energies_count_for_the_positions_they_were_found_at() -> None:
    atoms = bulk("Cu")
    atoms.calc = EMT()
    assert "energy" not in AtomicStructure.from_ase(atoms).labels  # nothing is calculated on the way
    energy = atoms.get_potential_energy()
    assert AtomicStructure.from_ase(atoms).labels == {"energy": energy, "free_energy": energy}
    atoms.rattle(0.1)
    assert AtomicStructure.from_ase(atoms).labels == {}
    read = molecule("CO2")
    read.calc = SinglePointCalculator(read, energy=-3.5, forces=np.zeros((3, 3)))
    assert AtomicStructure.from_ase(read).labels == {"energy": -3.5}
    read.positions += 1e-3 * np.eye(3)
    assert AtomicStructure.from_ase(read).labels == {}


def test_slabs_and_boxes() -> None:
    slab = fcc111("Cu", (1, 1, 2), vacuum=5.0)
    assert slab.pbc.tolist() == [True, True, False]
    item = AtomicStructure.from_ase(slab)
    np.testing.assert_array_equal(item.cell, slab.cell.array)
    with pytest.raises(ValueError, match=r"2 of 3 directions, .* atoms.center\(vacuum"):
        AtomicStructure.from_ase(fcc111("Cu", (1, 1, 2)))
    boxed = molecule("H2O", vacuum=4.0)
    assert boxed.cell.volume > 0 and AtomicStructure.from_ase(boxed).cell is None


def test_images_stay_unless_they_are_to_be_wrapped() -> None:
    salt = replace(AtomicStructure.from_ase(bulk("NaCl", "rocksalt", a=5.64)), name="salt")
    moved = replace(salt, positions=salt.positions + np.array([[0.0, 0, 0], [0, 0, 56.4]]))
    np.testing.assert_allclose(moved.to_pymatgen().cart_coords, moved.positions, atol=1e-12)
    wrapped = moved.to_pymatgen(wrap=True)
    assert wrapped.frac_coords.min() >= 0 and wrapped.frac_coords.max() < 1
    assert moved.to_pymatgen().distance_matrix == pytest.approx(wrapped.distance_matrix)


def test_torch_geometric_data_are_batched_and_foreign_ones_read() -> None:
    items = [replace(AtomicStructure.from_ase(molecule(name), name), labels={"gap": gap, "x": 0.0})
             for name, gap in (("H2O", 1.5), ("CH4", 2.5))]
    batch = Batch.from_data_list([item.to_torch_geometric() for item in items])
    assert batch.labels["gap"].tolist() == [1.5, 2.5] and batch.name == ["H2O", "CH4"]
    assert_same(AtomicStructure.from_torch_geometric(batch[1]), items[1])
    qm9 = Data(z=torch.tensor([8, 1, 1]), pos=torch.eye(3), y=torch.tensor([[0.5, 0.25]]), idx=torch.tensor([3]))
    item = AtomicStructure.from_torch_geometric(qm9, "water", targets=["mu", "gap"])
    assert (item.labels, item.name, item.positions.dtype) == ({"mu": 0.5, "gap": 0.25}, "water", np.float64)
    with pytest.raises(ValueError, match="1 targets are named, but y holds 2 numbers"):
        AtomicStructure.from_torch_geometric(qm9, targets=["mu"])
    with pytest.raises(ValueError, match="data without z: give atomic numbers"):
        AtomicStructure.from_torch_geometric(Data(pos=torch.eye(3)))


def test_real_molecules_and_crystals(shared_data: Path) -> None:
    shard = np.load(shared_data / "molecules" / "qm9" / "qm9_05.npz")
    ends = np.cumsum(shard["num_atoms"])[:20]
    split = (np.split(shard[key][: ends[-1]], ends[:-1]) for key in ("atomic_numbers", "positions_1e10"))
    for index, (numbers, positions) in enumerate(zip(*split, strict=True)):
        item = AtomicStructure(numbers.astype(np.int64), positions / 1e10, None, {"index": float(index)}, "qm9")
        assert_same(from_ase(to_ase(item)), item)
        assert_same(from_pymatgen(to_pymatgen(item)), item)
        assert_same(from_torch_geometric(to_torch_geometric(item)), item)
        mol = item.to_rdkit()
        assert mol is not None
        assert_same(from_rdkit(mol), item)
    shard = np.load(shared_data / "crystals" / "mp_le20" / "mp_03.npz")
    ends = np.cumsum(shard["num_atoms"])[:20]
    split = (np.split(shard[key][: ends[-1]], ends[:-1]) for key in ("atomic_numbers", "frac_coords_1e8"))
    for index, (numbers, fractions) in enumerate(zip(*split, strict=True)):
        cell = np.array(Lattice.from_parameters(*shard["lattice"][index]).matrix)
        item = AtomicStructure(numbers.astype(np.int64), fractions / 1e8 @ cell, cell, {"index": float(index)}, "mp")
        assert_same(from_ase(to_ase(item)), item)
        assert_same(from_torch_geometric(to_torch_geometric(item)), item)
        back = from_pymatgen(to_pymatgen(item))
        assert_same(back, item, positions=False)
        np.testing.assert_allclose(back.positions, item.positions, rtol=0, atol=1e-12)


def test_changing_what_came_in_changes_nothing_that_went_out() -> None:
    item = AtomicStructure.from_ase(bulk("Cu"), "copper")
    for copy in (item.to_ase().positions, item.to_torch_geometric().pos, item.to_torch_geometric().cell):
        copy += 1.0
    atoms = item.to_ase()
    back = AtomicStructure.from_ase(atoms)
    atoms.positions += 1.0
    assert_same(back, item)


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
