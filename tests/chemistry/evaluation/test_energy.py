import json

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from pymatgen.analysis.phase_diagram import PDEntry
from pymatgen.core import Composition

from polydit.data.chemistry.structure import AtomicStructure
from polydit.domains.chemistry.evaluation.crystals import CrystalEvaluator
from polydit.domains.chemistry.evaluation.energy import EnergyModel, measure_energy, measure_hull_distances
from polydit.platform.errors import ConfigurationError
from polydit.platform.requests import Request, Sample

EMT_PATH = "ase.calculators.emt.EMT"


def copper_gold(scale=1.0):
    """The ordered alloy CuAu (L1_0, a = 3.96 Å, c = 3.67 Å) as a cell of two atoms."""
    cell = np.diag([2.80, 2.80, 3.67]) * scale
    return AtomicStructure(np.array([29, 79]), np.array([[0, 0, 0], [0.5, 0.5, 0.5]]) @ cell, cell)


def metal(symbol):
    return AtomicStructure.from_ase(bulk(symbol), symbol)


def emt_energy(structure):
    atoms = structure.to_ase()
    atoms.calc = EMT()
    return float(atoms.get_potential_energy())


@pytest.fixture
def hull(tmp_path):
    """Copper and gold by EMT at ASE's lattice constants, without any alloy."""
    entries = [PDEntry(Composition({symbol: 1}), emt_energy(metal(symbol))) for symbol in ("Cu", "Au")]
    path = tmp_path / "hull.json"
    path.write_text(json.dumps([entry.as_dict() for entry in entries]))
    return str(path)


def test_distances_are_energies_over_the_line_between_the_elements(hull):
    structures = [metal("Cu"), copper_gold(), copper_gold(1.3), metal("Ag")]
    found = measure_hull_distances(structures, EnergyModel(EMT_PATH, hull), time_limit=None, processes=0)
    mean = (emt_energy(metal("Cu")) + emt_energy(metal("Au"))) / 2
    assert found[0].value == pytest.approx(0, abs=1e-9)
    assert found[1].value == pytest.approx(emt_energy(copper_gold()) / 2 - mean)
    assert found[2].value == pytest.approx(emt_energy(copper_gold(1.3)) / 2 - mean)
    assert found[1].value < 0 < 0.1 < found[2].value
    assert found[3].value is None
    assert "pure entry of one of Ag" in found[3].problem


def test_relaxation_lowers_the_energy(hull):
    stretched = copper_gold(1.04)
    relaxed = measure_energy(stretched, EnergyModel(EMT_PATH, hull, relax_steps=50))
    assert relaxed < emt_energy(stretched) - 0.01
    assert relaxed <= emt_energy(copper_gold()) + 0.01


def test_an_element_the_calculator_lacks_is_that_crystals_problem(hull):
    salt = AtomicStructure.from_ase(bulk("NaCl", "rocksalt", a=5.64))
    (found,) = measure_hull_distances([salt], EnergyModel(EMT_PATH, hull), time_limit=None, processes=0)
    assert found.value is None
    assert "NotImplementedError" in found.problem


def test_stable_unique_and_novel_are_counted_over_all_samples(hull):
    class Training:
        def structures(self, split, domain=None, limit=None):
            return [metal("Cu")] if split == "train" else []

    evaluator = CrystalEvaluator(energy=EnergyModel(EMT_PATH, hull), time_limit=None, processes=0)
    evaluator.prepare(Training())
    items = [metal("Cu"), copper_gold(), copper_gold(), copper_gold(1.3), metal("Au")]
    evaluator.update([Sample(Request(seed), item) for seed, item in enumerate(items)])
    found = {name.removeprefix("crystals/"): (e.value, e.count) for name, e in evaluator.compute().items()}
    assert found["stable"] == (0.8, 5)
    assert found["metastable"] == (0.8, 5)
    assert found["energy_known"] == (1, 5)
    # Copper is known, the second alloy repeats the first, the swollen one has the same structure but is not stable.
    assert found["sun"] == (0.4, 5)
    assert found["msun"] == (0.4, 5)
    assert np.sign([row["hull_distance"] for row in evaluator.rows()]).tolist()[1:4] == [-1, -1, 1]


def test_a_calculator_or_a_hull_that_is_none_is_named(hull, tmp_path):
    with pytest.raises(ConfigurationError, match=r"ase\.calculators\.emt\.Nothing"):
        measure_hull_distances([], EnergyModel("ase.calculators.emt.Nothing", hull), None, 0)
    with pytest.raises(ConfigurationError, match="colour"):
        measure_hull_distances([], EnergyModel("ase.Atoms", hull, {"colour": "red"}), None, 0)
    with pytest.raises(ConfigurationError, match="missing"):
        measure_hull_distances([], EnergyModel(EMT_PATH, str(tmp_path / "missing.json")), None, 0)
    with pytest.raises(ConfigurationError, match="relax_steps is -1"):
        EnergyModel(EMT_PATH, hull, relax_steps=-1)
