"""Samplers against diffusers' schedulers, and the order of convergence of each on every schedule."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from polydit.platform.processes import Schedule
from polydit.platform.samplers import Grid, Sampler


def load_benchmark() -> ModuleType:
    path = Path(__file__).resolve().parents[3] / "benchmarks" / "parity_schedulers.py"
    spec = importlib.util.spec_from_file_location("parity_schedulers", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


parity = load_benchmark()


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("comparison", parity.comparisons(), ids=lambda comparison: comparison.name)
def test_sampler_equals_scheduler(comparison: "parity.Comparison") -> None:  # type: ignore[name-defined]
    assert comparison.deviation() < 1e-6
    assert comparison.deviation(dtype=torch.float32) < 1e-5


@pytest.mark.parametrize("schedule", parity.SCHEDULES.values(), ids=parity.SCHEDULES)
@pytest.mark.parametrize(("solver", "order"), parity.SOLVERS.values(), ids=parity.SOLVERS)
def test_solver_converges_with_its_order(
    schedule: Schedule, solver: Callable[[int, Grid], Sampler], order: int
) -> None:
    assert parity.order(schedule, solver, steps=80) == pytest.approx(order, abs=0.15)
    assert parity.gaussian_error(schedule, solver, 80) < (0.05 if order == 1 else 3e-3)
