"""SiT's stochastic sampler: right distributions for every strength of the noise, Euler's path for none.

Shape legend: B batch.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from polydit.platform.processes import LinearFlowSchedule, Process, VPCosineSchedule, VPrediction
from polydit.platform.samplers import Euler, EulerMaruyama, UniformGrid

MEAN, STD = 1.5, 0.4
COUNT = 20_000
FLOW = Process.flow_matching()
COSINE = Process(VPCosineSchedule(), VPrediction())


def exact(process: Process) -> Any:
    """The expected clean value given x_t, for data that are normal."""

    def denoise(x: dict[str, Tensor], t: Tensor) -> dict[str, Tensor]:
        alpha, sigma = process.schedule.alpha(t), process.schedule.sigma(t)
        gain = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)
        return {"x": MEAN + gain * (x["x"] - alpha * MEAN)}

    return denoise


def sample(process: Process, sampler: Any) -> Tensor:
    generator = torch.Generator().manual_seed(0)

    def draw() -> dict[str, Tensor]:
        return {"x": torch.randn(COUNT, 1, generator=generator, dtype=torch.float64)}

    return sampler.sample(exact(process), draw(), {"x": process}, draw)["x"]


@pytest.mark.parametrize("diffusion", ["sigma", "linear", "constant", "sine"])
@pytest.mark.parametrize("strength", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("process", [FLOW, COSINE], ids=["flow", "cosine"])
def test_normal_data_have_their_mean_and_spread(process: Process, diffusion: Any, strength: float) -> None:
    # The closing estimate removes what noise is left, and of a spread of 0.4 almost nothing with it.
    grid = UniformGrid(t_max=0.995, t_min=0.02, include_end=True)
    found = sample(process, EulerMaruyama(400, grid, diffusion, strength))
    assert float(found.mean()) == pytest.approx(MEAN, abs=0.02)
    assert float(found.std()) == pytest.approx(STD, rel=0.04)


def test_without_noise_it_is_eulers_walk_step_by_step() -> None:
    grid = UniformGrid(t_min=0.04, include_end=True)
    plain, none = sample(FLOW, Euler(20, grid)), sample(FLOW, EulerMaruyama(20, grid, strength=0.0))
    torch.testing.assert_close(none, plain, rtol=1e-10, atol=1e-12)
    assert not torch.allclose(sample(FLOW, EulerMaruyama(20, grid)), plain, atol=1e-2)


class _Reaching(UniformGrid):
    """Asks where there is no noise before it ends."""

    def times(self, steps: int, schedules: Any) -> Tensor:
        return torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64)


def test_what_has_no_score_or_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="where there is no noise"):
        EulerMaruyama(3).init(_Reaching().times(3, {}), {"x": FLOW}, {"x": torch.zeros(1, 1)}, None)
    with pytest.raises(ValueError, match="diffusion 'much' is none of"):
        EulerMaruyama(diffusion="much")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"strength -1\.0 must not be negative"):
        EulerMaruyama(strength=-1.0)


def test_it_needs_noise_to_draw() -> None:
    with pytest.raises(ValueError, match="adds noise at every step"):
        EulerMaruyama(3).sample(exact(FLOW), {"x": torch.zeros(1, 1)}, {"x": FLOW})


def test_schedules_of_the_flow_take_the_published_grid() -> None:
    assert EulerMaruyama().times({"x": Process(LinearFlowSchedule(), VPrediction())})[-1] == pytest.approx(0.04)
