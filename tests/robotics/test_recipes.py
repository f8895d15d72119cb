"""The recipes of robotics build, and their parts agree with each other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from polydit.domains.robotics.policy import PolicySystem
from polydit.envs.families import find_family
from polydit.envs.rendering import select_backend
from polydit.platform.checkpoints import build
from polydit.platform.cli import main
from tests.house.recipes import shrink

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "robotics"
# the others are parts, to be put behind one of these
RECIPES = sorted(path.stem for path in FOLDER.glob("*.yaml") if "\n  optimizer:" in path.read_text())


def read(name: str) -> dict[str, Any]:
    recipe: dict[str, Any] = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    return recipe


@pytest.mark.parametrize("name", RECIPES)
def test_policy_and_data_agree(name: str) -> None:
    recipe = read(name)
    system = build(recipe["model"]).system
    data = recipe["data"]["init_args"]
    assert isinstance(system, PolicySystem)
    assert system.codec.horizon == data["horizon"] and system.codec.history == data.get("history", 1)
    assert set(system.codec.fields) <= set(data["fields"])
    (source,) = data["sources"]
    assert set(system.codec.cameras) <= set(source["init_args"].get("cameras", []))
    assert {request["environment"] for request in data["requests"]} == set(source["init_args"]["tasks"])
    assert all(request["count"] == 20 for request in data["requests"])
    for task in source["init_args"]["tasks"]:
        family, short = find_family(task)
        assert short in family.experts()
    assert recipe["trainer"]["max_steps"] == recipe["model"]["lr_scheduler"]["init_args"]["total_steps"]


@pytest.mark.slow
@pytest.mark.skipif(select_backend().name is None, reason="nothing renders here: install libegl1 and libgl1")
def test_pad_from_images_by_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = shrink(read("pad_metaworld"))
    source = recipe["data"]["init_args"]["sources"][0]["init_args"]
    source["tasks"], source["count"] = source["tasks"][:1], 3
    data = recipe["data"]["init_args"]
    data |= {"splits": [0.34, 0.33, 0.33], "requests": data["requests"][:1]}
    recipe["model"]["system"]["init_args"]["rollouts"] |= {"max_steps": 6, "progress": False}
    (tmp_path / "pad.yaml").write_text(yaml.safe_dump(recipe))
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "--config", "pad.yaml"]) == 0
    assert main(["test", "--config", "pad.yaml", "--ckpt_path", "last"]) == 0
    metrics = json.loads((tmp_path / "runs" / "pad_metaworld" / "metrics.json").read_text())
    assert metrics["success/reach-v3"]["count"] == 2 and metrics["held_out/psnr"]["count"] > 10
    assert metrics["held_out/psnr"]["value"] > 3 and metrics["held_out/psnr_of_copy"]["value"] > 10
