"""Sampling with weights in bf16, and compiled: what stays exact, what stays close, what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from polydit.platform.acceleration import Compilation, InferencePrecision, cast_denoiser
from polydit.platform.errors import ConfigurationError
from polydit.platform.module import GenerativeModule
from polydit.platform.requests import expand_requests
from polydit.platform.systems.diffusion import DiffusionSystem
from tests.core.systems.test_diffusion import make_system

REQUESTS = expand_requests([{"count": 6, "points": 4, "label": 1}], 0)


def sample(system: DiffusionSystem) -> torch.Tensor:
    return torch.stack([entry.item for entry in system.generate(REQUESTS)])


@pytest.fixture
def system() -> DiffusionSystem:
    torch.manual_seed(0)
    system = make_system().eval()
    for parameter in system.denoiser.parameters():
        nn.init.normal_(parameter, std=0.1)
    return system


@pytest.mark.parametrize("stage", ["on_predict_start", "on_test_start"])
def test_bf16_weights_sample_close_by_in_full_precision(system: DiffusionSystem, stage: str) -> None:
    exact = sample(system)
    seen: list[torch.dtype] = []
    system.denoiser.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]["a"].dtype))
    module: Any = GenerativeModule(system)
    getattr(InferencePrecision("bf16"), stage)(None, module)
    assert {parameter.dtype for parameter in system.denoiser.parameters()} == {torch.bfloat16}
    rough = sample(system)
    assert rough.dtype == exact.dtype == torch.float32 and set(seen) == {torch.float32}
    assert not torch.equal(rough, exact)
    assert (rough - exact).abs().max() < 0.05 * exact.abs().max()


def test_full_precision_changes_nothing(system: DiffusionSystem) -> None:
    exact = sample(system)
    cast_denoiser(system, "fp32")
    assert torch.equal(sample(system), exact)


def test_compilation_keeps_names_and_samples(system: DiffusionSystem) -> None:
    exact, names = sample(system), list(system.state_dict())
    module: Any = GenerativeModule(system)
    Compilation(mode=None).setup(None, module, "predict")  # type: ignore[arg-type]
    assert list(system.state_dict()) == names
    torch.testing.assert_close(sample(system), exact, atol=1e-4, rtol=1e-4)


def test_what_cannot_be_is_refused(system: DiffusionSystem) -> None:
    with pytest.raises(ConfigurationError, match="Linear has no denoiser to make faster"):
        cast_denoiser(nn.Linear(1, 1))
    for make in (lambda: InferencePrecision("int4"), lambda: cast_denoiser(system, "int4")):  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match="no precision 'int4': choose one of bf16, fp16, fp32"):
            make()
