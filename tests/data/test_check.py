"""The check command: counts as text and JSON, bad records by name, exit codes, mistakes in one line."""

from __future__ import annotations

import json
from pathlib import Path

import ase.io
import pytest
import yaml
from ase.build import bulk, molecule

from polydit.data.chemistry.check import check, find_source, main
from polydit.data.chemistry.sources import CDVAECsvSource, FilesSource, SmilesSource

MODULE = "polydit.data.chemistry.datamodule.ChemistryDataModule"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    data = tmp_path / "data"
    data.mkdir()
    ase.io.write(data / "salt.cif", bulk("NaCl", "rocksalt", a=5.64))
    ase.io.write(data / "water.xyz", [molecule("H2O")] * 3, format="extxyz")
    return data


def test_report(folder: Path, tmp_path: Path) -> None:
    report = check(FilesSource(str(folder)), tmp_path / "cache", splits=[0.5, 0.25, 0.25])
    assert (report.molecules, report.crystals, report.atoms, report.space_groups) == (3, 1, 11, 1)
    assert report.elements == {"H": 6, "O": 3, "Na": 1, "Cl": 1}
    assert report.sizes == {2: 1, 3: 3}
    assert report.splits == {"train": 2, "val": 1, "test": 1}


def test_path_prints_a_report_and_keeps_nothing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(folder), "--json", str(tmp_path / "report.json")]) == 0
    text = capsys.readouterr().out
    assert "1 (1 with a space group)" in text
    assert "H 6, O 3" in text
    assert json.loads((tmp_path / "report.json").read_text())[0]["atoms"] == 11
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "report.json"]


def test_bad_records_are_listed_and_give_exit_code_1(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "broken.cif").write_text("no cif [at all]")
    assert main([str(folder)]) == 1
    assert "broken.cif: pymatgen cannot read this CIF" in capsys.readouterr().out
    assert main([str(folder), "--json", "-"]) == 1
    assert json.loads(capsys.readouterr().out)[0]["bad_records"][0]["name"] == "broken.cif"


def test_nothing_usable_is_one_line_and_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("absent", "absent.csv", "absent.smi"):
        assert main([str(tmp_path / name)]) == 2
        output = capsys.readouterr()
        assert output.out == ""
        assert output.err.startswith("polydit check: there is no file")
        assert output.err.count("\n") == 1


def test_configuration_names_the_sources(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = {"class_path": "polydit.data.chemistry.sources.FilesSource", "init_args": {"path": str(folder)}}
    options = {"sources": [source], "cache_dir": str(tmp_path / "cache"), "splits": [0.5, 0.5, 0.0]}
    data = {"class_path": MODULE, "init_args": options}
    (tmp_path / "a.yaml").write_text(yaml.safe_dump({"trainer": {"max_steps": 3}, "data": data}))
    (tmp_path / "b.yaml").write_text(yaml.safe_dump({"data": {"init_args": {"splits": [0.0, 0.5, 0.5]}}}))
    assert main(["--config", str(tmp_path / "a.yaml"), "--config", str(tmp_path / "b.yaml"), "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["splits"] == {"train": 0, "val": 2, "test": 2}
    assert (tmp_path / "cache").is_dir()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: {}", "no data section"),
        (f"data: {{class_path: {MODULE}, init_args: {{sorces: []}}}}", "sorces"),
    ],
)
def test_bad_configurations(text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.yaml").write_text(text)
    assert main(["--config", str(tmp_path / "a.yaml")]) == 2
    assert message in capsys.readouterr().err


def test_one_of_path_and_config(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([])
    assert "give a PATH or --config" in capsys.readouterr().err


def test_sources_are_found_by_what_a_path_holds(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("cif\nx\n")
    (tmp_path / "b.csv").write_text("smiles\nC\n")
    assert isinstance(find_source(str(tmp_path / "a.csv")), CDVAECsvSource)
    assert isinstance(find_source(str(tmp_path / "b.csv")), SmilesSource)
    assert isinstance(find_source(str(tmp_path / "c.smi.gz")), SmilesSource)
    assert isinstance(find_source(str(tmp_path)), FilesSource)
