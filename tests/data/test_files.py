"""Your own files: every format comes in, and every kind of bad record is named, skipped or refused."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import ase.db
import ase.io
import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from pymatgen.core import Lattice, Structure
from rdkit import Chem
from rdkit.Chem import AllChem

from polydit.data.chemistry.sources import CDVAECsvSource, FilesSource, SmilesSource, Source
from polydit.data.chemistry.store import StructureStore
from polydit.data.chemistry.writer import BadRecordError
from polydit.platform.errors import DataError


def embed(smiles: str, hydrogens: bool = True) -> Chem.Mol:
    mol = Chem.MolFromSmiles(smiles)
    mol = Chem.AddHs(mol) if hydrogens else mol
    AllChem.EmbedMolecule(mol, randomSeed=0)
    return mol


def write_sdf(path: Path) -> None:
    mol = embed("CCO")
    mol.SetProp("_Name", "ethanol")
    mol.SetDoubleProp("gap", 7.5)
    with Chem.SDWriter(str(path)) as writer:
        writer.write(mol)


def write_database(path: Path) -> None:
    with ase.db.connect(path) as database:
        database.write(molecule("NH3"), gap=1.5)
        database.write(bulk("Cu"))


def write_with_energy(path: Path) -> None:
    atoms = molecule("CO2")
    atoms.calc = SinglePointCalculator(atoms, energy=-3.5)
    ase.io.write(path, [atoms, bulk("NaCl", "rocksalt", a=5.64)])


FORMATS: dict[str, tuple[Callable[[Path], None], int]] = {
    "a.cif": (lambda path: ase.io.write(path, bulk("Cu")), 1),
    "a.vasp": (lambda path: ase.io.write(path, bulk("Cu"), format="vasp"), 1),
    "POSCAR": (lambda path: ase.io.write(path, bulk("Cu"), format="vasp"), 1),
    "CONTCAR_3": (lambda path: ase.io.write(path, bulk("Cu"), format="vasp"), 1),
    "a.xyz": (lambda path: ase.io.write(path, molecule("C6H6"), format="xyz"), 1),
    "a.extxyz": (write_with_energy, 2),
    "a.sdf": (write_sdf, 1),
    "a.mol": (lambda path: path.write_text(Chem.MolToMolBlock(embed("CO"))), 1),
    "a.db": (write_database, 2),
}


def load(source: Source, folder: Path) -> StructureStore:
    return source.load(folder / "cache")


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_read(name: str, tmp_path: Path) -> None:
    write, count = FORMATS[name]
    write(tmp_path / name)
    store = load(FilesSource(str(tmp_path / name)), tmp_path)
    assert (len(store), store.bad_records) == (count, [])


def test_labels_come_along(tmp_path: Path) -> None:
    for name in ("a.sdf", "a.db", "a.extxyz"):
        FORMATS[name][0](tmp_path / name)
    store = load(FilesSource(str(tmp_path)), tmp_path)
    by_name = {structure.name: structure for structure in store}
    assert by_name["a.sdf record 1 ethanol"].labels == {"gap": 7.5}
    assert by_name["a.db id 1"].labels == {"gap": 1.5}
    assert by_name["a.extxyz frame 1"].labels == {"energy": -3.5}
    assert by_name["a.db id 2"].labels == {}


def test_folders_name_splits(tmp_path: Path) -> None:
    for folder, element in (("train", "Cu"), ("test", "Au"), ("rest", "Ag")):
        (tmp_path / folder).mkdir()
        ase.io.write(tmp_path / folder / "x.cif", bulk(element))
    store = load(FilesSource(str(tmp_path)), tmp_path)
    assert {structure.name: int(code) for structure, code in zip(store, store.split, strict=True)} == {
        "rest/x.cif": -1, "test/x.cif": 2, "train/x.cif": 0,
    }  # fmt: skip


def partial_occupancy(path: Path) -> None:
    Structure(Lattice.cubic(3.0), [{"Cu": 0.5, "Au": 0.5}], [[0, 0, 0]]).to(str(path), fmt="cif")


def refused_by_rdkit(path: Path) -> None:
    lines = ["", "  five bonds", "", "  6  5  0  0  0  0  0  0  0  0999 V2000"]
    lines += [f"{x:10.4f}{0.3 * x:10.4f}    0.5000 {e:<3} 0  0" for x, e in zip(range(6), "CHHHHH", strict=True)]
    lines += [f"  1  {i}  1  0" for i in range(2, 7)] + ["M  END", "$$$$", ""]
    path.write_text("\n".join(lines))


def overlapping(path: Path) -> None:
    ase.io.write(path, ase.Atoms("C2", positions=[[0, 0, 0], [0, 0, 0.05]]))


BAD_FILES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "partial occupancy": ("a.cif", partial_occupancy, "partial occupancy; order the structure"),
    "valence": ("a.sdf", refused_by_rdkit, "RDKit refuses this molecule"),
    "no hydrogens": ("a.mol", lambda p: p.write_text(Chem.MolToMolBlock(embed("CCO", False))), "6 hydrogens have no"),
    "flat": ("a.mol", lambda p: p.write_text(Chem.MolToMolBlock(Chem.MolFromSmiles("CCO"))), "no 3D coordinates"),
    "nan": ("a.xyz", lambda p: p.write_text("1\n\nC 0.0 nan 0.0\n"), "not finite"),
    "truncated": ("a.xyz", lambda p: p.write_text("3\n\nC 0.0 0.0 0.0\n"), "ASE cannot read this frame"),
    "garbage": ("a.cif", lambda p: p.write_text("this is no CIF"), "cannot read this CIF"),
    "binary": ("a.cif", lambda p: p.write_bytes(b"\xff\xfe\x00\x80"), "not a text file"),
    "garbage poscar": ("POSCAR", lambda p: p.write_text("nothing\nhere\n"), "cannot read this POSCAR"),
    "garbage database": ("a.db", lambda p: p.write_text("no database"), "cannot read this database"),
    "empty": ("a.cif", lambda p: p.write_text(""), "the file is empty"),
    "no record": ("a.sdf", lambda p: p.write_text("\n\n"), "holds no structure"),
    "heavy": ("a.xyz", lambda p: p.write_text("1\n\nLr 0.0 0.0 0.0\n"), "atomic number 103 is outside"),
    "overlap": ("a.extxyz", overlapping, "0.050 Å apart"),
    "format": ("a.pdb", lambda p: p.write_text("ATOM"), "unknown format '.pdb'; known are .cif"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files_are_named_skipped_or_refused(case: str, tmp_path: Path) -> None:
    name, write, reason = BAD_FILES[case]
    folder = tmp_path / "data"
    folder.mkdir()
    write(folder / name)
    ase.io.write(folder / "z_good.xyz", molecule("H2O"))
    store = load(FilesSource(str(folder), pattern="*"), tmp_path)
    assert [structure.name for structure in store] == ["z_good.xyz"]
    assert [bad.name.startswith(name) for bad in store.bad_records] == [True]
    assert reason in store.bad_records[0].reason
    with pytest.raises(BadRecordError, match=name):
        load(FilesSource(str(folder), pattern="*", on_error="raise"), tmp_path)


def test_frames_before_a_broken_one_are_kept(tmp_path: Path) -> None:
    ase.io.write(tmp_path / "a.xyz", [molecule("H2O"), molecule("NH3")], format="extxyz")
    with (tmp_path / "a.xyz").open("a") as file:
        file.write("2\n\nC 0 0\n")
    store = load(FilesSource(str(tmp_path / "a.xyz")), tmp_path)
    assert (len(store), [bad.name for bad in store.bad_records]) == (2, ["a.xyz frame 3"])


def test_empty_and_missing_folders(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty holds 0 files and none is .cif"):
        load(FilesSource(str(tmp_path / "empty")), tmp_path)
    with pytest.raises(DataError, match=r"no file or folder .*absent; give one with .cif"):
        load(FilesSource(str(tmp_path / "absent")), tmp_path)


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "a.xyz"
    ase.io.write(path, molecule("H2O"))
    source = FilesSource(str(path))
    before = source.cache_path(tmp_path)
    assert source.cache_path(tmp_path) == before
    ase.io.write(path, [molecule("H2O"), molecule("CO")], format="extxyz")
    assert source.cache_path(tmp_path) != before


def write_table(path: Path, rows: list[str]) -> None:
    data = "\n".join(rows).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def test_smiles_tables(tmp_path: Path) -> None:
    write_table(tmp_path / "a.csv.gz", ["smiles,gap,note", "CCO,1.5,x", "C1CC,2,x", "O,,x", "[U],3,x"])
    store = load(SmilesSource(str(tmp_path / "a.csv.gz")), tmp_path)
    assert [(s.name, s.labels) for s in store] == [("CCO", {"gap": 1.5}), ("O", {})]
    assert [bad.name for bad in store.bad_records] == ["a.csv.gz record 2 (C1CC)", "a.csv.gz record 4 ([U])"]
    water = store[1]
    bonds = np.linalg.norm(water.positions[1:] - water.positions[0], axis=1)
    np.testing.assert_allclose(bonds, 0.969, atol=0.01)  # MMFF94
    write_table(tmp_path / "b.smi", ["CC name", "", "C"])
    assert [s.name for s in load(SmilesSource(str(tmp_path / "b.smi")), tmp_path)] == ["CC", "C"]
    with pytest.raises(DataError, match=r"no column 'SMILES'.*smiles, gap, note"):
        load(SmilesSource(str(tmp_path / "a.csv.gz"), column="SMILES"), tmp_path)


def test_damaged_tables(tmp_path: Path) -> None:
    write_table(tmp_path / "a.csv.gz", ["smiles", "CCO"])
    (tmp_path / "a.csv.gz").write_bytes((tmp_path / "a.csv.gz").read_bytes()[:-5])
    (tmp_path / "b.csv").write_bytes(b"smiles\n\xff\n")
    for name in ("a.csv.gz", "b.csv"):
        with pytest.raises(DataError, match=f"{name} is damaged or no text"):
            load(SmilesSource(str(tmp_path / name)), tmp_path)
        with pytest.raises(DataError, match=f"{name} is damaged or no text"):
            load(CDVAECsvSource(str(tmp_path / name)), tmp_path)


def test_cdvae_tables(tmp_path: Path) -> None:
    salt = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    cif = salt.to(fmt="cif")
    rows = ["material_id,band_gap,cif,spacegroup.number", f'mp-1,5.1,"{cif}",225', f'mp-2,,"{cif}",', 'mp-3,1,"none",1']
    write_table(tmp_path / "train.csv", rows)
    store = load(CDVAECsvSource(str(tmp_path)), tmp_path)
    assert [(s.name, s.labels) for s in store] == [("mp-1", {"band_gap": 5.1}), ("mp-2", {})]
    assert store.space_group.tolist() == [225, 225]
    assert store.split.tolist() == [0, 0]
    assert [bad.name for bad in store.bad_records] == ["mp-3"]
    assert store.units == {"band_gap": "eV"}
    with pytest.raises(DataError, match="'gap' is absent; numeric are band_gap"):
        load(CDVAECsvSource(str(tmp_path), labels=["gap"]), tmp_path)


def test_many_files_are_parsed_by_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(4):
        ase.io.write(tmp_path / f"{i}.cif", bulk("Cu", a=3.5 + 0.1 * i))
    partial_occupancy(tmp_path / "4.cif")
    monkeypatch.setattr("polydit.data.chemistry.sources.base.SERIAL_LIMIT", 1)
    store = load(FilesSource(str(tmp_path), workers=1), tmp_path)
    np.testing.assert_allclose([np.linalg.det(s.cell) for s in store], [(3.5 + 0.1 * i) ** 3 / 4 for i in range(4)])
    assert [bad.name for bad in store.bad_records] == ["4.cif"]
