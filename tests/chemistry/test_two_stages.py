"""Both stages by the command: the second checkpoint holds all it needs, and what `predict` leaves behind is whole."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import ase.io
import numpy as np
import pytest
import yaml
from rdkit import Chem

import polydit
from polydit.data.chemistry.store import StructureStore
from polydit.platform.cli import main

from .conftest import random_structures

RECIPES = Path(__file__).resolve().parents[2] / "examples" / "chemistry"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with random molecules and crystals as one extended XYZ file, and both stages trained for a few steps."""
    folder = tmp_path_factory.mktemp("two_stages")
    structures = [structure.to_ase() for seed in range(12) for structure in random_structures(seed)]
    ase.io.write(folder / "structures.extxyz", structures)
    for name in ("demo_autoencoder", "demo"):
        recipe = yaml.safe_load((RECIPES / f"{name}.yaml").read_text())
        recipe["run"] = str(folder / name)
        recipe["data"]["init_args"] |= {
            "sources": [
                {
                    "class_path": "polydit.data.chemistry.sources.FilesSource",
                    "init_args": {"path": str(folder / "structures.extxyz")},
                }
            ],
            "cache_dir": str(folder / "cache"),
            "splits": [0.6, 0.2, 0.2],
            "batch_size": 8,
        }
        recipe["trainer"] |= {"max_steps": 4, "val_check_interval": 2, "enable_progress_bar": False, "logger": True}
        recipe["model"]["lr_scheduler"]["init_args"]["total_steps"] = 4
        if name == "demo":
            recipe["data"]["init_args"]["requests"] = [
                {"domain": "molecule", "count": 3},
                {"elements": "Na2Cl2", "domain": "crystal", "count": 2},
            ]
            recipe["model"]["system"]["init_args"]["codec"]["init_args"]["autoencoder"] = str(
                folder / "demo_autoencoder" / "checkpoints" / "last.ckpt"
            )
            recipe["model"]["system"]["init_args"]["sampler"]["init_args"]["steps"] = 3
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(recipe, sort_keys=False))
        assert main(["fit", "--config", str(path)]) == 0
    return folder


def test_second_checkpoint_needs_no_first(workspace: Path, tmp_path: Path) -> None:
    checkpoint = shutil.copy(workspace / "demo" / "checkpoints" / "last.ckpt", tmp_path / "alone.ckpt")
    first = workspace / "demo_autoencoder"
    first.rename(workspace / "elsewhere")
    try:
        model = polydit.load(checkpoint)
    finally:
        (workspace / "elsewhere").rename(first)
    assert str(workspace) not in json.dumps(model.config)
    crystals = model.sample(domain="crystal", count=2, seed=3, num_atoms=4)
    assert [len(crystal) for crystal in crystals] == [4, 4]
    again = model.sample(domain="crystal", count=1, seed=4, num_atoms=4)[0]
    np.testing.assert_allclose(again.cart_coords, crystals[1].cart_coords, atol=1e-3)


def test_export_and_load_give_the_same_samples(workspace: Path, tmp_path: Path) -> None:
    model = polydit.load(workspace / "demo")
    from polydit.platform.checkpoints import export

    export(model, tmp_path / "exported")
    one, two = (m.sample(domain="crystal", num_atoms=3)[0] for m in (model, polydit.load(tmp_path / "exported")))
    np.testing.assert_array_equal(one.cart_coords, two.cart_coords)


def test_predict_leaves_files_metrics_and_a_report(workspace: Path) -> None:
    checkpoint = workspace / "demo" / "checkpoints" / "last.ckpt"
    assert main(["predict", "--config", str(workspace / "demo.yaml"), "--ckpt_path", str(checkpoint)]) == 0
    samples = workspace / "demo" / "samples"
    molecules = list(Chem.SDMolSupplier(str(samples / "molecules.sdf"), sanitize=False))
    assert len(molecules) == 3
    assert [molecule.GetProp("seed") for molecule in molecules] == ["0", "1", "2"]
    crystals = sorted((samples / "crystals").iterdir())
    assert len(crystals) == 2
    metrics = json.loads((workspace / "demo" / "metrics.json").read_text())
    assert metrics["molecules/validity"]["count"] == 3
    assert metrics["crystals/structural_validity"]["count"] == 2
    assert 0 <= metrics["molecules/validity"]["low"] <= metrics["molecules/validity"]["high"] <= 1
    rows = (workspace / "demo" / "rows.csv").read_text().splitlines()
    assert len(rows) == 1 + 5
    report = (workspace / "demo" / "report.html").read_text()
    assert "plotly" in report


def test_first_stage_is_judged_by_its_reconstructions(workspace: Path) -> None:
    checkpoint = workspace / "demo_autoencoder" / "checkpoints" / "last.ckpt"
    assert main(["test", "--config", str(workspace / "demo_autoencoder.yaml"), "--ckpt_path", str(checkpoint)]) == 0
    metrics = json.loads((workspace / "demo_autoencoder" / "metrics.json").read_text())
    assert any(name.startswith("reconstruction/") for name in metrics), sorted(metrics)


def test_sampling_from_a_first_stage_says_what_to_do(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = workspace / "demo_autoencoder" / "checkpoints" / "last.ckpt"
    recipe = str(workspace / "demo_autoencoder.yaml")
    requests = '[{"domain": "molecule"}]'
    code = main(["predict", "--config", recipe, "--ckpt_path", str(checkpoint), "--data.init_args.requests", requests])
    assert code == 2
    message = capsys.readouterr().err
    assert "only reconstructs" in message
    assert "Traceback" not in message


def test_a_second_stage_on_the_wrong_checkpoint_is_refused(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = str(workspace / "demo" / "checkpoints" / "last.ckpt")
    code = main(
        [
            "fit", "--config", str(workspace / "demo.yaml"), "--run", str(workspace / "wrong"),
            "--model.system.init_args.codec.init_args.autoencoder", wrong,
        ]
    )  # fmt: skip
    assert code == 2
    assert "not an atom autoencoder" in capsys.readouterr().err


def test_store_is_read_once(workspace: Path) -> None:
    stores = list((workspace / "cache").glob("files-*"))
    assert len(stores) == 1
    store = StructureStore.open(stores[0])
    assert len(store) + len(store.bad_records) == 72
