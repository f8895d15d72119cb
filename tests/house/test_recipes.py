"""Every recipe in examples/ parses and builds, with the first stage it names built untrained in its place."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from polydit.platform.commands import PolyditCLI
from polydit.platform.module import GenerativeModule
from tests.house.recipes import shrink

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "examples").rglob("*.yaml"))
RECIPES = [file for file in FILES if "optimizer" in yaml.safe_load((ROOT / file).read_text()).get("model", {})]
OVERLAYS = [file for file in FILES if file not in RECIPES]
"""Files that hold a part of a recipe, to be put behind one."""
DEMO = "examples/chemistry/demo_autoencoder.yaml"


def list_checkpoints(value: Any) -> list[str]:
    """Checkpoints that a recipe names."""
    if isinstance(value, dict):
        return [name for entry in value.values() for name in list_checkpoints(entry)]
    if isinstance(value, list):
        return [name for entry in value for name in list_checkpoints(entry)]
    return [value] if isinstance(value, str) and value.endswith(".ckpt") else []


def find_recipe(checkpoint: str) -> str:
    """The recipe that leaves a checkpoint behind, by its run folder."""
    folder = Path(checkpoint).parent.parent
    for recipe in RECIPES:
        run = yaml.safe_load((ROOT / recipe).read_text()).get("run") or Path(recipe).stem
        if folder in (Path(run), Path("runs") / run):
            return recipe
    raise AssertionError(f"no recipe leaves {checkpoint} behind: recipes are {RECIPES}")


def build(recipe: str, *overlays: str) -> GenerativeModule:
    """The model of a recipe in the current folder; the checkpoints it names are made first, untrained."""
    words: list[str] = []
    for file in (recipe, *overlays):
        content = yaml.safe_load((ROOT / file).read_text())
        for checkpoint in list_checkpoints(content.get("model")):
            save_untrained(build(find_recipe(checkpoint)), Path(checkpoint))
        path = Path(file).with_suffix(".small.yaml")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(make_shallow(shrink(content))))
        words += ["--config", str(path)]
    model = PolyditCLI("fit", words).model
    assert isinstance(model, GenerativeModule)
    return model


def make_shallow(value: Any) -> Any:
    """A recipe whose wide transformers have two blocks: the others are like them, and would take gigabytes."""
    if isinstance(value, list):
        return [make_shallow(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    small = {key: make_shallow(entry) for key, entry in value.items()}
    return small | {"depth": 2} if value.get("width", 0) >= 1024 and "depth" in value else small


def save_untrained(model: GenerativeModule, path: Path) -> None:
    checkpoint: dict[str, Any] = {"state_dict": model.state_dict()}
    model.on_save_checkpoint(checkpoint)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(checkpoint, path)


def test_there_are_recipes() -> None:
    names = {"adit_autoencoder", "adit", "demo_autoencoder", "demo"}
    assert names <= {Path(recipe).stem for recipe in RECIPES if recipe.startswith("examples/chemistry/")}


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe_builds(recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = build(recipe)
    assert sum(parameter.numel() for parameter in model.parameters()) > 0
    assert model.config is not None and "system" in model.config


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_overlay_builds_behind_a_recipe(overlay: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    named = re.search(r"[Bb]ehind (\w+\.yaml)", (ROOT / overlay).read_text().splitlines()[0])
    recipe = str(Path(overlay).with_name(named[1])) if named else DEMO
    assert build(recipe, overlay).config is not None


@pytest.mark.parametrize("recipe", FILES)
def test_recipe_says_what_it_is(recipe: str) -> None:
    assert (ROOT / recipe).read_text().startswith("# "), "begin with a comment: what it trains, on what, for how long"
