"""Property-conditional generation end to end by the command, with the recipe and the options of the how-to page."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
import torch
import yaml

import polydit
from polydit.data.chemistry.datamodule import ChemistryDataModule
from polydit.data.chemistry.sources import FilesSource
from polydit.domains.chemistry.property_prediction import PropertyPredictionSystem, load_predictor
from polydit.platform.cli import main
from polydit.platform.errors import CheckpointError
from tests.house.pages import read_blocks

from .test_property_prediction import make_molecules

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "examples" / "chemistry"
NAMES = {"samples", "valid", "predicted", "naive", "within_size", "within_formula", "atoms_only", "bound"}


def read_overlay() -> dict[str, Any]:
    """What the page tells a reader to put over a generator's recipe."""
    blocks = read_blocks(ROOT / "docs" / "how-to" / "property-conditions.md", ROOT)
    (text,) = [block.text for block in blocks if block.title == "conditional.yaml"]
    overlay: dict[str, Any] = yaml.safe_load(text)
    return overlay


def shorten(recipe: dict[str, Any], folder: Path, name: str) -> str:
    """Path of the recipe with few steps on the molecules in `folder`."""
    recipe["run"] = str(folder / name)
    recipe["data"]["init_args"] |= {
        "sources": [
            {
                "class_path": "polydit.data.chemistry.sources.FilesSource",
                "init_args": {"path": str(folder / "molecules.extxyz"), "workers": 1},
            }
        ],
        "cache_dir": str(folder / "cache"), "splits": [0.8, 0.1, 0.1], "batch_size": 16,
    }  # fmt: skip
    recipe["trainer"] |= {
        "max_steps": 4, "val_check_interval": 2, "enable_progress_bar": False, "limit_val_batches": 1, "logger": False,
    }
    recipe["model"]["lr_scheduler"]["init_args"]["total_steps"] = 4
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return str(path)


def read_recipe(name: str) -> dict[str, Any]:
    recipe: dict[str, Any] = yaml.safe_load((RECIPES / f"{name}.yaml").read_text())
    return recipe


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 160 labelled molecules, a predictor trained on one half of them and a generator on the other."""
    folder = tmp_path_factory.mktemp("property")
    ase.io.write(folder / "molecules.extxyz", [molecule.to_ase() for molecule in make_molecules(160)])
    predictor = read_recipe("gap_predictor")
    predictor["model"]["system"]["init_args"]["network"]["init_args"] |= {"width": 16, "interactions": 1}
    assert main(["fit", "--config", shorten(predictor, folder, "predictor")]) == 0
    assert main(["fit", "--config", shorten(read_recipe("demo_autoencoder"), folder, "autoencoder")]) == 0

    generator, overlay = read_recipe("demo"), read_overlay()
    system = generator["model"]["system"]["init_args"]
    system |= {"guidance": overlay["model"]["system"]["init_args"]["guidance"]}
    system["conditioner"]["init_args"] |= overlay["model"]["system"]["init_args"]["conditioner"]["init_args"]
    system["denoiser"]["init_args"]["embedding"]["init_args"]["channels"] = {}
    system["codec"]["init_args"]["autoencoder"] = str(folder / "autoencoder" / "checkpoints" / "last.ckpt")
    system["sampler"]["init_args"]["steps"] = 3
    generator["data"]["init_args"] |= {k: v for k, v in overlay["data"]["init_args"].items() if k != "sources"}
    generator["data"]["init_args"]["requests"][0]["count"] = 12
    generator["trainer"]["callbacks"] = overlay["trainer"]["callbacks"]
    evaluators = generator["trainer"]["callbacks"][1]["init_args"]["evaluators"]
    evaluators[1]["init_args"]["predictor"] = str(folder / "predictor" / "checkpoints" / "last.ckpt")
    evaluators[0]["init_args"]["processes"] = 0
    assert main(["fit", "--config", shorten(generator, folder, "gap")]) == 0
    return folder


def predict(folder: Path, *options: str) -> int:
    checkpoint = str(folder / "gap" / "checkpoints" / "last.ckpt")
    return main(["predict", "--config", str(folder / "gap.yaml"), "--ckpt_path", checkpoint, *options])


def read_rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "rows.csv").open() as file:
        return [row for row in csv.DictReader(file) if row["kind"] == "molecule property"]


def test_the_generator_learnt_the_axis(workspace: Path) -> None:
    model = polydit.load(workspace / "gap")
    axis = model.system.conditioner.axes["gap"]  # type: ignore[union-attr, index]
    gaps = [molecule.labels["gap"] for molecule in make_molecules(160)]
    assert float(axis.mean) == pytest.approx(np.mean(gaps), rel=0.2) and float(axis.std) < 2 * np.std(gaps)


def test_the_predictor_is_tested_with_an_interval(workspace: Path) -> None:
    checkpoint = str(workspace / "predictor" / "checkpoints" / "last.ckpt")
    assert main(["test", "--config", str(workspace / "predictor.yaml"), "--ckpt_path", checkpoint]) == 0
    metrics = json.loads((workspace / "predictor" / "metrics.json").read_text())
    mae = metrics["property_prediction/gap/mae"]
    assert mae["count"] == 16 and mae["low"] < mae["value"] < mae["high"]
    assert "property_prediction/gap/atoms_only" in metrics


def test_predict_leaves_errors_and_baselines(workspace: Path) -> None:
    assert predict(workspace) == 0
    metrics = json.loads((workspace / "gap" / "metrics.json").read_text())
    found = {name.removeprefix("property_error/gap/"): entry for name, entry in metrics.items() if "error/" in name}
    assert set(found) == NAMES
    assert found["predicted"]["count"] == 12
    system = polydit.load(workspace / "predictor").system
    assert isinstance(system, PropertyPredictionSystem)
    assert found["bound"]["count"] == found["naive"]["count"] > 40
    assert found["bound"]["low"] < found["bound"]["value"] < found["bound"]["high"]
    rows = read_rows(workspace / "gap")
    assert len(rows) == 12
    wanted = [float(row["wanted"]) for row in rows]
    assert len(set(wanted)) == 12
    judged = [float(row["absolute_error"]) for row in rows if row["absolute_error"]]
    assert len(judged) == found["samples"]["count"]
    if judged:
        assert found["samples"]["value"] == pytest.approx(np.mean(judged), rel=1e-4)
    assert (workspace / "gap" / "report.html").is_file()
    source = FilesSource(str(workspace / "molecules.extxyz"), workers=1)
    options = yaml.safe_load((workspace / "gap.yaml").read_text())["data"]["init_args"]
    module = ChemistryDataModule(**{**options, "sources": [source]})
    asked = [request.wishes["properties"]["gap"] for request in module.drawn_requests()]
    assert wanted == pytest.approx(asked)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data.init_args.train_part", "[0.0, 0.5]"], "by heart"),
        (["--data.init_args.requests", '[{"num_atoms": 99, "properties": {"gap": "drawn"}}]'], "ask for another size"),
    ],
)
def test_mistakes_are_told_on_one_screen(
    options: list[str], message: str, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(workspace, "--run", str(workspace / "mistaken"), *options) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert message in error and "Traceback" not in error


def test_a_generator_in_place_of_the_predictor_is_refused(workspace: Path) -> None:
    with pytest.raises(CheckpointError, match="holds a DiffusionSystem, not a predictor of a property: train one"):
        load_predictor(str(workspace / "gap"))


def test_labels_reach_the_batches(workspace: Path) -> None:
    source = FilesSource(str(workspace / "molecules.extxyz"))
    module = ChemistryDataModule([source], str(workspace / "cache"), properties=["gap"], labelled=["gap"])
    batch = next(iter(module.train_dataloader()))
    assert torch.isfinite(batch.properties["gap"]).all()
