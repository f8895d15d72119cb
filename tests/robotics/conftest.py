"""A small policy of every kind of observation, and demonstrations that need no simulator."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from polydit.data.robotics.batch import TrajectoryBatch
from polydit.domains.robotics.codec import ActionChunkCodec
from polydit.domains.robotics.instructions import WordHashes
from polydit.domains.robotics.observations import CameraAxis, InstructionAxis, StateAxis
from polydit.domains.robotics.policy import PolicySystem
from polydit.platform.conditioning import Conditioner
from polydit.platform.denoisers import DiT, TokenEmbedding, TokenHead
from polydit.platform.denoisers.positions import SinCosPosition
from polydit.platform.mixers import Attention
from polydit.platform.normalisers import FieldStatistics
from polydit.platform.processes import LinearFlowSchedule, Process, X0Prediction
from polydit.platform.samplers import Euler

WIDTH, ACTIONS, STATES, HORIZON, HISTORY = 32, 2, 3, 6, 2


class Statistics:
    """A data module's statistics: actions within [-1, 1], states of standard deviation 2 about 1."""

    def statistics(self) -> dict[str, FieldStatistics]:
        def of(size: int, mean: float, std: float, bound: float) -> FieldStatistics:
            values = (torch.full((size,), value) for value in (mean, std, mean - bound, mean + bound))
            return FieldStatistics(*values, count=100)

        return {"actions": of(ACTIONS, 0.0, 0.5, 1.0), "state": of(STATES, 1.0, 2.0, 4.0)}


def make_policy(
    cameras: tuple[str, ...] = (), instruction: bool = True, steps: int = 4, **options: Any
) -> PolicySystem:
    """An untrained policy with weights that are not zero, its statistics taken."""
    torch.manual_seed(0)
    axes: dict[str, Any] = {"state": partial(StateAxis, size=STATES, history=HISTORY)}
    axes |= {camera: partial(CameraAxis, history=HISTORY) for camera in cameras}
    if instruction:
        axes["instruction"] = partial(InstructionAxis, buckets=64, dropout=0.0)
    denoiser = DiT(
        partial(TokenEmbedding, fields={"action": ACTIONS}, position=SinCosPosition),
        partial(TokenHead, fields={"action": ACTIONS}),
        WIDTH, 2, mixer=partial(Attention, heads=2), in_context=tuple(axes),
    )
    codec = ActionChunkCodec(
        ACTIONS, {"state": STATES}, cameras, HORIZON, HISTORY, WordHashes(64, 8) if instruction else None
    )
    system = PolicySystem(
        codec, denoiser, Process(LinearFlowSchedule(), X0Prediction()), Euler(steps), Conditioner(WIDTH, axes),
        **options,
    )
    system.prepare(Statistics())
    for parameter in system.denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return system.eval()


def make_batch(size: int = 8, cameras: tuple[str, ...] = (), seed: int = 0) -> TrajectoryBatch:
    """States, and actions that follow from the last of them."""
    generator = torch.Generator().manual_seed(seed)
    states = 1 + 2 * torch.randn(size, HISTORY, STATES, generator=generator)
    actions = torch.tanh((states[:, -1:, :ACTIONS] - 1) / 2).expand(-1, HORIZON, -1).clone()
    mask = torch.ones(size, HORIZON, dtype=torch.bool)
    mask[0, HORIZON // 2 :] = False
    images = {
        camera: torch.randint(0, 256, (size, HISTORY, 16, 16, 3), dtype=torch.uint8, generator=generator)
        for camera in cameras
    }
    return TrajectoryBatch(
        {"state": states, **images}, torch.ones(size, HISTORY, dtype=torch.bool), actions, mask,
        ["Reach the goal"] * size, ["toy/reach"] * size,
    )


@pytest.fixture
def observation() -> dict[str, np.ndarray]:
    return {"state": np.array([0.5, -1.0, 2.0], np.float32)}
