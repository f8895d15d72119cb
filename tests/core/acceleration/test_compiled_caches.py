"""Step caches around a compiled denoiser: what they choose is not compiled, what they run is."""

from __future__ import annotations

import pytest
import torch

from polydit.platform.acceleration import CGTaylor, DeltaDiT, StepCache, TaylorSeer
from polydit.platform.samplers import Euler

from .walks import distance, sample, walking_system

CACHES = [TaylorSeer(4, 1), CGTaylor(0.5), DeltaDiT(2, 3)]


@pytest.mark.slow
@pytest.mark.parametrize("cache", CACHES, ids=["taylorseer", "cg-taylor", "delta-dit"])
def test_a_compiled_denoiser_samples_the_same(cache: StepCache) -> None:
    torch.compiler.reset()
    system = walking_system(3, sampler=Euler(12))
    expected = sample(system, cache)
    system.denoiser.compile(backend="eager", dynamic=True)
    assert distance(sample(system, cache), expected) < 1e-4
