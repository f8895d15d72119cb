"""The built-in set: the same every time, and chemically what it says it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Species
from rdkit import Chem

from polydit.data.chemistry.builtin import BuiltinSource
from polydit.data.chemistry.builtin.crystals import (
    ANIONS,
    CATIONS,
    Compound,
    build_crystal,
    enumerate_compounds,
    geometry_of,
    ionic_radius,
    parse_ion,
)
from polydit.data.chemistry.builtin.molecules import MAX_ATOMS, MAX_HEAVY_ATOMS, enumerate_smiles, grow, is_wanted
from polydit.data.chemistry.builtin.prototypes import PROTOTYPES
from polydit.data.chemistry.lattice import find_space_group
from polydit.data.chemistry.store import StructureStore
from polydit.platform.errors import ConfigurationError


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> StructureStore:
    return BuiltinSource(count=30, workers=0).load(tmp_path_factory.mktemp("builtin"))


def test_counts_and_labels(store: StructureStore) -> None:
    assert (int(store.periodic.sum()), len(store), store.bad_records) == (30, 60, [])
    assert store.num_atoms.max() <= 20
    assert set(store[0].labels) == {"logp"}
    crystal = store[50]
    assert crystal.labels["volume_per_atom"] == pytest.approx(crystal.to_pymatgen().volume / len(crystal.numbers))


def test_the_same_bytes_every_time_and_from_workers(
    store: StructureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("polydit.data.chemistry.sources.base.SERIAL_LIMIT", 1)
    assert BuiltinSource(count=30, workers=1).load(tmp_path).meta["digest"] == store.meta["digest"]


def test_molecules_are_distinct_and_small() -> None:
    smiles = enumerate_smiles(300)
    assert len(set(smiles)) == 300
    assert smiles == enumerate_smiles(300)
    mols = [Chem.MolFromSmiles(entry) for entry in smiles]
    assert [Chem.MolToSmiles(mol) for mol in mols] == smiles
    assert max(mol.GetNumHeavyAtoms() for mol in mols) <= MAX_HEAVY_ATOMS
    assert max(Chem.AddHs(mol).GetNumAtoms() for mol in mols) <= MAX_ATOMS
    assert {"CCO", "C1CC1", "CC#N", "CC(C)=O"} <= set(smiles)
    assert {atom.GetSymbol() for mol in mols for atom in mol.GetAtoms()} == {"C", "N", "O", "F"}
    assert all(atom.GetFormalCharge() == atom.GetNumRadicalElectrons() == 0 for mol in mols for atom in mol.GetAtoms())


def test_growth_from_ethane_is_complete() -> None:
    chains = {"CCC", "C=CC", "C#CC", "CCN", "CC=N", "CC#N", "CCO", "CC=O", "CCF"}
    assert set(grow("CC")) == chains | {"C1CC1", "C1CN1", "C1CO1", "C1=CC1", "C1#CC1", "C1=NC1"}
    assert not is_wanted("C1=CC1")
    assert not is_wanted("C1#CC1")


def test_geometries_are_bonded_as_their_smiles_say(store: StructureStore) -> None:
    for structure in (store[i] for i in range(0, 30, 2)):
        mol = Chem.AddHs(Chem.MolFromSmiles(structure.name))
        distances = np.linalg.norm(structure.positions[:, None] - structure.positions[None], axis=-1)
        for bond in mol.GetBonds():
            i, j = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
            assert 0.9 < distances[i, j] < 1.65


def test_crystals_are_neutral_and_of_their_prototype(store: StructureStore) -> None:
    for compound in enumerate_compounds(2000):
        charges = [parse_ion(ion)[1] for ion in compound.ions]
        assert sum(n * charge for n, charge in zip(compound.prototype.amounts, charges, strict=True)) == 0
    for place in range(30, 60, 2):
        assert find_space_group(store[place], precision=0.01) == store.space_group[place]


@pytest.mark.parametrize(
    ("prototype", "ions", "volume"),
    [
        ("rock salt", ("Na+", "Cl-"), 44.8),  # experiment: a = 5.640 A
        ("rock salt", ("Mg2+", "O2-"), 18.7),  # 4.212
        ("caesium chloride", ("Cs+", "Br-"), 79.1),  # 4.29
        ("zinc blende", ("Zn2+", "S2-"), 39.6),  # 5.41
        ("wurtzite", ("Zn2+", "O2-"), 23.8),  # 3.25, 5.207
        ("fluorite", ("Ca2+", "F-"), 40.8),  # 5.463
        ("rutile", ("Ti4+", "O2-"), 31.2),  # 4.594, 2.959
        ("anatase", ("Ti4+", "O2-"), 34.1),  # 3.785, 9.514
        ("corundum", ("Al3+", "O2-"), 42.5),  # 4.759, 12.991
        ("perovskite", ("Sr2+", "Ti4+", "O2-"), 59.5),  # 3.905
        ("spinel", ("Mg2+", "Al3+", "O2-"), 66.0),  # 8.083
        ("sodium ferrite", ("Li+", "Co3+", "O2-"), 32.2),  # 2.816, 14.05
        ("double perovskite", ("Cs+", "Na+", "In3+", "Cl-"), 292.2),  # 10.53
        ("potassium nickel fluoride", ("K+", "Ni2+", "F-"), 104.6),  # 4.00, 13.08
    ],
)
def test_volumes_are_near_experiment(prototype: str, ions: tuple[str, ...], volume: float) -> None:
    compound = Compound(next(entry for entry in PROTOTYPES if entry.name == prototype), ions)
    structure = build_crystal(compound).to_pymatgen()
    formulas = len(structure) / sum(compound.prototype.amounts)
    assert structure.volume / formulas == pytest.approx(volume, rel=0.13)  # Å^3; a few per cent in length


def test_every_prototype_has_compounds_and_its_coordination() -> None:
    compounds = enumerate_compounds(len(PROTOTYPES))
    assert sorted(compound.prototype.name for compound in compounds) == sorted(entry.name for entry in PROTOTYPES)
    for compound in compounds:
        structure = build_crystal(compound).to_pymatgen()
        radii = [ionic_radius(ion, n) for ion, n in zip(compound.ions, compound.prototype.coordination, strict=True)]
        for ion, radius, number in zip(compound.ions[:-1], radii[:-1], compound.prototype.coordination, strict=False):
            if number > 8:  # the large cation fills the hole that the others leave
                continue
            symbol = parse_ion(ion)[0]
            site = next(site for site in structure if site.specie.symbol == symbol)
            nearest = min(neighbour.nn_distance for neighbour in structure.get_neighbors(site, 6.0))
            assert nearest == pytest.approx(radius + radii[-1], rel=0.12), compound.name


def test_radii_are_those_of_shannon() -> None:
    assert (ionic_radius("Na+", 6), ionic_radius("O2-", 6), ionic_radius("Cl-", 6)) == (1.02, 1.40, 1.81)
    assert ionic_radius("Fe2+", 6) == 0.78  # high spin
    for ion in (*CATIONS, *ANIONS):
        species = Species.from_str(ion)
        assert (species.symbol, int(species.oxi_state)) == parse_ion(ion)


def test_misfits_and_too_many_are_refused(tmp_path: Path) -> None:
    perovskite = next(entry for entry in PROTOTYPES if entry.name == "perovskite")
    assert geometry_of(Compound(perovskite, ("Li+", "Pb2+", "I-"))) is None
    with pytest.raises(ConfigurationError, match="fewer than the 1000000 asked for"):
        BuiltinSource("crystals", 1_000_000).load(tmp_path)
    with pytest.raises(ValueError, match="kind is 'molecules'"):
        BuiltinSource("proteins")  # type: ignore[arg-type]
