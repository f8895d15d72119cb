"""Recipes made small, so that what a page or an example says can be run in seconds instead of hours."""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Container
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

FEW = 2
DATA_OPTIONS = {"limit": 8, "batch_size": 4, "max_tokens": None, "num_workers": 0}
TRAINER_OPTIONS = {
    "max_steps": FEW, "max_epochs": None, "max_time": None, "limit_val_batches": 1, "num_sanity_val_steps": 0,
    "val_check_interval": None, "check_val_every_n_epoch": 1, "log_every_n_steps": 1,
    "accelerator": "cpu", "devices": 1, "precision": "32-true",
    "enable_progress_bar": False, "enable_model_summary": False,
}  # fmt: skip
SMALLER = {"steps": FEW, "normaliser_batches": FEW, "workers": 1}
"""Options by name, wherever in a recipe: solver steps, batches for statistics, processes."""
BUILTIN = {
    "BuiltinSource": {"count": 48, "workers": 1}, "ExpertSource": {"count": FEW, "workers": 0},
    "BouncingBodies": {"clips": 24},
}  # fmt: skip
"""Options of sources that make their data."""


def shrink_examples(source: Path, target: Path) -> None:
    """Copy `source`, with every recipe in it made small, to `target`."""
    shutil.copytree(source, target)
    for path in target.rglob("*.yaml"):
        path.write_text(yaml.safe_dump(shrink(yaml.safe_load(path.read_text())), sort_keys=False))


def shrink(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe with few steps, little data and few samples; its model stays as it is."""
    recipe = _shrink_values(recipe)
    if "trainer" in recipe:
        recipe["trainer"] |= TRAINER_OPTIONS
    if "data" in recipe:
        options = recipe["data"].setdefault("init_args", {})
        options.update({key: value for key, value in DATA_OPTIONS.items() if key in accepted(recipe["data"])})
        for request in options.get("requests") or []:
            request["count"] = min(request.get("count", 1), FEW)
    return recipe


def accepted(data: dict[str, Any]) -> Container[str]:
    """Options that a data module takes; of a part of a configuration, which names none, all that are made small."""
    if "class_path" not in data:
        return DATA_OPTIONS
    module, _, name = data["class_path"].rpartition(".")
    return inspect.signature(getattr(import_module(module), name)).parameters


def _shrink_values(value: Any) -> Any:
    if isinstance(value, list):
        return [_shrink_values(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    small = {key: SMALLER[key] if key in SMALLER and entry else _shrink_values(entry) for key, entry in value.items()}
    options = BUILTIN.get(str(value.get("class_path", "")).rpartition(".")[2])
    if options is not None:
        small["init_args"] = {**small.get("init_args", {}), **options}
    return small
