import numpy as np
import pytest
from ase.build import molecule
from ase.collections import g2
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from polydit.data.chemistry.structure import AtomicStructure
from polydit.domains.chemistry.evaluation.stability import (
    bond_table,
    check_stability,
    find_stable_atoms,
    infer_bond_orders,
)

# Rings and groups whose bonds lie between two orders, which a rule of lengths cannot resolve.
BETWEEN_ORDERS = {"C6H6", "C5H5N", "CH3NO2", "O3", "NCCN", "N2O"}


def from_ase(name):
    return AtomicStructure.from_ase(molecule(name), name)


def infer_valences(structure):
    return infer_bond_orders(structure.numbers, structure.positions).sum(axis=1).tolist()


@pytest.mark.parametrize(
    ("name", "valences"),
    [
        ("CH4", [4, 1, 1, 1, 1]),
        ("H2O", [2, 1, 1]),
        ("C2H4", [4, 4, 1, 1, 1, 1]),
        ("HCN", [4, 3, 1]),
        ("CO2", [4, 2, 2]),
        ("C2H2", [4, 4, 1, 1]),
    ],
)
def test_small_molecules_have_their_textbook_valences(name, valences):
    structure = from_ase(name)
    assert infer_valences(structure) == valences
    assert check_stability(structure).all()


def list_closed_shell_molecules():
    for name in g2.names:
        atoms = molecule(name)
        if set(atoms.numbers) <= {1, 6, 7, 8, 9} and not atoms.get_initial_magnetic_moments().any():
            yield name


def test_the_g2_molecules_have_the_valences_that_rdkit_finds_by_another_method():
    from rdkit import Chem
    from rdkit.Chem import rdDetermineBonds

    names = list(list_closed_shell_molecules())
    assert len(names) == 73
    for name in names:
        structure = from_ase(name)
        lines = [f"{n} {x:.6f} {y:.6f} {z:.6f}" for n, (x, y, z) in zip(
            molecule(name).get_chemical_symbols(), structure.positions, strict=True)]
        perceived = Chem.MolFromXYZBlock("\n".join([str(len(lines)), "", *lines]))
        rdDetermineBonds.DetermineBonds(perceived, charge=0)
        Chem.Kekulize(perceived, clearAromaticFlags=True)
        valences = [sum(int(b.GetBondTypeAsDouble()) for b in a.GetBonds()) for a in perceived.GetAtoms()]
        assert (infer_valences(structure) == valences) == (name not in BETWEEN_ORDERS), name


def test_benzene_is_unstable_by_the_published_rule():
    assert check_stability(from_ase("C6H6")).tolist() == [False] * 6 + [True] * 6


def test_a_stretched_bond_costs_one_unit_at_both_ends():
    structure = from_ase("CH4")
    positions = structure.positions.copy()
    bond = positions[1] - positions[0]
    positions[1] += 0.3 * bond / np.linalg.norm(bond)
    stretched = AtomicStructure(structure.numbers, positions)
    assert infer_valences(stretched) == [3, 0, 1, 1, 1]
    assert check_stability(stretched).tolist() == [False, False, True, True, True]


@pytest.mark.parametrize(
    ("pair", "distance", "order"),
    [
        ((6, 6), 1.2299, 3), ((6, 6), 1.2301, 2), ((6, 6), 1.3899, 2), ((6, 6), 1.3901, 1), ((6, 6), 1.6399, 1),
        ((6, 6), 1.6401, 0), ((6, 7), 1.1899, 3), ((8, 8), 1.2599, 2), ((1, 6), 1.1899, 1), ((1, 6), 1.1901, 0),
        ((7, 8), 1.0, 2), ((1, 1), 0.1, 1), ((2, 6), 1.0, 0), ((26, 8), 1.9, 0),
    ],
)
def test_orders_change_at_the_table_lengths_plus_their_margins(pair, distance, order):
    orders = infer_bond_orders(np.array(pair), np.array([[0.0, 0, 0], [0, distance, 0]]))
    assert orders.tolist() == [[0, order], [order, 0]]


@pytest.mark.parametrize(
    ("number", "valences"),
    [(1, [1]), (5, [3]), (6, [4]), (7, [3]), (8, [2]), (9, [1]), (15, [3, 5]), (16, [4]), (80, [1, 2]), (83, [3, 5]),
     (2, []), (26, []), (118, [])],
)
def test_allowed_valences(number, valences):
    for valence in range(12):
        # A star whose centre has the wanted sum of orders, told as a matrix of orders.
        orders = np.zeros((2, 2), dtype=np.int64)
        orders[0, 1] = orders[1, 0] = valence
        assert find_stable_atoms(np.array([number, number]), orders).all() == (valence in valences)


def test_the_table_is_symmetric_and_higher_orders_are_shorter():
    thresholds = bond_table().thresholds
    assert (thresholds == thresholds.transpose(0, 2, 1)).all()
    for lower, higher in ((0, 1), (1, 2)):
        known = np.isfinite(thresholds[higher])
        assert (thresholds[higher][known] < thresholds[lower][known]).all()


@settings(max_examples=25)
@given(
    st.sampled_from(["CH3CH2OH", "CH3CONH2", "C4H4O", "butadiene", "C6H6"]),
    st.integers(0, 10_000),
)
def test_motion_and_order_of_atoms_change_nothing(name, seed):
    generator = np.random.default_rng(seed)
    structure = from_ase(name)
    order = generator.permutation(len(structure.numbers))
    rotation = Rotation.random(rng=generator)
    moved = AtomicStructure(
        structure.numbers[order], rotation.apply(structure.positions)[order] + generator.normal(scale=10, size=3)
    )
    assert (check_stability(moved) == check_stability(structure)[order]).all()


def test_atoms_without_finite_places_are_unstable():
    structure = from_ase("CH4")
    assert not check_stability(AtomicStructure(structure.numbers, np.full_like(structure.positions, np.nan))).any()
