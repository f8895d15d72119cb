"""Known values that the network sees as they are, in training and in sampling.

Shape legend: B samples, N tokens, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from polydit.platform.codec import Codec
from polydit.platform.context import Context
from polydit.platform.denoisers import Denoiser
from polydit.platform.processes import Process
from polydit.platform.requests import Request
from polydit.platform.samplers import Euler
from polydit.platform.state import Condition, Layout, State, Time
from polydit.platform.systems.diffusion import DiffusionSystem

FIRST = torch.tensor([[[True], [False], [False]]])


class HalfKnown(Codec):
    """The first of three tokens is known; the loss is of the others."""

    def __init__(self, shown: bool) -> None:
        super().__init__()
        self.shows_known = shown

    def encode(self, batch: Tensor, generator: torch.Generator) -> tuple[State, Layout]:
        shape = tuple(batch.shape)
        unknown = {"x": ~FIRST.expand(len(batch), 3, 1)}
        return {"x": batch}, Layout({"x": shape}, loss_masks=unknown, extras={"x": batch})

    def layout(self, requests: Sequence[Request]) -> Layout:
        values = torch.ones(len(requests), 3, 2)
        return Layout({"x": tuple(values.shape)}, seeds=tuple(r.seed for r in requests), extras={"x": values})

    def known(self, layout: Layout) -> tuple[State, State]:
        return {"x": layout.extras["x"]}, {"x": FIRST.expand(layout.batch_size, 3, 1)}

    def decode(self, state: State, layout: Layout) -> list[Any]:
        return list(state["x"])


class Recorder(Denoiser):
    """Says zero, plus a weight that only known tokens see, and remembers its input."""

    def __init__(self) -> None:
        super().__init__()
        self.of_known = torch.nn.Parameter(torch.zeros(2))
        self.seen: list[Tensor] = []

    @property
    def streams(self) -> dict[str, str]:
        return {"x": "x"}

    def cost(self, tokens: int, condition_tokens: int = 0) -> int:
        return 0

    def forward(self, x_t: State, t: Time, cond: Condition, ctx: Context) -> State:
        self.seen.append(x_t["x"])
        return {"x": torch.zeros_like(x_t["x"]) + self.of_known * FIRST}


def make(shown: bool) -> tuple[DiffusionSystem, Recorder]:
    denoiser = Recorder()
    return DiffusionSystem(HalfKnown(shown), denoiser, Process.flow_matching(), Euler(4)), denoiser


def test_training_shows_known_values_clean_and_learns_nothing_from_predictions_of_them() -> None:
    system, denoiser = make(shown=True)
    batch = torch.randn(5, 3, 2)
    system.losses(batch, torch.Generator().manual_seed(0))["loss"].backward()
    assert torch.equal(denoiser.seen[0][:, 0], batch[:, 0]) and not torch.equal(denoiser.seen[0][:, 1], batch[:, 1])
    assert torch.equal(denoiser.of_known.grad, torch.zeros(2))  # type: ignore[arg-type]


@pytest.mark.parametrize("shown", [True, False])
def test_sampling_shows_them_at_every_step_and_returns_them(shown: bool) -> None:
    system, denoiser = make(shown)
    samples = system.generate([Request(1), Request(2)])
    clean = [torch.equal(seen[:, 0], torch.ones(2, 2)) for seen in denoiser.seen]
    assert clean == [shown] * 4
    for sample in samples:
        torch.testing.assert_close(sample.item[0], torch.ones(2))


def test_a_codec_without_it_trains_as_before() -> None:
    batch = torch.randn(5, 3, 2)
    system, denoiser = make(shown=False)
    system.losses(batch, torch.Generator().manual_seed(0))
    assert not torch.equal(denoiser.seen[0][:, 0], batch[:, 0])
