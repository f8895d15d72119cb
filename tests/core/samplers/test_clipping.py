"""Estimates kept in range: what is beyond it is cut, what is within stays, and a noise predictor begins in scale."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from polydit.platform.processes import DDPMSchedule, EpsPrediction, Process
from polydit.platform.samplers import Ancestral, UniformGrid
from polydit.platform.samplers.clipping import ClippedEstimate
from polydit.platform.samplers.guidance import Guided
from polydit.platform.state import Condition, State


def guided(estimate: State) -> Guided:
    return Guided(lambda *arguments, **options: [estimate], Condition(), None, ())


def test_cuts_what_is_beyond_the_limit() -> None:
    x = {"a": torch.tensor([[-3.0, -0.4, 0.0, 0.9, 5.0]])}
    output = ClippedEstimate(0.5).estimate(x, torch.tensor(0.5), guided(x))
    assert output["a"].tolist() == [[-0.5, pytest.approx(-0.4), 0.0, 0.5, 0.5]]
    wide = ClippedEstimate(10.0, inner=ClippedEstimate()).estimate(x, torch.tensor(0.5), guided(x))
    assert float(wide["a"].max()) == 1.0
    with pytest.raises(ValueError, match="limit 0 must be positive"):
        ClippedEstimate(0)


def test_the_first_step_of_a_noise_predictor_stays_in_scale() -> None:
    """The published 100 steps of a squared cosine, and a noise estimate that is a twentieth too small."""
    process = Process(DDPMSchedule(steps=100, spacing="cosine"), EpsPrediction())
    sampler, data = Ancestral(100, UniformGrid(include_end=True)), torch.tensor([0.8, -0.6])

    def size_after_a_step(clip: bool) -> float:
        generator, seen = torch.Generator().manual_seed(0), {}

        def draw() -> State:
            return {"a": torch.randn(64, 2, generator=generator)}

        def denoise(x: Any, t: Tensor) -> State:
            eps = 0.95 * (x["a"] - process.schedule.alpha(t) * data) / process.schedule.sigma(t)
            estimate = {"a": process.convert(eps, x["a"], t)}
            return ClippedEstimate().estimate(x, t, guided(estimate)) if clip else estimate

        def keep(i: int, x: State) -> None:
            seen[i] = float(x["a"].std())

        sampler.sample(denoise, draw(), {"a": process}, draw, callback=keep)
        return seen[1]

    assert 0.8 < size_after_a_step(True) < 1.2
    assert size_after_a_step(False) > 1.5
