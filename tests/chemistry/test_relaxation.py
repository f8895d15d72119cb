"""Relaxation finds minima, says what it did and what it could not do, and leaves the samples as they are."""

from __future__ import annotations

import csv
import importlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from polydit.data.chemistry.sources.parsing import parse_file
from polydit.data.chemistry.structure import AtomicStructure
from polydit.domains.chemistry.relaxation.calculator import ASERelaxation, measure_motion
from polydit.domains.chemistry.relaxation.conformers import ConformerSearch
from polydit.domains.chemistry.relaxation.evaluator import RelaxationEvaluator
from polydit.domains.chemistry.relaxation.force_field import MMFFRelaxation
from polydit.domains.chemistry.relaxation.relaxation import Relaxation
from polydit.domains.chemistry.writers import ASEDatabaseWriter, CIFWriter, ExtxyzWriter, SDFWriter
from polydit.platform.errors import ConfigurationError
from polydit.platform.evaluation.callback import Evaluation, read_metrics
from polydit.platform.evaluation.report import Report
from polydit.platform.evaluation.writer import SampleWriter
from polydit.platform.requests import Request, Sample

Chem = pytest.importorskip("rdkit.Chem")
embedding = pytest.importorskip("rdkit.Chem.rdDistGeom")
transforms = pytest.importorskip("rdkit.Chem.rdMolTransforms")
fields = pytest.importorskip("rdkit.Chem.rdForceFieldHelpers")
build = pytest.importorskip("ase.build")

EMT = "ase.calculators.emt.EMT"


def from_ase(name: str) -> AtomicStructure:
    return AtomicStructure.from_ase(build.molecule(name), name)


def shaken(structure: AtomicStructure, size: float = 0.05, seed: int = 0) -> AtomicStructure:
    noise = np.random.default_rng(seed).normal(size=structure.positions.shape) * size
    return replace(structure, positions=structure.positions + noise)


def copper(scale: float = 1.0, symbol: str = "Cu") -> AtomicStructure:
    atoms = build.bulk(symbol).repeat((2, 1, 1))
    atoms.set_cell(atoms.cell * scale, scale_atoms=True)
    return AtomicStructure.from_ase(atoms, symbol)


@pytest.mark.parametrize("force_field", ["MMFF94", "MMFF94s", "UFF"])
def test_molecules_return_to_the_minimum_they_were_shaken_out_of(force_field: Any) -> None:
    relaxation = MMFFRelaxation(force_field)
    minimum = relaxation.relax(from_ase("CH3CH2OH"))
    assert minimum.converged and minimum.energy_after < minimum.energy_before and 5 < minimum.steps < 200
    found = relaxation.relax(replace(shaken(minimum.structure), labels={"gap": 1.0}))
    assert found.converged and found.energy_before > found.energy_after + 1
    assert found.energy_after == pytest.approx(minimum.energy_after, abs=1e-3)
    assert 0.01 < found.moved < 0.2
    np.testing.assert_array_equal(found.structure.numbers, minimum.structure.numbers)
    assert found.structure.labels == {"gap": 1.0} and found.structure.name == "CH3CH2OH"
    again = relaxation.relax(minimum.structure)
    assert again.moved < 2e-3 and again.energy_after <= again.energy_before


def test_force_field_energies_are_those_of_rdkit() -> None:
    structure = shaken(from_ase("CH3CONH2"), 0.01)
    mol = Chem.AddHs(Chem.MolFromSmiles("CC(N)=O"))
    reference = structure.to_rdkit()
    mol.AddConformer(Chem.Conformer(9))
    mol.GetConformer().SetPositions(structure.positions[list(reference.GetSubstructMatch(mol))])
    expected = fields.MMFFGetMoleculeForceField(mol, fields.MMFFGetMoleculeProperties(mol)).CalcEnergy()
    assert MMFFRelaxation().relax(structure).energy_before == pytest.approx(expected)


def test_aromatic_rings_stay_aromatic() -> None:
    # By lengths alone benzene is a ring of six radicals, which a force field would pucker.
    benzene = from_ase("C6H6")
    assert sum(atom.GetNumRadicalElectrons() for atom in benzene.to_rdkit().GetAtoms()) == 6
    found = MMFFRelaxation().relax(shaken(benzene, 0.02))
    assert found.message == "bond orders completed by RDKit"
    lengths = np.linalg.norm(np.diff(found.structure.positions[[0, 1, 2, 3, 4, 5, 0]], axis=0), axis=1)
    np.testing.assert_allclose(lengths, 1.395, atol=0.01)
    assert np.linalg.svd(found.structure.positions - found.structure.positions.mean(0))[1][2] < 0.02


def test_formal_charges_are_told() -> None:
    message = MMFFRelaxation().relax(from_ase("CH3NO2")).message
    assert message.startswith("formal charges at N2, O")


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.floats(0, 3), st.floats(-50, 50))
def test_relaxation_knows_no_frame(seed: int, angle: float, shift: float) -> None:
    structure = shaken(from_ase("CH3OH"), 0.03, seed)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    moved = replace(structure, positions=structure.positions @ turn.T + shift)
    first, second = (MMFFRelaxation().relax(item) for item in (structure, moved))
    assert first.energy_before == pytest.approx(second.energy_before, abs=1e-6)
    assert first.energy_after == pytest.approx(second.energy_after, abs=1e-3)


@pytest.mark.parametrize(
    ("structure", "reason"),
    [
        (from_ase("CH3"), "make no neutral molecule"),
        (replace(from_ase("CH4"), positions=from_ase("CH4").positions * np.nan), "not finite"),
        (AtomicStructure(np.array([2]), np.zeros((1, 3)), None, {}, "helium"), "no parameters .* He: try UFF"),
        (AtomicStructure(np.array([0]), np.zeros((1, 3))), "no parameters"),
    ],
)
def test_what_a_force_field_cannot_do_is_refused_with_the_reason(structure: AtomicStructure, reason: str) -> None:
    for relaxation in (MMFFRelaxation(), ConformerSearch(2)):
        with pytest.raises(ValueError, match=reason):
            relaxation.relax(structure)


def test_too_few_steps_are_not_convergence() -> None:
    found = MMFFRelaxation(max_steps=2).relax(shaken(from_ase("CH3CH2OH")))
    assert not found.converged and found.steps <= 3 and found.energy_after < found.energy_before
    hard = ASERelaxation(EMT, max_steps=2).relax(shaken(copper(1.04)))
    assert not hard.converged and hard.steps == 2


def test_settings_are_checked() -> None:
    for make, reason in (
        (lambda: MMFFRelaxation("MM2"), "give MMFF94, MMFF94s or UFF"),  # type: ignore[arg-type]
        (lambda: MMFFRelaxation(max_steps=0), "max_steps is 0"),
        (lambda: ConformerSearch(0), "count is 0"),
        (lambda: ASERelaxation(EMT, max_force=0.0), "max_force is 0.0"),
        (lambda: RelaxationEvaluator(MMFFRelaxation(), limit=0), "limit is 0"),
        (lambda: ASERelaxation("no.such.Calculator").check(), "no.such.Calculator"),
        (lambda: ASERelaxation("ase.Atoms", {"colour": 1}).check(), "colour"),
        (lambda: ASERelaxation(EMT, optimizer="ase.optimize.Fly").check(), "ase.optimize.FIRE"),
        (lambda: ASERelaxation(EMT, optimizer="ase.Atoms").check(), "cannot run"),
    ):
        with pytest.raises(ConfigurationError, match=reason):
            make()


@pytest.mark.parametrize("optimizer", ["ase.optimize.FIRE", "ase.optimize.LBFGS"])
def test_crystals_return_to_the_lattice_constant_of_their_potential(optimizer: str) -> None:
    # EMT's own lattice constants: 3.59 Å of copper, 3.99 Å of aluminium.
    for symbol, constant in (("Cu", 3.59), ("Al", 3.99)):
        relaxation = ASERelaxation(EMT, optimizer=optimizer, max_force=0.01)
        found = relaxation.relax(shaken(copper(1.05, symbol)))
        assert found.converged and found.energy_before > found.energy_after + 0.01
        volume = abs(np.linalg.det(found.structure.cell))
        assert (2 * volume) ** (1 / 3) == pytest.approx(constant, abs=0.02)
    fixed = ASERelaxation(EMT, cell=False, optimizer=optimizer).relax(shaken(copper(1.05)))
    np.testing.assert_array_equal(fixed.structure.cell, copper(1.05).cell)
    assert fixed.energy_after > ASERelaxation(EMT).relax(copper(1.05)).energy_after + 0.1


def test_the_way_of_atoms_in_a_crystal_is_that_within_the_cell() -> None:
    before = copper()
    strained = np.diag([1.1, 1.0, 0.9])
    images = np.array([[1, 0, 0], [0, -2, 0]]) @ before.cell
    after = replace(before, positions=(before.positions + images) @ strained + 0.7, cell=before.cell @ strained)
    assert measure_motion(before, after) == pytest.approx(0, abs=1e-12)
    apart = replace(before, positions=before.positions + np.array([[0.1, 0, 0], [-0.1, 0, 0]]))
    assert measure_motion(before, apart) == pytest.approx(0.1)


def test_calculators_also_relax_molecules_and_refuse_what_is_broken() -> None:
    relaxation = ASERelaxation(EMT, molecules=True, max_force=0.01)
    assert relaxation.accepts(from_ase("CO")) and not relaxation.accepts(copper())
    found = relaxation.relax(from_ase("CO"))
    assert found.converged and found.structure.cell is None
    flat = replace(copper(), cell=np.diag([3.0, 3.0, 0.0]))
    for structure, reason in ((flat, "volume is 0"), (replace(copper(), positions=np.full((2, 3), np.nan)), "finite")):
        with pytest.raises(ValueError, match=reason):
            ASERelaxation(EMT).relax(structure)
    with pytest.raises(NotImplementedError):
        ASERelaxation(EMT).relax(AtomicStructure.from_ase(build.bulk("NaCl", "rocksalt", a=5.64)))


def test_the_gauche_form_of_butane_is_found_above_the_other() -> None:
    mol = Chem.AddHs(Chem.MolFromSmiles("CCCC"))
    embedding.EmbedMolecule(mol, randomSeed=1)
    energies = {}
    for angle in (180.0, 65.0):
        transforms.SetDihedralDeg(mol.GetConformer(), 0, 1, 2, 3, angle)
        energies[angle] = ConformerSearch(20).compare(AtomicStructure.from_rdkit(mol))
    trans, gauche = energies[180.0], energies[65.0]
    assert trans.own_minimum == pytest.approx(trans.lowest_energy, abs=1e-3) and trans.rmsd < 0.1
    assert 0.5 < gauche.own_minimum - gauche.lowest_energy < 1.1  # 0.8 kcal/mol by MMFF94
    assert gauche.lowest_energy == pytest.approx(trans.lowest_energy, abs=1e-3)
    assert gauche.rmsd > 0.3 and gauche.count == 21
    found = ConformerSearch(20).relax(AtomicStructure.from_rdkit(mol))
    assert found.energy_after == gauche.lowest_energy and found.moved == gauche.rmsd
    assert "lowest of 21 conformers" in found.message
    again = ConformerSearch(20).relax(AtomicStructure.from_rdkit(mol))
    np.testing.assert_array_equal(found.structure.positions, again.structure.positions)  # same seed, same conformers


def test_conformers_keep_the_hand_of_a_molecule() -> None:
    mol = Chem.AddHs(Chem.MolFromSmiles("C[C@H](N)C(=O)O"))
    embedding.EmbedMolecule(mol, randomSeed=0)
    lowest = ConformerSearch(10).relax(AtomicStructure.from_rdkit(mol)).structure.to_rdkit()
    Chem.AssignStereochemistryFrom3D(lowest)
    assert Chem.FindMolChiralCenters(lowest) == Chem.FindMolChiralCenters(mol)


MOLECULES = [shaken(from_ase("CH3CH2OH")), from_ase("CH3"), shaken(from_ase("C6H6"), 0.02), shaken(from_ase("H2O"))]
CRYSTALS = [shaken(copper(1.04)), replace(copper(), cell=np.diag([3.0, 3.0, 0.0])), copper(1.03, "Al")]


class Items(pytorch_lightning.LightningModule):
    """Answers requests with molecules and crystals in turn."""

    def predict_step(self, batch: list[Request], batch_idx: int) -> list[Sample]:
        items = [*MOLECULES, *CRYSTALS]
        return [Sample(request, items[request.seed % len(items)]) for request in batch]


def run(folder: Path, *evaluators: RelaxationEvaluator, report: bool = False) -> None:
    writers = [SDFWriter(), CIFWriter(), ExtxyzWriter()]
    callbacks: list[Any] = [SampleWriter(list(writers)), Evaluation(list(evaluators))]
    trainer = pytorch_lightning.Trainer(
        accelerator="cpu", default_root_dir=folder, callbacks=[*callbacks, *([Report()] if report else [])],
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    requests = [Request(seed, {"domain": "any"}) for seed in range(len(MOLECULES) + len(CRYSTALS))]
    trainer.predict(Items(), DataLoader(requests, batch_size=3, collate_fn=list))


def make(relaxation: Relaxation, **options: Any) -> RelaxationEvaluator:
    return RelaxationEvaluator(relaxation, time_limit=None, processes=0, **options)


def read_samples(folder: Path) -> dict[str, bytes]:
    paths = [path for path in (folder / "samples").rglob("*") if path.is_file() and "relaxed" not in path.parts]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths if path.name != "manifest.json"}


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_samples_stay_and_relaxed_ones_stand_beside_them(tmp_path: Path) -> None:
    run(tmp_path / "plain")
    assert not list((tmp_path / "plain").rglob("relaxed*"))
    folder = tmp_path / "relaxing"
    run(folder, make(MMFFRelaxation()), make(ASERelaxation(EMT)), report=True)
    assert read_samples(folder) == read_samples(tmp_path / "plain")
    relaxed = folder / "samples" / "relaxed"
    assert json.loads((relaxed / "molecules" / "manifest.json").read_text())["files"] == ["molecules.sdf"]
    written = sorted(path.name for path in (relaxed / "crystals" / "crystals").iterdir())
    assert written == ["00004_Cu.cif", "00006_Al.cif"]
    molecules = list(Chem.SDMolSupplier(str(relaxed / "molecules" / "molecules.sdf"), removeHs=False))
    assert [mol.GetProp("index") for mol in molecules] == ["0", "2", "3"]
    assert [mol.GetProp("seed") for mol in molecules] == ["0", "2", "3"]
    drop = [mol.GetDoubleProp("energy_before") - mol.GetDoubleProp("energy_after") for mol in molecules]
    crystals = parse_file(relaxed / "crystals" / "crystals.extxyz")
    assert all(set(c.labels) == {"energy_before", "energy_after", "moved", "steps", "converged"} for c in crystals)
    found = read_metrics(folder / "metrics.json")
    assert found["relaxation/molecules/relaxed"].value == 0.75 and found["relaxation/molecules/relaxed"].count == 4
    assert found["relaxation/molecules/energy_drop"].value == pytest.approx(np.mean(drop))
    assert found["relaxation/molecules/energy_drop"].count == 3 and found["relaxation/molecules/energy_drop"].low > -99
    assert found["relaxation/molecules/converged"].value == 1.0
    assert found["relaxation/crystals/relaxed"].value == pytest.approx(2 / 3)
    assert found["relaxation/crystals/volume_change"].value < -0.03
    labels = crystals[0].labels
    with (folder / "rows.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["index"] for row in rows] == ["0", "1", "2", "3", "4", "5", "6"]
    assert "make no neutral molecule" in rows[1]["relaxation/problem"] and rows[1]["relaxation/relaxed"] == "False"
    assert "volume is 0" in rows[5]["relaxation/problem"]
    assert float(rows[4]["relaxation/energy_before"]) == pytest.approx(labels["energy_before"] / 2)  # per atom
    page = (folder / "report.html").read_text()
    assert "Could be relaxed by MMFF94; the samples themselves stay as generated." in page


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_a_run_without_relaxation_takes_the_relaxed_ones_of_earlier_samples_away(tmp_path: Path) -> None:
    run(tmp_path, make(MMFFRelaxation()))
    assert (tmp_path / "samples" / "relaxed").is_dir()
    run(tmp_path)
    assert not (tmp_path / "samples" / "relaxed").exists() and (tmp_path / "samples" / "molecules.sdf").is_file()


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_several_ways_beside_each_other(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="2 evaluators write into the folder 'relaxed/molecules'"):
        run(tmp_path, make(MMFFRelaxation()), make(MMFFRelaxation("UFF")))
    conformers = make(ConformerSearch(5), name="conformers", limit=3, writers=[ASEDatabaseWriter()])
    run(tmp_path, make(MMFFRelaxation()), conformers)
    found = read_metrics(tmp_path / "metrics.json")
    assert found["conformers/molecules/relaxed"].count == 3
    database = tmp_path / "samples" / "conformers" / "molecules" / "structures.db"
    assert [item.labels["converged"] for item in parse_file(database)] == [1.0, 1.0]
    with (tmp_path / "rows.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    lower = [float(rows[i + 4]["conformers/energy_after"]) - float(rows[i]["relaxation/energy_after"]) for i in (0, 2)]
    assert max(lower) < 1e-3
    assert rows[7]["conformers/problem"] == "beyond the limit of 3" and rows[7]["index"] == "3"


def test_explanations_cover_the_metrics(tmp_path: Path) -> None:
    for relaxation, items in ((MMFFRelaxation(), MOLECULES), (ASERelaxation(EMT), CRYSTALS)):
        evaluator = make(relaxation)
        evaluator.update([Sample(Request(0), item) for item in items])
        meanings = evaluator.descriptions()
        assert set(evaluator.compute()) <= set(meanings)
        assert all(len(text) < 90 and text.endswith(".") for text in meanings.values())


def test_nothing_relaxable_gives_numbers_without_values() -> None:
    evaluator = make(MMFFRelaxation())
    evaluator.update([Sample(Request(0), from_ase("CH3"))])
    found = evaluator.compute()
    assert found["relaxation/molecules/relaxed"].value == 0
    assert np.isnan(found["relaxation/molecules/energy_drop"].value) and evaluator.histograms() == {}


SLOW = """
import time
from polydit.domains.chemistry.relaxation.force_field import MMFFRelaxation

class Slow(MMFFRelaxation):
    def relax(self, structure):
        if structure.name == "H2O":
            time.sleep(600)
        return super().relax(structure)
"""


def test_one_that_does_not_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slow_relaxation.py").write_text(SLOW)  # a module that worker processes can import
    monkeypatch.syspath_prepend(tmp_path)
    slow = importlib.import_module("slow_relaxation").Slow()
    evaluator = RelaxationEvaluator(slow, time_limit=10.0, processes=1)
    evaluator.update([Sample(Request(0), item) for item in (from_ase("H2O"), from_ase("CH4"))])
    found = evaluator.compute()
    assert found["relaxation/molecules/timed_out"].value == 0.5
    assert found["relaxation/molecules/relaxed"].value == 0.5
    assert evaluator.rows()[0]["relaxation/problem"] == "timed out after 10 s"


def test_processes_that_relax_start_without_torch() -> None:
    modules = "force_field", "conformers", "calculator"
    lines = [f"import polydit.domains.chemistry.relaxation.{module}\n" for module in modules]
    script = "".join(lines) + "import sys\nassert 'torch' not in sys.modules\n"
    subprocess.run([sys.executable, "-c", script], check=True)
