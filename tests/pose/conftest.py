"""A pose model small enough for tests, and views for it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from polydit.data.pose.batch import PoseBatch
from polydit.data.pose.datamodule import PoseDataModule
from polydit.data.pose.walking import WalkingSource
from polydit.domains.pose.codec import PoseCodec
from polydit.domains.pose.diffpose import PoseMLP, published_guidance, published_process, published_sampler
from polydit.domains.pose.heatmap_encoder import HeatmapAxis, HeatmapEncoder
from polydit.domains.pose.system import PoseSystem
from polydit.platform.conditioning import Conditioner


def make_axis(width: int, **options: Any) -> HeatmapAxis:
    """A small condition."""
    return HeatmapAxis(width, encoder=HeatmapEncoder(centres=16, depth=1, heads=2, feedforward=32), **options)


def make_system(**options: Any) -> PoseSystem:
    """A small system with the published process; its weights are drawn with seed 0."""
    torch.manual_seed(0)
    parts: dict[str, Any] = {
        "codec": PoseCodec(), "denoiser": PoseMLP(condition=32, width=64), "process": published_process(),
        "sampler": published_sampler(), "guidance": published_guidance(),
        "conditioner": Conditioner(32, {"heatmaps": make_axis}), "hypotheses": 3,
    }  # fmt: skip
    return PoseSystem(**{**parts, **options}).eval()


@pytest.fixture(scope="session")
def data() -> PoseDataModule:
    """Eight people for a second."""
    return PoseDataModule([WalkingSource(8, seconds=1)], stride=6, views=2, batch_size=8)


@pytest.fixture
def batch(data: PoseDataModule) -> PoseBatch:
    """Five held-out views."""
    return data.view("test")[list(range(5))]
