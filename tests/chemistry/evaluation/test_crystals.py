import csv
import gzip
import warnings

import numpy as np
import pytest
from ase.build import bulk
from pymatgen.core import Composition

from polydit.data.chemistry.lattice import niggli_reduce
from polydit.data.chemistry.structure import AtomicStructure
from polydit.domains.chemistry.evaluation.crystal_distributions import (
    estimate_coverage,
    estimate_wasserstein,
    fingerprint,
    measure_density,
)
from polydit.domains.chemistry.evaluation.crystal_matching import Comparison, compare_crystals
from polydit.domains.chemistry.evaluation.crystal_validity import (
    check_composition,
    measure_geometry,
    reduce_formula,
    write_formula,
)
from polydit.domains.chemistry.evaluation.crystals import CrystalEvaluator
from polydit.platform.requests import Request, Sample


def from_ase(atoms, name=""):
    return AtomicStructure.from_ase(atoms, name)


def salt(name="NaCl", a=5.64, kind="rocksalt"):
    return from_ase(bulk(name, kind, a=a), name)


def shuffle(structure, repeat, seed=0):
    """The same crystal in another cell, orientation, origin and order of atoms."""
    generator = np.random.default_rng(seed)
    atoms = structure.to_ase().repeat(repeat)
    atoms.translate(generator.normal(size=3))
    atoms.rotate(40, (1, 2, 3), rotate_cell=True)
    return from_ase(atoms[generator.permutation(len(atoms))])


def formula_of(text):
    return tuple(sorted((element.Z, int(count)) for element, count in Composition(text).items()))


def make_samples(*structures):
    return [Sample(Request(seed), structure) for seed, structure in enumerate(structures)]


def test_rocksalt_is_valid_with_its_known_measures():
    found = measure_geometry(salt())
    assert found.is_valid
    assert found.volume == pytest.approx(5.64**3 / 4)
    assert found.min_distance == pytest.approx(2.82)
    assert found.angles == pytest.approx((60, 60, 60))


def test_distances_are_periodic_and_know_images_of_the_same_atom():
    cell = np.diag([4.0, 4.0, 4.0])
    across = AtomicStructure(np.array([11, 17]), np.array([[0.1, 0, 0], [3.8, 0, 0]]), cell)
    assert measure_geometry(across).min_distance == pytest.approx(0.3)
    assert not measure_geometry(across).is_valid
    thin = AtomicStructure(np.array([11]), np.zeros((1, 3)), np.diag([0.4, 5.0, 5.0]))
    assert measure_geometry(thin).min_distance == pytest.approx(0.4)
    assert not measure_geometry(thin).is_valid


@pytest.mark.parametrize(
    ("cell", "valid"),
    [
        (np.diag([3.0, 3, 3]), True),
        (np.diag([0.6, 0.6, 0.6]), True),
        (np.diag([0.4, 0.4, 0.4]), False),
        (np.array([[3.0, 0, 0], [2.0, 2.2, 0], [0, 0, 3]]), False),
        (np.array([[3.0, 0, 0], [1.8, 2.4, 0], [0, 0, 3]]), True),
        (np.array([[3.0, 0, 0], [-2.1, 2.2, 0], [0, 0, 3]]), False),
        (np.zeros((3, 3)), False),
        (np.array([[3.0, 0, 0], [3.0, 0, 0], [0, 0, 3]]), False),
        (np.full((3, 3), np.nan), False),
        (np.diag([3.0, np.inf, 3]), False),
    ],
)
def test_cells_are_judged_by_volume_and_angles(cell, valid):
    assert measure_geometry(AtomicStructure(np.array([11]), np.zeros((1, 3)), cell)).is_valid == valid


def test_places_that_are_not_finite_are_not_valid():
    structure = salt()
    positions = structure.positions.copy()
    positions[0, 0] = np.nan
    assert not measure_geometry(AtomicStructure(structure.numbers, positions, structure.cell)).is_valid


@pytest.mark.parametrize("formula", ["NaCl", "TiO2", "Al2O3", "CaTiO3", "LiFePO4", "GaAs", "Si", "CuAu", "Ni3Al"])
def test_known_compounds_elements_and_alloys_can_balance_their_charges(formula):
    assert check_composition(formula_of(formula))


def test_mixed_valence_is_beyond_the_published_test():
    assert not check_composition(formula_of("Fe3O4"))


@pytest.mark.parametrize("formula", ["NaCl2", "Na2Cl", "CaF3", "NaO3"])
def test_impossible_compositions_cannot(formula):
    assert not check_composition(formula_of(formula))


def test_formulas_are_reduced():
    assert reduce_formula(shuffle(salt(), (2, 1, 3))) == ((11, 1), (17, 1))
    assert write_formula(((8, 2), (22, 1))) == "TiO2"


def test_the_same_crystal_is_found_in_any_cell_and_others_are_not():
    structures = [
        salt(), shuffle(salt(), (2, 1, 1)), salt("KCl", 6.29), salt("NaCl", 5.2, "zincblende"),
        shuffle(salt(), (1, 2, 2), 1), salt("NaCl", 5.7),
    ]
    known = [shuffle(salt("KCl", 6.29), (2, 2, 1)), salt()]
    found = compare_crystals(structures, known, time_limit=None, processes=0)
    assert [comparison.unique for comparison in found] == [True, False, True, True, False, False]
    assert [comparison.novel for comparison in found] == [False, False, False, True, False, False]
    found = compare_crystals(structures, None, time_limit=None, processes=0)
    assert [comparison.unique for comparison in found] == [True, False, True, True, False, False]
    assert {comparison.novel for comparison in found} == {None}
    assert compare_crystals(structures[:1], [salt("KCl")], None, 0) == [Comparison(True, True)]


def test_comparisons_beyond_the_limit_do_not_count_as_unique():
    structures = [salt(), salt("KCl"), salt("NaCl", 5.2, "zincblende")]
    found = compare_crystals(structures, [salt("MgO", 4.2)], time_limit=1e-4, processes=1)
    problem = "timed out after 0.0001 s"
    assert found == [
        Comparison(True, False, problem, True), Comparison(True, True), Comparison(False, False, problem, True)
    ]


@pytest.mark.parametrize(
    ("structure", "density"),
    [(salt(), 2.165), (from_ase(bulk("Si")), 2.329), (from_ase(bulk("Cu")), 8.96), (from_ase(bulk("Au")), 19.3)],
)
def test_densities_are_those_of_the_handbook(structure, density):
    assert measure_density(structure) == pytest.approx(density, rel=0.01)


def test_the_distance_of_distributions_is_known_for_a_shift():
    values = np.random.default_rng(0).normal(size=300)
    found = estimate_wasserstein(values + 0.7, values)
    assert found.value == pytest.approx(0.7)
    assert found.low < 0.7 < found.high
    assert found.count == 300
    assert estimate_wasserstein(values, values).value == 0


def test_fingerprints_do_not_depend_on_the_cell_that_describes_a_crystal():
    first = fingerprint([salt()])
    for other in (shuffle(salt(), (2, 1, 3)), niggli_reduce(shuffle(salt(), (1, 2, 1), 4))):
        again = fingerprint([other])
        assert again.radial == pytest.approx(first.radial, abs=1e-6)
        assert again.composition == pytest.approx(first.composition)
    scaled = fingerprint([salt("NaCl", 6.5)])
    assert scaled.radial == pytest.approx(first.radial, abs=1e-6)
    assert scaled.composition == pytest.approx(first.composition)


def test_coverage_is_one_against_itself_and_counts_what_is_missing():
    salts = [salt(), salt("KCl", 6.29), salt("MgO", 4.2)]
    structures = [*salts[:2], from_ase(bulk("Si")), from_ase(bulk("Cu")), salts[2]]
    whole = fingerprint(structures)
    same = estimate_coverage(whole, whole)
    assert same["coverage_recall"].value == same["coverage_precision"].value == 1
    silicon = estimate_coverage(fingerprint(structures[2:3]), whole)
    assert (silicon["coverage_recall"].value, silicon["coverage_recall"].count) == (0.2, 5)
    assert (silicon["coverage_precision"].value, silicon["coverage_precision"].count) == (1, 1)
    generator = np.random.default_rng(0)
    gas = [AtomicStructure(np.full(8, 14), generator.random((8, 3)) * 5.43, np.eye(3) * 5.43)]
    assert estimate_coverage(fingerprint(gas), whole)["coverage_precision"].value == 0


class Reference:
    """Stands for a data module."""

    def __init__(self, **splits):
        self.splits = splits

    def structures(self, split, domain=None, limit=None):
        assert domain == "crystal"
        return self.splits[split][:limit]


def test_every_number_has_the_count_it_is_of():
    squeezed = AtomicStructure(salt().numbers, salt().positions * 0.1, salt().cell * 0.1)
    unbalanced = from_ase(bulk("NaCl", "rocksalt", a=5.6).repeat((2, 1, 1)))
    unbalanced = AtomicStructure(np.array([11, 17, 17, 17]), unbalanced.positions, unbalanced.cell)
    samples = make_samples(salt(), shuffle(salt(), (1, 2, 1)), salt("KCl", 6.29), squeezed, unbalanced)
    evaluator = CrystalEvaluator(time_limit=None, processes=0)
    assert all(evaluator.accepts(sample) for sample in samples)
    molecule = AtomicStructure(np.array([1]), np.zeros((1, 3)))
    assert not evaluator.accepts(Sample(Request(0), molecule))
    evaluator.prepare(Reference(train=[salt()], test=[], val=[salt(), salt("KCl", 6.3), from_ase(bulk("Si"))]))
    evaluator.update(samples)
    found = {name.removeprefix("crystals/"): entry for name, entry in evaluator.compute().items()}
    assert {name: (entry.value, entry.count) for name, entry in found.items() if "distance" not in name} == {
        "structural_validity": (0.8, 5),
        "compositional_validity": (0.8, 5),
        "validity": (0.6, 5),
        "uniqueness": (pytest.approx(2 / 3), 3),
        "novelty": (0.5, 2),
        "coverage_recall": (pytest.approx(2 / 3), 3),
        "coverage_precision": (1, 3),
        "timed_out": (0, 5),
    }
    assert found["element_count_distance"].value == pytest.approx(1 / 3)
    rows = evaluator.rows()
    assert [row["formula"] for row in rows] == ["NaCl", "NaCl", "KCl", "NaCl", "NaCl3"]
    assert [row["valid"] for row in rows] == [True, True, True, False, False]
    assert [row["unique"] for row in rows] == [True, False, True, None, True]
    assert [row["novel"] for row in rows] == [False, False, True, None, True]
    assert all(row["problem"] is None for row in rows)
    samples_density, reference_density = evaluator.histograms()["Density (g/cm³)"]
    assert len(samples_density) == 4
    assert len(reference_density) == 3


def test_real_crystals_are_valid_as_often_as_is_known(shared_data):
    """All of MP-20 is structurally valid, about nine in ten compositions pass SMACT's test."""
    from pymatgen.core import Structure

    with gzip.open(shared_data / "crystals" / "mp20_sample" / "test.csv.gz", "rt") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cifs = [row["cif"] for row in csv.DictReader(file)]
        structures = [AtomicStructure.from_pymatgen(Structure.from_str(cif, fmt="cif")) for cif in cifs]
    assert len(structures) == 142
    assert np.mean([measure_geometry(niggli_reduce(structure)).is_valid for structure in structures]) == 1
    assert 0.85 < np.mean([check_composition(reduce_formula(structure)) for structure in structures]) < 0.95
