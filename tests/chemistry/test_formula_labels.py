"""What a formula tells beside its elements: labels of molecules in training, and of requests that name all atoms."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rdkit import Chem

from polydit.data.chemistry.collate import collate
from polydit.data.chemistry.structure import AtomicStructure
from polydit.domains.chemistry.gfmdiff.codec import AtomPointCodec
from polydit.domains.chemistry.valence import count_unsaturation, usual_valences
from polydit.platform.requests import Request

MOLECULES = {
    "ethanol": "CCO", "benzene": "c1ccccc1", "acetonitrile": "CC#N", "cubane": "C12C3C4C1C5C2C3C45",
    "caffeine": "CN1C=NC2=C1C(=O)N(C(=O)N2C)C", "chloroform": "ClC(Cl)Cl", "dimethyl sulfide": "CSC", "methane": "C",
}


def numbers_of(smiles: str) -> list[int]:
    return [atom.GetAtomicNum() for atom in Chem.AddHs(Chem.MolFromSmiles(smiles)).GetAtoms()]


@pytest.mark.parametrize("name", MOLECULES)
def test_unsaturation_is_rings_and_further_bonds_that_rdkit_sees(name: str) -> None:
    molecule = Chem.MolFromSmiles(MOLECULES[name])
    Chem.Kekulize(molecule, clearAromaticFlags=True)
    further = sum(int(bond.GetBondTypeAsDouble()) - 1 for bond in molecule.GetBonds())
    rings = molecule.GetNumBonds() - molecule.GetNumAtoms() + 1
    numbers = torch.tensor([[*numbers_of(MOLECULES[name]), 0, 0]])
    assert count_unsaturation(numbers, numbers > 0, usual_valences(17)).tolist() == [rings + further]


@given(st.lists(st.sampled_from([1, 6, 7, 8, 9]), min_size=1, max_size=30), st.integers(0, 5))
def test_neither_order_nor_padding_changes_it(elements: list[int], padding: int) -> None:
    shuffled = list(np.random.default_rng(len(elements)).permutation(elements))
    numbers = torch.tensor([elements + [0] * padding, shuffled + [0] * padding])
    first, second = count_unsaturation(numbers, numbers > 0, usual_valences(9)).tolist()
    usual = {1: 1, 6: 4, 7: 3, 8: 2, 9: 1}
    assert first == second == 1 + sum(count * (usual[number] - 2) for number, count in Counter(elements).items()) / 2


def test_elements_without_a_usual_valence_leave_it_open() -> None:
    numbers = torch.tensor([[26, 6, 0], [6, 1, 1], [0, 0, 0]])
    assert count_unsaturation(numbers, numbers > 0, usual_valences(30)).isnan().tolist() == [True, False, True]


def test_a_request_that_names_all_atoms_tells_what_training_tells() -> None:
    codec = AtomPointCodec(["H", "C", "N", "O"])
    numbers = numbers_of(MOLECULES["ethanol"])
    structure = AtomicStructure(np.array(numbers), np.random.default_rng(0).normal(size=(len(numbers), 3)))
    trained = codec.encode(collate([structure]), torch.Generator())[1].labels
    asked = codec.layout([Request(0, {"elements": "C2H6O"}), Request(1, {"num_atoms": 4})]).labels
    for name in ("num_atoms", "composition", "unsaturation"):
        torch.testing.assert_close(asked[name][:1], trained[name])
    assert asked["num_atoms"].tolist() == [9, 4]
    assert asked["unsaturation"].isnan().tolist() == [False, True]
    assert not asked["composition"][1].any()


def test_crystals_have_no_unsaturation() -> None:
    crystal = AtomicStructure(np.array([6, 6]), np.array([[0.0] * 3, [0.89] * 3]), np.eye(3) * 3.57)
    codec = AtomPointCodec(["C"])
    assert codec.labels_of(collate([crystal]))["unsaturation"].isnan().all()
