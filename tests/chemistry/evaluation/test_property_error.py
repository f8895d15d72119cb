"""The error of samples against what was asked, with its baselines: known answers, laws and clear refusals."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from polydit.data.chemistry.collate import collate
from polydit.data.chemistry.drawn import LabelledStructures
from polydit.data.chemistry.structure import AtomicStructure
from polydit.domains.chemistry.evaluation import property_error
from polydit.domains.chemistry.evaluation.property_error import PropertyErrorEvaluator
from polydit.domains.chemistry.evaluation.property_prediction import PropertyPredictionEvaluator
from polydit.domains.chemistry.property_prediction import PropertyPredictionSystem
from polydit.platform.errors import CheckpointError, ConfigurationError, DataError
from polydit.platform.evaluation.statistics import Estimate
from polydit.platform.requests import Request, Sample

from ..test_property_prediction import Labelled, make_molecules, make_system

BIAS = 0.25


class BiasedSystem(PropertyPredictionSystem):
    """Predicts the mean distance between atoms, which is the label of `make_molecules`, and a bias."""

    def predict(self, structures: Any, batch_size: int = 128) -> NDArray[np.float64]:
        assert not any(self.unknown_elements(structure) for structure in structures)
        return np.array([measure(structure) + BIAS for structure in structures])


def measure(structure: AtomicStructure) -> float:
    distances = np.linalg.norm(structure.positions[:, None] - structure.positions[None], axis=-1)
    return float(distances.sum() / (len(distances) * (len(distances) - 1)))


@pytest.fixture
def predictor(monkeypatch: pytest.MonkeyPatch) -> BiasedSystem:
    """In place of what a checkpoint holds: a predictor whose error is known, trained on the first half."""
    system = BiasedSystem(make_system().network, "gap", "eV")
    system.prepare(Labelled(make_molecules(300, seed=7)))
    monkeypatch.setattr(property_error, "load_predictor", lambda path: system)
    return system


def make_data(count: int = 400, **options: Any) -> Labelled:
    return Labelled(make_molecules(count, seed=1), **{"part": (0.5, 1.0), **options})


def ask(structure: AtomicStructure, gap: float, seed: int = 0) -> Sample:
    return Sample(Request(seed, {"domain": "molecule", "properties": {"gap": gap}}), structure)


METHANE = AtomicStructure(
    np.array([6, 1, 1, 1, 1]),
    np.array([[0, 0, 0], [0.63, 0.63, 0.63], [-0.63, -0.63, 0.63], [-0.63, 0.63, -0.63], [0.63, -0.63, -0.63]]),
)


def test_errors_are_wanted_against_predicted(predictor: BiasedSystem) -> None:
    evaluator = PropertyErrorEvaluator("predictor.ckpt")
    evaluator.prepare(make_data())
    crowded = replace(METHANE, positions=METHANE.positions * 0.45)
    exotic = replace(METHANE, numbers=np.array([14, 1, 1, 1, 1]))
    lost = replace(METHANE, positions=METHANE.positions * np.nan)
    real = measure(METHANE)
    samples = [ask(METHANE, real), ask(METHANE, real + 1), ask(crowded, 0.0), ask(exotic, 2.0), ask(lost, 2.0)]
    assert all(evaluator.accepts(sample) for sample in samples)
    evaluator.update(samples[:2])
    evaluator.update(samples[2:])
    found = evaluator.compute()
    errors = [BIAS, 1 - BIAS, 0.45 * real + BIAS]
    assert found["property_error/gap/samples"].value == pytest.approx(np.mean(errors))
    assert found["property_error/gap/samples"].count == 3
    assert found["property_error/gap/valid"].value == pytest.approx(np.mean(errors[:2]))
    assert found["property_error/gap/valid"].count == 2
    assert (found["property_error/gap/predicted"].value, found["property_error/gap/predicted"].count) == (0.6, 5)
    assert set(evaluator.descriptions()) == set(found)
    rows = evaluator.rows()
    assert [row["absolute_error"] for row in rows[:3]] == pytest.approx(errors)
    assert [row["valid"] for row in rows] == [True, True, False, True, False]
    assert rows[3]["problem"] == "elements unknown to the predictor: 14" and rows[3]["predicted"] is None
    assert rows[4]["problem"] == "coordinates are not finite"
    ((drawn, labels),) = evaluator.histograms().values()
    assert len(drawn) == 3 and len(labels) == 400


def test_baselines_have_known_values(predictor: BiasedSystem) -> None:
    data = make_data(3000)
    evaluator = PropertyErrorEvaluator("predictor.ckpt")
    evaluator.prepare(data)
    evaluator.update([ask(METHANE, 1.0)])
    found = {name.rpartition("/")[2]: entry for name, entry in evaluator.compute().items()}
    labels, sizes = (np.array([m.labels["gap"] for m in data.held]), np.array([len(m.numbers) for m in data.held]))
    assert found["bound"].value == pytest.approx(BIAS) and found["bound"].count == 3000
    naive = np.abs(labels[:, None] + BIAS - labels).mean()
    assert found["naive"].low < naive < found["naive"].high
    medians = predictor.predict_by_size(sizes)
    assert found["atoms_only"].value == pytest.approx(np.abs(medians - labels).mean())
    within = np.concatenate([
        np.abs(labels[sizes == size][:, None] + BIAS - labels[sizes == size]).ravel() for size in np.unique(sizes)
    ])  # fmt: skip
    assert found["within_size"].low < within.mean() < found["within_size"].high
    assert found["within_size"].count > 2900


def test_within_size_pairs_are_other_molecules_of_the_size(predictor: BiasedSystem) -> None:
    """Where all molecules of a size have one label, only the predictor's error is left; a lone size has no pair."""
    molecules = [replace(m, labels={"gap": measure(m)}) for m in (METHANE, METHANE, METHANE)]
    evaluator = PropertyErrorEvaluator("predictor.ckpt")
    lone = replace(METHANE, numbers=METHANE.numbers[:2], positions=METHANE.positions[:2], labels={"gap": 9.0})
    evaluator.prepare(Labelled([*molecules, lone], part=(0.5, 1.0)))
    evaluator.update([ask(METHANE, 1.0)])
    for name in ("within_size", "within_formula"):
        entry = evaluator.compute()[f"property_error/gap/{name}"]
        assert entry.value == pytest.approx(BIAS) and entry.count == 2


def test_within_formula_pairs_have_one_formula_and_not_only_one_size(predictor: BiasedSystem) -> None:
    """Two formulas of one size, a label each: shuffled by size labels are mixed, by formula they are not."""
    other = replace(METHANE, numbers=np.array([7, 1, 1, 1, 1]), positions=METHANE.positions * 4)
    molecules = [replace(molecule, labels={"gap": measure(molecule)}) for molecule in [METHANE, other] * 18]
    evaluator = PropertyErrorEvaluator("predictor.ckpt")
    evaluator.prepare(Labelled(molecules, part=(0.5, 1.0)))
    evaluator.update([ask(METHANE, 1.0)])
    found = {name.rpartition("/")[2]: entry for name, entry in evaluator.compute().items()}
    assert found["within_formula"].value == pytest.approx(BIAS) and found["within_formula"].count == 34
    assert found["within_size"].value > BIAS + 0.1 and found["within_size"].count == 36


def test_who_ignores_the_wish_lands_on_within_size_and_who_obeys_on_the_bound(predictor: BiasedSystem) -> None:
    data = make_data(1500)
    labels, sizes = (np.array([m.labels["gap"] for m in data.held]), np.array([len(m.numbers) for m in data.held]))
    known = LabelledStructures(sizes, np.zeros(1500, dtype=bool), {"gap": labels}, str)
    wishes = {"domain": "molecule", "properties": {"gap": "drawn"}}
    requests = [known.draw(Request(seed, wishes)) for seed in range(1500)]
    generator = np.random.default_rng(0)

    def judge(obeys: bool) -> dict[str, Estimate]:
        evaluator = PropertyErrorEvaluator("predictor.ckpt")
        evaluator.prepare(data)
        for request in requests:
            same = np.flatnonzero(sizes == request.wishes["num_atoms"])
            error = np.abs(labels[same] - request.wishes["properties"]["gap"])
            place = same[error.argmin()] if obeys else generator.choice(same)
            evaluator.update([Sample(request, data.held[place])])
        return {name.rpartition("/")[2]: entry for name, entry in evaluator.compute().items()}

    ignoring, obeying = judge(False), judge(True)
    assert ignoring["samples"].low < ignoring["within_size"].value < ignoring["samples"].high
    assert ignoring["samples"].low > ignoring["atoms_only"].high
    assert obeying["samples"].value == pytest.approx(obeying["bound"].value, abs=0.01)


def test_same_seed_same_numbers_and_a_limit(predictor: BiasedSystem) -> None:
    def run(**options: Any) -> dict[str, Any]:
        evaluator = PropertyErrorEvaluator("predictor.ckpt", **options)
        evaluator.prepare(make_data())
        evaluator.update([ask(METHANE, 1.0)])
        first = evaluator.compute()
        assert evaluator.compute() == first
        return first

    assert run() == run()
    assert run(seed=1)["property_error/gap/naive"] != run()["property_error/gap/naive"]
    assert run(reference_limit=50)["property_error/gap/bound"].count == 50


def test_what_is_not_asked_is_not_judged(predictor: BiasedSystem) -> None:
    evaluator = PropertyErrorEvaluator("predictor.ckpt")
    assert not evaluator.accepts(Sample(Request(0, {"domain": "molecule"}), METHANE))
    assert not evaluator.accepts(Sample(Request(0, {"properties": {"homo": 1.0}}), METHANE))
    assert not evaluator.accepts(METHANE)
    crystal = replace(METHANE, cell=5 * np.eye(3))
    assert not evaluator.accepts(ask(crystal, 1.0))


def test_without_data_the_baselines_are_left_out(predictor: BiasedSystem) -> None:
    evaluator = PropertyErrorEvaluator("predictor.ckpt")
    with pytest.raises(DataError, match="no training molecule has the label gap"):
        evaluator.prepare(Labelled([METHANE], part=(0.5, 1.0)))
    evaluator.update([ask(METHANE, 1.0)])
    assert {name.rpartition("/")[2] for name in evaluator.compute()} == {"samples", "valid", "predicted"}


def test_nothing_predictable_is_said(predictor: BiasedSystem) -> None:
    evaluator = PropertyErrorEvaluator("predictor.ckpt")
    evaluator.update([ask(replace(METHANE, numbers=np.full(5, 14)), 1.0)])
    found = evaluator.compute()
    assert found["property_error/gap/samples"].count == 0 and np.isnan(found["property_error/gap/samples"].value)
    assert found["property_error/gap/predicted"].value == 0


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (make_data(unit="Hartree"), "gives gap in eV, but the generator's data hold it in Hartree"),
        (make_data(part=(0.0, 0.5)), r"trained on train_part \[0, 0.5\].*generator's is \[0, 0.5\].*by heart"),
        (make_data(part=(0.4, 1.0)), "by heart"),
        (make_data(seed=1), "with part_seed 1: it may know"),
    ],
)
def test_a_predictor_that_cannot_judge_is_refused(data: Labelled, message: str, predictor: BiasedSystem) -> None:
    with pytest.raises(ConfigurationError, match=message):
        PropertyErrorEvaluator("predictor.ckpt").prepare(data)


def test_a_predictor_of_other_data_may_be_used(predictor: BiasedSystem) -> None:
    evaluator = PropertyErrorEvaluator("predictor.ckpt", require_unseen=False)
    evaluator.prepare(make_data(part=(0.0, 1.0)))
    evaluator.update([ask(METHANE, 1.0)])
    assert evaluator.compute()["property_error/gap/bound"].count == 400


def test_a_predictor_of_another_property_is_refused(predictor: BiasedSystem) -> None:
    data = make_data()
    data.requests = [Request(0, {"properties": {"homo": "drawn"}})]
    with pytest.raises(ConfigurationError, match=r"predictor\.ckpt judges gap, but the requests ask for homo: ask for"):
        PropertyErrorEvaluator("predictor.ckpt").prepare(data)
    data.requests = [Request(0, {"domain": "molecule"})]
    with pytest.raises(ConfigurationError, match=r"ask for no property: ask for properties: \{gap: drawn\}"):
        PropertyErrorEvaluator("predictor.ckpt").prepare(data)
    data.requests = [Request(0, {"properties": {"gap": "drawn"}})]
    PropertyErrorEvaluator("predictor.ckpt").prepare(data)


def test_elements_that_the_predictor_never_saw_are_refused(predictor: BiasedSystem) -> None:
    strange = AtomicStructure(np.array([9, 6]), np.eye(3)[:2], labels={"gap": 1.0})
    data = make_data()
    data.held = [*data.held, strange]
    with pytest.raises(ConfigurationError, match="does not know the elements with atomic numbers 9"):
        PropertyErrorEvaluator("predictor.ckpt").prepare(data)


def test_a_checkpoint_that_is_not_there_is_refused() -> None:
    with pytest.raises(CheckpointError, match="no_such"):
        PropertyErrorEvaluator("no_such.ckpt").prepare(make_data())


def test_held_out_predictions_are_counted() -> None:
    system = make_system().eval()
    molecules = make_molecules(30)
    system.prepare(Labelled(molecules))
    with torch.no_grad():
        outputs = system.reconstruct(collate(molecules, ["gap"]))
    evaluator = PropertyPredictionEvaluator()
    assert all(evaluator.accepts(output) for output in outputs) and not evaluator.accepts(METHANE)
    evaluator.update(outputs)
    found = evaluator.compute()
    gaps, sizes = (np.array([m.labels["gap"] for m in molecules]), np.array([len(m.numbers) for m in molecules]))
    mae = found["property_prediction/gap/mae"]
    assert mae.value == pytest.approx(np.abs(system.predict(molecules) - gaps).mean(), rel=1e-5)
    assert mae.low < mae.value < mae.high and mae.count == 30
    by_size = np.abs(system.predict_by_size(sizes) - gaps).mean()
    assert found["property_prediction/gap/atoms_only"].value == pytest.approx(by_size, rel=1e-5)
    assert set(evaluator.descriptions()) == set(found)
    assert [row["actual"] for row in evaluator.rows()] == pytest.approx(gaps.tolist())
