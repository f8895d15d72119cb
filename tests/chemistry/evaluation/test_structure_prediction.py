"""Match rate and RMSE on crystals whose answer is known: themselves, moved a little, others of their composition."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk

from polydit.data.chemistry.datamodule import ChemistryDataModule
from polydit.data.chemistry.sources import CDVAECsvSource
from polydit.data.chemistry.structure import AtomicStructure
from polydit.domains.chemistry.evaluation.structure_prediction import StructurePredictionEvaluator
from polydit.platform.errors import DataError
from polydit.platform.requests import Request, Sample

CRYSTALS = Path(__file__).resolve().parents[4] / "shared" / "data" / "crystals"


class Truth:
    """Stands for a data module: references by place, and training crystals."""

    def __init__(self, references: Sequence[AtomicStructure], training: Sequence[AtomicStructure] = ()) -> None:
        self.references = references
        self.training = training

    def structure(self, place: int) -> AtomicStructure:
        return self.references[place]

    def structures(self, split: str, domain: str | None, limit: int | None) -> Sequence[AtomicStructure]:
        assert (split, domain) == ("train", "crystal")
        return self.training[:limit]


def binary(kind: str, name: str = "NaCl", a: float = 5.6) -> AtomicStructure:
    return AtomicStructure.from_ase(bulk(name, kind, a=a), f"{name} {kind}")


def perovskite(a: float = 4.0) -> AtomicStructure:
    fractional = np.array([[0.5, 0.5, 0.5], [0, 0, 0], [0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5]])
    return AtomicStructure(np.array([38, 22, 8, 8, 8]), a * fractional, a * np.eye(3), {}, "SrTiO3")


def turned(structure: AtomicStructure, seed: int = 0) -> AtomicStructure:
    """The same crystal in another cell, orientation, origin and order of atoms."""
    generator = np.random.default_rng(seed)
    atoms = structure.to_ase().repeat((2, 1, 1))
    atoms.translate(generator.normal(size=3))
    atoms.rotate(40, (1, 2, 3), rotate_cell=True)
    return AtomicStructure.from_ase(atoms[generator.permutation(len(atoms))])


def perturbed(structure: AtomicStructure, size: float, seed: int) -> AtomicStructure:
    """Every atom moved by exactly `size` Å in a random direction."""
    step = np.random.default_rng(seed).normal(size=structure.positions.shape)
    step *= size / np.linalg.norm(step, axis=1, keepdims=True)
    return replace(structure, positions=structure.positions + step)


def judge(
    truth: Truth, guesses: Sequence[Sequence[AtomicStructure]], **options: float | int | bool | None
) -> tuple[StructurePredictionEvaluator, dict[str, float]]:
    """An evaluator that has seen `guesses`, a list for each reference, and its numbers."""
    evaluator = StructurePredictionEvaluator(**{"time_limit": None, "processes": 0, **options})  # type: ignore[arg-type]
    evaluator.prepare(truth)
    wishes = [(place, guess) for place, several in enumerate(guesses) for guess in several]
    samples = [Sample(Request(seed, {"reference": place}), guess) for seed, (place, guess) in enumerate(wishes)]
    assert all(evaluator.accepts(sample) for sample in samples)
    evaluator.update(samples)
    found = evaluator.compute()
    return evaluator, {name.removeprefix("structure_prediction/"): value.value for name, value in found.items()}


def test_a_crystal_matches_itself_in_any_setting() -> None:
    references = [binary("rocksalt"), perovskite()]
    _, found = judge(Truth(references), [[references[0]], [turned(references[1])]])
    assert found["match_rate@1"] == found["valid/match_rate@1"] == found["unseen/match_rate@1"] == 1.0
    assert found["rmse@1"] == pytest.approx(0.0, abs=1e-6)
    assert not any("@" in name and not name.endswith("@1") for name in found)


def test_volume_costs_nothing_and_the_wrong_composition_everything() -> None:
    _, found = judge(Truth([perovskite()]), [[perovskite(5.5)]])
    assert found["match_rate@1"] == 1.0
    wrong = replace(perovskite(), numbers=np.array([38, 22, 8, 8, 16]))
    _, found = judge(Truth([perovskite()]), [[wrong]])
    assert found["match_rate@1"] == 0.0
    assert math.isnan(found["rmse@1"])


def test_distance_is_the_known_one() -> None:
    # One atom moved by d: after the best common shift, the root-mean-square is d sqrt(1/n - 1/n^2).
    reference, distance, n = perovskite(), 0.3, 5
    positions = reference.positions.copy()
    positions[1, 0] += distance
    _, found = judge(Truth([reference]), [[replace(reference, positions=positions)]])
    assert found["rmse@1"] == pytest.approx(distance * math.sqrt(1 / n - 1 / n**2) / (64 / n) ** (1 / 3), rel=1e-3)


def test_other_structures_of_the_composition_are_told_apart() -> None:
    kinds = [binary("rocksalt"), binary("cesiumchloride", a=3.5)]
    for reference in kinds:
        evaluator, found = judge(Truth([reference]), [[turned(kind) for kind in kinds]])
        assert found["match_rate@2"] == 1.0
        assert found["guesses_matched"] == 0.5
        assert [row["match"] for row in evaluator.rows()] == [kind is reference for kind in kinds]
        assert found["match_rate@1"] == float(kinds[0] is reference)


def test_published_tolerances_are_wide() -> None:
    # Zinc blende differs from rock salt by a quarter of the diagonal, of which the best shift takes half.
    _, found = judge(Truth([binary("rocksalt")]), [[binary("zincblende")]])
    assert found["match_rate@1"] == 1.0
    assert found["rmse@1"] == pytest.approx(math.sqrt(3) / 4, rel=1e-3)


def test_of_several_guesses_the_best_counts_and_the_first_is_the_one() -> None:
    reference = perovskite()
    far, near = perturbed(reference, 0.4, 0), perturbed(reference, 0.1, 1)
    salt, other = binary("rocksalt"), binary("cesiumchloride")
    evaluator, found = judge(Truth([reference, salt]), [[far, near, near], [other, turned(salt)]])
    # The second reference has two guesses, so two are compared of both.
    assert (found["match_rate@1"], found["match_rate@2"]) == (0.5, 1.0)
    rows = evaluator.rows()
    assert [row["guess"] for row in rows] == [1, 2, 3, 1, 2]
    assert [row["guesses_matched"] for row in rows] == [3, 3, 3, 1, 1]
    assert found["rmse@1"] == rows[0]["rms"]
    assert found["rmse@2"] == pytest.approx((rows[1]["rms"] + 0.0) / 2, abs=1e-6)  # type: ignore[operator]
    assert rows[0]["best_rms"] == rows[1]["rms"] < rows[0]["rms"]  # type: ignore[operator]
    assert {row["name"] for row in rows} == {"SrTiO3", "NaCl rocksalt"}


def test_guesses_that_are_not_valid_match_only_where_that_is_not_asked() -> None:
    places = np.array([[0, 0, 0], [2.5, 0, 0], [0, 2.5, 0]])
    impossible = AtomicStructure(np.array([11, 17, 17]), places, 5 * np.eye(3))  # NaCl2: charges that cannot balance
    _, found = judge(Truth([impossible]), [[impossible]])
    assert (found["match_rate@1"], found["valid/match_rate@1"]) == (1.0, 0.0)
    dense = AtomicStructure(np.array([11, 17]), np.array([[0, 0, 0], [0.4, 0, 0]]), np.diag([3.0, 3.0, 3.0]))
    evaluator, found = judge(Truth([dense]), [[dense]])
    assert (found["match_rate@1"], found["valid/match_rate@1"]) == (1.0, 0.0)
    assert evaluator.rows()[0]["valid"] is False


def test_formulas_of_the_training_crystals_are_left_out_of_unseen() -> None:
    truth = Truth([perovskite(), binary("rocksalt")], training=[binary("zincblende")])
    evaluator, found = judge(truth, [[perovskite()], [binary("cesiumchloride")]])
    assert (found["match_rate@1"], found["unseen/match_rate@1"]) == (0.5, 1.0)
    assert [row["seen"] for row in evaluator.rows()] == [False, True]
    _, found = judge(truth, [[perovskite()]], seen=False)
    assert not any(name.startswith("unseen/") for name in found)


def test_guesses_that_cannot_be_compared_are_counted_and_named() -> None:
    broken = replace(perovskite(), cell=np.full((3, 3), np.nan))
    evaluator, found = judge(Truth([perovskite()]), [[broken, perovskite()]])
    assert (found["match_rate@1"], found["match_rate@2"]) == (0.0, 1.0)
    assert evaluator.rows()[0]["problem"]


def test_time_limit_ends_a_guess() -> None:
    evaluator, found = judge(Truth([perovskite()]), [[perovskite()]], time_limit=1e-6, processes=1)
    assert (found["match_rate@1"], found["timed_out"]) == (0.0, 1.0)
    assert "timed out" in str(evaluator.rows()[0]["problem"])


def test_what_is_no_guess_is_left_to_others() -> None:
    evaluator = StructurePredictionEvaluator()
    molecule = AtomicStructure(np.array([8]), np.zeros((1, 3)))
    assert not evaluator.accepts(Sample(Request(0, {"reference": 0}), molecule))
    assert not evaluator.accepts(Sample(Request(0), perovskite()))
    assert not evaluator.accepts(perovskite())
    evaluator.update([Sample(Request(0, {"reference": 0}), perovskite())])
    with pytest.raises(DataError, match="evaluate with their data module"):
        evaluator.compute()


def test_every_number_is_explained() -> None:
    reference = perovskite()
    evaluator, found = judge(Truth([reference]), [[reference] * 3])
    meanings = evaluator.descriptions()
    assert all(f"structure_prediction/{name}" in meanings for name in found)
    assert len(evaluator.histograms()["Distance of the best guess ((V/n)^(1/3))"][0]) == 1


@pytest.mark.skipif(not CRYSTALS.is_dir(), reason="the shared data sets are not here")
def test_real_crystals_have_their_known_rates(tmp_path: Path) -> None:
    source = CDVAECsvSource(str(CRYSTALS / "mp20_sample" / "test.csv.gz"), find_space_groups=False, workers=1)
    module = ChemistryDataModule([source], str(tmp_path), requests=[{"elements_of": "test", "limit": 40}])
    references = [module.structure(request.wishes["reference"]) for request in module.requests]
    _, found = judge(Truth(references), [[reference] for reference in references])
    assert found["match_rate@1"] == 1.0
    assert found["rmse@1"] == pytest.approx(0.0, abs=1e-4)
    moved = [perturbed(reference, 0.05, seed) for seed, reference in enumerate(references)]
    _, found = judge(Truth(references), [[guess] for guess in moved])
    assert found["match_rate@1"] == 1.0
    # Every atom is 0.05 Å away; the best common shift takes one part in n of the squares away on average.
    counts = np.array([len(reference.numbers) for reference in references])
    volumes = np.array([abs(np.linalg.det(reference.cell)) for reference in references if reference.cell is not None])
    expected = 0.05 * np.sqrt(1 - 1 / counts) / (volumes / counts) ** (1 / 3)
    assert found["rmse@1"] == pytest.approx(expected.mean(), rel=0.1)
    _, found = judge(Truth(references), [[guess] for guess in [*references[1:], references[0]]])
    assert found["match_rate@1"] < 0.1
