"""The published sets give their published counts; small shards made here test the readers everywhere."""

from __future__ import annotations

import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pymatgen.core import Lattice

from polydit.data.chemistry.collate import collate_raw
from polydit.data.chemistry.datamodule import ChemistryDataModule
from polydit.data.chemistry.sources import CDVAECsvSource, MaterialsProjectSource, QM9Source, TorchGeometricQM9Source
from polydit.data.chemistry.sources.qm9 import EDM_SIZE, edm_split, read_torch_geometric, read_uncharacterized
from polydit.data.chemistry.store import StructureStore
from polydit.data.chemistry.writer import StoreWriter
from polydit.platform.errors import DataError


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def qm9(shared_data: Path, cache: Path) -> StructureStore:
    return QM9Source(str(shared_data / "molecules" / "qm9")).load(cache)


@pytest.fixture(scope="module")
def crystals(shared_data: Path, cache: Path) -> StructureStore:
    return MaterialsProjectSource(str(shared_data / "crystals" / "mp_le20"), find_space_groups=False).load(cache)


def test_qm9_counts(qm9: StructureStore) -> None:
    assert (len(qm9), len(qm9.numbers), len(qm9.bad_records)) == (128_744, 2_330_532, 0)
    assert [int((qm9.split == code).sum()) for code in (0, 1, 2)] == [98_412, 17_473, 12_859]
    assert set(qm9.meta["elements"]) == {"1", "6", "7", "8"}
    # EDM's published histogram of the training split, at sizes that no molecule with fluorine has.
    train = qm9.num_atoms[qm9.split == 0]
    assert [int((train == size).sum()) for size in (26, 27, 29)] == [48, 266, 25]


def test_qm9_geometry_and_labels(qm9: StructureStore, shared_data: Path) -> None:
    methane = qm9[0]
    assert (methane.name, methane.numbers.tolist()) == ("gdb_1", [6, 1, 1, 1, 1])
    bonds = np.linalg.norm(methane.positions[1:] - methane.positions[0], axis=1)
    np.testing.assert_allclose(bonds, 1.092, atol=1e-3)  # B3LYP/6-31G(2df,p)
    assert methane.labels["gap"] == pytest.approx(13.736, abs=1e-3)
    excluded = read_uncharacterized(shared_data / "molecules" / "qm9" / "uncharacterized.txt")
    assert (len(excluded), excluded[0]) == (3054, 58)
    assert not {f"gdb_{i}" for i in excluded} & {qm9.name(i) for i in range(3000)}


def test_edm_split_is_computed_as_it_was_published(shared_data: Path) -> None:
    folder = shared_data / "molecules" / "qm9"
    excluded = read_uncharacterized(folder / "uncharacterized.txt")
    indices = np.setdiff1d(np.arange(1, 133_886), excluded)
    assert len(indices) == EDM_SIZE
    split = edm_split(EDM_SIZE)
    with np.load(folder / "split_edm.npz") as published:
        for code, name in enumerate(("train", "valid", "test")):
            assert indices[split == code].tolist() == sorted(published[name].tolist())


def test_materials_project_counts(crystals: StructureStore) -> None:
    assert (len(crystals), len(crystals.numbers), len(crystals.bad_records)) == (78_974, 850_888, 0)
    assert len(crystals.meta["elements"]) == 89
    assert [int((crystals.split == code).sum()) for code in (0, 1, 2)] == [65_441, 6_757, 6_776]
    assert crystals.num_atoms.max() == 20


def test_materials_project_cells_agree_with_pymatgen(crystals: StructureStore, shared_data: Path) -> None:
    with np.load(shared_data / "crystals" / "mp_le20" / "mp_00.npz") as shard:
        lattice, fractional = shard["lattice"][:200], shard["frac_coords_1e8"] / 1e8
    batch = collate_raw(crystals.read(np.arange(200)))
    np.testing.assert_allclose(batch.lengths, lattice[:, :3], rtol=1e-6)
    np.testing.assert_allclose(np.degrees(batch.angles.numpy()), lattice[:, 3:], rtol=1e-6)
    start = 0
    for i in range(0, 200, 20):
        start, n = int(crystals.offsets[i]), int(crystals.num_atoms[i])
        expected = Lattice.from_parameters(*lattice[i])
        assert np.linalg.det(crystals.cells[i]) == pytest.approx(expected.volume)
        difference = batch.fractional[i, :n].numpy() - fractional[start : start + n]
        np.testing.assert_allclose(difference - np.round(difference), 0, atol=1e-6)


@pytest.mark.usefixtures("qm9", "crystals")
def test_joint_batches_waste_little(shared_data: Path, cache: Path) -> None:
    sources = [
        QM9Source(str(shared_data / "molecules" / "qm9")),
        MaterialsProjectSource(str(shared_data / "crystals" / "mp_le20"), find_space_groups=False),
    ]
    for options in ({"batch_size": 64}, {"batch_size": 256}, {"max_tokens": 4096}):
        module = ChemistryDataModule(sources, str(cache), **options)
        assert module.train_dataloader().sampler.padding_fraction() < 0.10
    assert len(module.places("train")) == 98_412 + 65_441
    histogram = module.count_histogram()
    assert (int(histogram["molecule"].argmax()), len(histogram["molecule"])) == (19, 30)
    assert (int(histogram["crystal"].argmax()), len(histogram["crystal"])) == (4, 21)


def test_mp20_table(shared_data: Path, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store = CDVAECsvSource(str(shared_data / "crystals" / "mp20_sample" / "test.csv.gz"), workers=0).load(tmp_path)
    assert (len(store), len(store.bad_records)) == (142, 0)
    assert set(store.split.tolist()) == {2}
    assert (store.space_group > 0).all()
    assert store.label_names == ["band_gap", "e_above_hull", "formation_energy_per_atom"]
    assert (store.label("e_above_hull") < 0.1).all()  # MP-20 holds what is within 0.08 eV/atom of the hull


def write_shards(folder: Path) -> None:
    np.savez(
        folder / "qm9_00.npz", gdb_index=[1, 58, 3], num_atoms=[2, 1, 1], atomic_numbers=[6, 8, 7, 8],
        positions_1e10=[[0, 0, 0], [0, 0, 11_300_000_000], [0, 0, 0], [5, 0, 0]],
    )  # fmt: skip
    np.savez(folder / "split_edm.npz", train=[1], valid=[2], test=[3])
    (folder / "uncharacterized.txt").write_text("header\n===\n 58   NC(=N)C#N   x   y   6.0\n")
    np.savez(
        folder / "mp_00.npz", material_id=np.array([b"mp-1", b"mp-2"]), num_atoms=[1, 2], mp20_role=[0, 2],
        lattice=[[3.0, 3.0, 3.0, 90, 90, 90], [4.0, 4.0, 4.0, 60, 60, 60]], atomic_numbers=[84, 14, 14],
        frac_coords_1e8=[[0, 0, 0], [0, 0, 0], [25_000_000] * 3],
    )  # fmt: skip


def test_shards_are_read(tmp_path: Path) -> None:
    write_shards(tmp_path)
    molecules = QM9Source(str(tmp_path)).load(tmp_path / "cache")
    assert [structure.name for structure in molecules] == ["gdb_1", "gdb_3"]
    assert molecules.split.tolist() == [0, 2]
    assert molecules[0].positions[1].tolist() == [0, 0, 1.13]
    crystals = MaterialsProjectSource(str(tmp_path), niggli=True).load(tmp_path / "cache")
    assert [structure.name for structure in crystals] == ["mp-1", "mp-2"]
    assert crystals.space_group.tolist() == [221, 227]
    assert crystals.split.tolist() == [0, 2]
    np.testing.assert_allclose(np.abs(np.linalg.det(crystals.cells)), [27, 64 / np.sqrt(2)])


@pytest.mark.parametrize("source", [QM9Source, MaterialsProjectSource])
def test_missing_shards(source: type, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="give the folder"):
        source(str(tmp_path)).load(tmp_path / "cache")
    with pytest.raises(DataError, match="there is no folder"):
        source(str(tmp_path / "absent")).load(tmp_path / "cache")


@pytest.mark.parametrize("source", [QM9Source, MaterialsProjectSource])
def test_damaged_and_foreign_shards(source: type, tmp_path: Path) -> None:
    write_shards(tmp_path)
    name = "qm9_00.npz" if source is QM9Source else "mp_00.npz"
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=f"{name} is damaged"):
        source(str(tmp_path)).load(tmp_path / "cache")
    np.savez(tmp_path / name, other=[1])
    with pytest.raises(DataError, match=r"it should hold .*num_atoms"):
        source(str(tmp_path)).load(tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_torch_geometric_items_become_molecules(tmp_path: Path) -> None:
    targets = torch.arange(19.0)[None]
    items = [
        SimpleNamespace(z=torch.tensor([6, 8]), pos=torch.tensor([[0.0, 0, 0], [0, 0, 1.13]]), y=targets, idx=0),
        SimpleNamespace(z=torch.tensor([10]), pos=torch.zeros(1, 3), y=targets + 1, idx=torch.tensor([4])),
    ]
    with StoreWriter(tmp_path / "s", units=TorchGeometricQM9Source.units) as writer:
        read_torch_geometric(items, writer)
    store = StructureStore.open(tmp_path / "s")
    assert [structure.name for structure in store] == ["gdb_1", "gdb_5"]
    assert (store[0].labels["gap"], store[1].labels["rotational_c"]) == (4.0, 19.0)
    assert store.split.tolist() == [-1, -1]
    assert store.units["mu"] == "D"
    assert set(store.units) == set(TorchGeometricQM9Source.labels)
