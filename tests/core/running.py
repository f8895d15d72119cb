"""Runs of the tiny system by the command, in this process or in a fresh one."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import yaml

from polydit.platform.cli import main

ROOT = Path(__file__).resolve().parents[2]
MODULE = "tests.core.tiny_system"
AVERAGING = {"class_path": "pytorch_lightning.callbacks.EMAWeightAveraging", "init_args": {"decay": 0.9}}


def recipe(system: str = "TinySystem", averaging: bool = True, **init_args: Any) -> dict[str, Any]:
    """Configuration of a run on the tiny system."""
    return {
        "model": {
            "system": {
                "class_path": f"{MODULE}.{system}",
                "init_args": {"network": {"class_path": f"{MODULE}.TinyNetwork"}, **init_args},
            },
            "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.01}},
            "lr_scheduler": {"class_path": "torch.optim.lr_scheduler.StepLR", "init_args": {"step_size": 5}},
        },
        "data": {"class_path": f"{MODULE}.TinyDataModule"},
        "trainer": {
            "accelerator": "cpu",
            "max_steps": 8,
            "log_every_n_steps": 1,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "callbacks": [copy.deepcopy(AVERAGING)] if averaging else [],
        },
        "checkpoint": {"every_n_steps": 4},
    }


def write(path: Path, config: dict[str, Any]) -> Path:
    """Write a configuration as YAML."""
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return path


def polydit(*words: Any) -> int:
    """Run the command in this process."""
    return main([str(word) for word in words])


def python(code: str, *words: Any, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run Python code in a fresh process that can import the package and the tests."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
        **options,
    )


def same(a: Any, b: Any) -> bool:
    """Whether two nested structures hold bit-identical tensors and equal values."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)
