"""What is written is read back by RDKit, pymatgen and ASE as it was, sound or broken."""

from __future__ import annotations

import json
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
from polydit.domains.chemistry.writers import ASEDatabaseWriter, CIFWriter, ExtxyzWriter, SDFWriter
from polydit.platform.evaluation.writer import SampleWriter
from polydit.platform.requests import Request, Sample

Chem = pytest.importorskip("rdkit.Chem")
ase_io = pytest.importorskip("ase.io")
core = pytest.importorskip("pymatgen.core")

pytestmark = [  # pymatgen, of noble gases and of coordinates such as 0.3333
    pytest.mark.filterwarnings("ignore:No Pauling electronegativity"),
    pytest.mark.filterwarnings("ignore:Issues encountered while parsing CIF"),
]
WISHES = {"domain": "crystal", "text": "it's \"quoted\" # and \\ back; <b> é\nnew line", "n": [1, 2.5, None]}
WATER = AtomicStructure(
    np.array([8, 1, 1]), np.array([[0.0, 0.0, 0.1173], [0.0, 0.7572, -0.4692], [0.0, -0.7572, -0.4692]])
)
ROCK_SALT = AtomicStructure(np.array([11, 17]), np.array([[0.0, 0, 0], [2.8, 2.8, 2.8]]),
                            2.8 * np.array([[0.0, 1, 1], [1, 0, 1], [1, 1, 0]]))
IRON = AtomicStructure(np.array([26]), np.zeros((1, 3)), 2.87 * np.eye(3))
CLASHING = AtomicStructure(np.array([6, 6, 1, 1, 1, 1, 1]), np.random.default_rng(0).normal(size=(7, 3)) * 0.4)
LOST = AtomicStructure(np.array([6, 8]), np.array([[0.0, 0, 0], [np.nan, 0, 0]]))
APART = AtomicStructure(np.array([6, 8]), np.array([[0.0, 0, 0], [30, 0, 0]]))
FLAT = AtomicStructure(np.array([6, 6]), np.zeros((2, 3)), np.diag([3.0, 3.0, 0.0]))
INFINITE = AtomicStructure(np.array([6]), np.zeros((1, 3)), np.diag([3.0, np.inf, 3.0]))


def wrap(*structures: AtomicStructure, wishes: dict[str, Any] | None = None) -> list[Sample]:
    return [Sample(Request(100 + i, wishes or {}), structure) for i, structure in enumerate(structures)]


def read_sdf(path: Path) -> list[Any]:
    return list(Chem.SDMolSupplier(str(path), removeHs=False, sanitize=False))


def test_sdf_round_trip(tmp_path: Path) -> None:
    samples = wrap(WATER, ROCK_SALT, CLASHING, wishes=WISHES)
    assert SDFWriter().write(samples[:2], tmp_path) == [tmp_path / "molecules.sdf"]
    assert SDFWriter().write(samples[1:2], tmp_path, 2) == []
    SDFWriter().write(samples[2:], tmp_path, 2)
    water, clashing = read_sdf(tmp_path / "molecules.sdf")
    np.testing.assert_allclose(water.GetConformer().GetPositions(), WATER.positions, atol=5e-5)
    assert [atom.GetSymbol() for atom in water.GetAtoms()] == ["O", "H", "H"]
    assert Chem.SanitizeMol(water) == 0 and Chem.MolToSmiles(Chem.RemoveHs(water)) == "O"
    assert water.GetPropsAsDict() == {
        "index": 0, "seed": 100, "valid": 1, "num_bonds": 2, "request": json.dumps(WISHES, sort_keys=True)
    }
    assert json.loads(water.GetProp("request")) == WISHES
    assert clashing.GetNumAtoms() == 7 and clashing.GetProp("valid") == "0" and clashing.GetProp("index") == "2"


@pytest.mark.parametrize(("structure", "problem"), [(LOST, True), (APART, False)])
def test_molecule_without_bonds_is_not_lost(tmp_path: Path, structure: AtomicStructure, problem: bool) -> None:
    SDFWriter().write(wrap(structure, WATER), tmp_path)
    broken, water = read_sdf(tmp_path / "molecules.sdf")
    assert broken.GetNumAtoms() == 2 and broken.GetProp("num_bonds") == "0"
    assert broken.HasProp("problem") == problem
    assert water.GetProp("valid") == "1"


def test_sdf_of_benzene_has_bonds_that_rdkit_finds_aromatic(tmp_path: Path) -> None:
    # Alternating lengths, as the bond table knows no aromatic bond.
    angles = np.deg2rad([0, 56, 120, 176, 240, 296])
    carbons = 1.395 * np.stack([np.cos(angles), np.sin(angles), np.zeros(6)], 1)
    structure = AtomicStructure(np.array([6] * 6 + [1] * 6), np.concatenate([carbons, carbons * (2.48 / 1.395)]))
    SDFWriter().write(wrap(structure), tmp_path)
    (benzene,) = read_sdf(tmp_path / "molecules.sdf")
    assert Chem.SanitizeMol(benzene) == 0
    assert Chem.MolToSmiles(Chem.RemoveHs(benzene)) == "c1ccccc1"


def test_cif_round_trip(tmp_path: Path) -> None:
    paths = CIFWriter().write(wrap(WATER, ROCK_SALT, IRON, wishes=WISHES), tmp_path, 7)
    assert [path.name for path in paths] == ["00008_NaCl.cif", "00009_Fe.cif"]
    structure = core.Structure.from_file(paths[0])
    matcher = pytest.importorskip("pymatgen.analysis.structure_matcher").StructureMatcher(primitive_cell=False)
    assert matcher.get_rms_dist(structure, ROCK_SALT.to_pymatgen())[0] < 1e-6
    assert structure.lattice.volume == pytest.approx(2 * 2.8**3)
    atoms = ase_io.read(paths[0])
    assert sorted(atoms.symbols) == ["Cl", "Na"] and atoms.pbc.all()
    assert atoms.get_distance(0, 1, mic=True) == pytest.approx(2.8)
    text = paths[0].read_text(encoding="ascii")
    assert text.startswith("# sample 8, seed 101")
    block = next(iter(pytest.importorskip("pymatgen.io.cif").CifFile.from_str(text).data.values()))
    assert (block["_polydit_index"], block["_polydit_seed"]) == ("8", "101")
    assert json.loads(block["_polydit_request"]) == WISHES
    assert len(ase_io.read(paths[1])) == len(core.Structure.from_file(paths[1])) == 1


@settings(deadline=None, max_examples=15)
@given(data=st.data())
def test_cif_keeps_any_crystal(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 6))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    cell = np.diag(rng.uniform(3, 9, 3)) + rng.uniform(-0.8, 0.8, (3, 3))
    grid = np.array(list(np.ndindex(2, 2, 2)))[rng.choice(8, count, replace=False)] / 2  # no two atoms together
    structure = AtomicStructure(rng.integers(1, 95, count), (grid + rng.uniform(-0.1, 0.1, grid.shape)) @ cell, cell)
    (path,) = CIFWriter().write(wrap(structure), tmp_path_factory.mktemp("cif"))
    atoms = ase_io.read(path)
    assert sorted(atoms.numbers) == sorted(structure.numbers)
    np.testing.assert_allclose(atoms.cell.cellpar(), structure.to_ase().cell.cellpar(), atol=1e-5)
    np.testing.assert_allclose(
        np.sort(atoms.get_all_distances(mic=True), axis=None),
        np.sort(structure.to_ase().get_all_distances(mic=True), axis=None), atol=1e-5,
    )


@pytest.mark.parametrize("structure", [FLAT, INFINITE])
def test_crystal_without_a_cif_is_kept_as_extxyz(tmp_path: Path, structure: AtomicStructure) -> None:
    (path,) = CIFWriter().write(wrap(structure), tmp_path)
    assert path.name == "00000_C.extxyz"
    assert len(ase_io.read(path)) == len(structure.numbers)


def test_extxyz_round_trip(tmp_path: Path) -> None:
    samples = wrap(WATER, ROCK_SALT, LOST, FLAT, IRON, wishes=WISHES)
    ExtxyzWriter().write(samples[:2], tmp_path)
    paths = ExtxyzWriter().write(samples[2:], tmp_path, 2)
    assert [path.name for path in paths] == ["molecules.extxyz", "crystals.extxyz"]
    molecules, crystals = (ase_io.read(path, ":") for path in paths)
    assert [atoms.info["index"] for atoms in molecules] == [0, 2]
    assert [atoms.info["seed"] for atoms in crystals] == [101, 103, 104]
    assert all(json.loads(atoms.info["request"]) == WISHES for atoms in molecules + crystals)
    np.testing.assert_allclose(molecules[0].positions, WATER.positions, atol=1e-8)
    np.testing.assert_allclose(crystals[0].cell.array, ROCK_SALT.cell, atol=1e-8)
    assert np.isnan(molecules[1].positions).sum() == 1
    assert not molecules[0].pbc.any() and crystals[0].pbc.all()


def test_other_items_and_no_samples_write_nothing(tmp_path: Path) -> None:
    for writer in (SDFWriter(), CIFWriter(), ExtxyzWriter(), ASEDatabaseWriter()):
        assert writer.write([], tmp_path) == writer.write([Sample(Request(0), "not a structure")], tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_real_molecules_and_crystals_survive(tmp_path: Path, shared_data: Path) -> None:
    shard = np.load(shared_data / "molecules" / "qm9" / "qm9_05.npz")
    ends = np.cumsum(shard["num_atoms"])[:30]
    molecules = [
        AtomicStructure(numbers.astype(np.int64), positions / 1e10)
        for numbers, positions in zip(np.split(shard["atomic_numbers"][: ends[-1]], ends[:-1]),
                                      np.split(shard["positions_1e10"][: ends[-1]], ends[:-1]), strict=True)
    ]
    SDFWriter().write(wrap(*molecules), tmp_path)
    read = list(Chem.SDMolSupplier(str(tmp_path / "molecules.sdf"), removeHs=False))
    assert [m.GetNumAtoms() for m in read] == [len(structure.numbers) for structure in molecules]
    assert sum(m.GetIntProp("valid") for m in read) >= 28
    shard = np.load(shared_data / "crystals" / "mp_le20" / "mp_03.npz")
    ends = np.cumsum(shard["num_atoms"])[:10]
    fractions = np.split(shard["frac_coords_1e8"][: ends[-1]] / 1e8, ends[:-1])
    for index, (numbers, fraction) in enumerate(zip(np.split(shard["atomic_numbers"][: ends[-1]], ends[:-1]), fractions,
                                                    strict=True)):
        cell = core.Lattice.from_parameters(*shard["lattice"][index]).matrix
        structure = AtomicStructure(numbers.astype(np.int64), fraction @ cell, cell)
        (path,) = CIFWriter().write(wrap(structure), tmp_path, index)
        again = core.Structure.from_file(path)
        assert again.composition == structure.to_pymatgen().composition
        assert again.volume == pytest.approx(abs(np.linalg.det(cell)), rel=1e-6)


LABELS = {"energy": -3.5, "gap": 1 / 3, "tiny": 5e-324, "pbc": 1.0, "seed": 2.0, "a>b\nc": 3.0, "missing": float("nan")}


@pytest.mark.parametrize("writer", [SDFWriter(), ExtxyzWriter(), ASEDatabaseWriter()])
def test_labels_and_names_come_back_to_the_bit(tmp_path: Path, writer: Any) -> None:
    named = replace(WATER, labels=LABELS, name="water 1")
    (path,) = writer.write(wrap(named, WATER, wishes=WISHES), tmp_path)
    first, second = parse_file(path, "file")
    np.testing.assert_equal(first.labels, LABELS)  # index and seed of the sample are no labels of it
    assert first.name.endswith("water 1") and second.labels == {}


def test_database_round_trip(tmp_path: Path) -> None:
    wishes = {"domain": "crystal", "num_atoms": 2, "composition": {"Na": 1}, "space group": 225, "text": "12"}
    samples = wrap(WATER, ROCK_SALT, CLASHING, FLAT, wishes=wishes)
    assert ASEDatabaseWriter().write(samples[:2], tmp_path) == [tmp_path / "structures.db"]
    ASEDatabaseWriter().write([Sample(Request(0), "not a structure"), *samples[2:]], tmp_path, 2)
    with pytest.importorskip("ase.db").connect(tmp_path / "structures.db") as database:
        rows = list(database.select())
        assert [row.index for row in rows] == [0, 1, 3, 4] and [row.seed for row in rows] == [100, 101, 102, 103]
        assert database.count("request_domain=crystal,request_num_atoms=2,seed>101") == 2
    assert set(rows[1].key_value_pairs) == {"index", "seed", "request_domain", "request_num_atoms"}
    assert rows[1].data["request"] == wishes
    for row, structure in zip(rows, (WATER, ROCK_SALT, CLASHING, FLAT), strict=True):
        np.testing.assert_array_equal(row.positions, structure.positions)
    np.testing.assert_array_equal(rows[1].cell, ROCK_SALT.cell)


class Waters(pytorch_lightning.LightningModule):
    """Answers every request with water, but for one seed."""

    def predict_step(self, batch: list[Request], batch_idx: int) -> list[Sample]:
        if any(request.seed == 3 for request in batch):
            raise RuntimeError("no sample today")
        return [Sample(request, WATER) for request in batch]


def run_writer(folder: Path, seeds: list[int]) -> None:
    trainer = pytorch_lightning.Trainer(
        accelerator="cpu", default_root_dir=folder, callbacks=[SampleWriter([ASEDatabaseWriter()])], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.predict(Waters(), DataLoader([Request(seed) for seed in seeds], batch_size=2, collate_fn=list))


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_runs_repeated_and_interrupted_leave_whole_databases(tmp_path: Path) -> None:
    connect = pytest.importorskip("ase.db").connect

    def read(folder: str) -> list[int]:
        return [row.seed for row in connect(tmp_path / folder / "structures.db").select()]

    for _ in range(2):
        run_writer(tmp_path, [5, 6, 7])
        assert read("samples") == [5, 6, 7]
    with pytest.raises(RuntimeError, match="no sample today"):
        run_writer(tmp_path, [8, 9, 3])
    assert read("samples") == [5, 6, 7] and read("samples.partial") == [8, 9]
    run_writer(tmp_path, [10])
    assert read("samples") == [10] and read("samples.interrupted-1") == [8, 9]
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == ["manifest.json", "structures.db"]
