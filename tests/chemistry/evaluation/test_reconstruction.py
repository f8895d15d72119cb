import numpy as np
import pytest
from ase.build import bulk, molecule
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from polydit.data.chemistry.structure import AtomicStructure
from polydit.domains.chemistry.evaluation.reconstruction import (
    ReconstructionEvaluator,
    judge_reconstruction,
    match_crystals,
    superpose,
)
from polydit.platform.autoencoders import Reconstruction


def from_ase(name):
    return AtomicStructure.from_ase(molecule(name), name)


def change(structure, positions=None, numbers=None):
    return AtomicStructure(
        structure.numbers if numbers is None else numbers,
        structure.positions if positions is None else positions,
        structure.cell, name=structure.name,
    )


@settings(max_examples=25)
@given(st.integers(1, 12), st.integers(0, 10_000))
def test_superposition_is_the_best_rotation_that_scipy_finds(count, seed):
    generator = np.random.default_rng(seed)
    target = generator.normal(size=(count, 3))
    moved = Rotation.random(rng=generator).apply(target) + generator.normal(size=3)
    assert superpose(moved, target) == pytest.approx(target, abs=1e-9)
    noisy = moved + 0.3 * generator.normal(size=(count, 3))
    found = np.linalg.norm(superpose(noisy, target) - target)
    if count > 2:
        _, best = Rotation.align_vectors(target - target.mean(axis=0), noisy - noisy.mean(axis=0))
        assert found == pytest.approx(best, abs=1e-6)


def test_a_mirror_image_is_not_given_back():
    chiral = np.array([[0.0, 0, 0], [1.5, 0, 0], [0, 1.7, 0], [0, 0, 2.1]])
    structure = AtomicStructure(np.array([6, 7, 8, 9]), chiral)
    assert judge_reconstruction(structure, change(structure, chiral * [1, 1, -1])).rmsd > 0.5


def test_a_moved_molecule_is_given_back_and_a_distorted_one_is_measured():
    ethanol = from_ase("CH3CH2OH")
    moved = change(ethanol, Rotation.from_euler("xyz", [1, 2, 3]).apply(ethanol.positions) + 4)
    record = judge_reconstruction(ethanol, moved)
    assert record.rmsd == pytest.approx(0, abs=1e-9)
    assert record.matches
    assert record.stable == record.valid == (True, True)

    positions = ethanol.positions.copy()
    positions[-1] += [0.9, 0, 0]
    record = judge_reconstruction(ethanol, change(ethanol, positions))
    assert 0.1 < record.rmsd < 0.9 / 3
    assert not record.matches
    assert record.stable == (True, False)


def test_a_wrong_element_or_a_place_that_is_not_finite_is_not_given_back():
    methane = from_ase("CH4")
    silane = judge_reconstruction(methane, change(methane, numbers=np.array([14, 1, 1, 1, 1])))
    assert (silane.right_types, silane.num_atoms, silane.matches) == (4, 5, False)
    lost = judge_reconstruction(methane, change(methane, positions=methane.positions * np.nan))
    assert lost.rmsd is None
    assert not lost.matches
    assert lost.stable == (True, False)
    with pytest.raises(ValueError, match="keeps the number of atoms"):
        judge_reconstruction(methane, from_ase("H2O"))


def test_crystals_match_up_to_cell_and_noise():
    salt = AtomicStructure.from_ase(bulk("NaCl", "rocksalt", a=5.64))
    generator = np.random.default_rng(0)
    shaken = change(salt, salt.positions + 0.05 * generator.normal(size=salt.positions.shape))
    assert match_crystals((salt, salt)) == pytest.approx(0, abs=1e-6)
    assert 0 < match_crystals((salt, shaken)) < 0.05
    assert match_crystals((salt, AtomicStructure.from_ase(bulk("KCl", "rocksalt", a=5.64)))) is None


def test_molecules_and_crystals_are_summed_up_apart():
    methane, water = from_ase("CH4"), from_ase("H2O")
    salt = AtomicStructure.from_ase(bulk("NaCl", "rocksalt", a=5.64), "salt")
    broken = change(methane, positions=methane.positions * 1.3)
    outputs = [
        Reconstruction(methane, methane), Reconstruction(water, water), Reconstruction(methane, broken),
        Reconstruction(salt, salt), Reconstruction(salt, change(salt, numbers=np.array([11, 11]))),
    ]
    evaluator = ReconstructionEvaluator(time_limit=None, processes=0)
    assert all(evaluator.accepts(output) for output in outputs)
    assert not evaluator.accepts(methane)
    evaluator.update(outputs)
    found = {name.removeprefix("reconstruction/"): e for name, e in evaluator.compute().items()}
    assert found["molecules/stability_kept"].value == pytest.approx(2 / 3)
    assert found["molecules/match_rate"].count == 3
    assert found["molecules/atom_stability"].value == pytest.approx(8 / 13)
    assert found["molecules/type_accuracy"].value == 1
    assert (found["crystals/match_rate"].value, found["crystals/match_rate"].count) == (0.5, 2)
    assert found["crystals/rms"].value == pytest.approx(0, abs=1e-6)
    assert found["crystals/type_accuracy"].value == 0.75
    rows = evaluator.rows()
    assert [row["kind"] for row in rows] == ["molecule"] * 3 + ["crystal"] * 2
    assert [row["match"] for row in rows] == [True, True, False, True, False]
    assert rows[3]["name"] == "salt"
    evaluator.reset()
    assert evaluator.compute() == {}
