"""DiffPose's denoiser, its condition, and the shared transformer over joints in the battery.

Shape legend: B batch, J joints, C candidates.
"""

from __future__ import annotations

from functools import partial

import torch

from polydit.domains.pose.diffpose import PoseMLP
from polydit.domains.pose.heatmap_encoder import HeatmapEncoder
from polydit.platform.denoisers import DiT, LearntPosition, TokenEmbedding, TokenHead
from polydit.platform.mixers import Attention, CrossAttention
from polydit.platform.state import Condition, Layout, Tokens

from .entry import WIDTH, Case, Entry, denoiser_entry

JOINTS = 6


def pose_case(padding: int) -> Case:
    """Three poses of six joints, with the heatmaps' embedding as a vector and as a token a joint; never padded."""
    draw = partial(torch.randn, generator=torch.Generator().manual_seed(10))
    x_t = {"pose": draw(3, JOINTS, 3)}
    condition = Condition({"heatmaps": draw(3, WIDTH)}, {"heatmaps": Tokens(draw(3, JOINTS, WIDTH))})
    return Case(x_t, torch.tensor([0.0, 0.5, 1.0]), condition, Layout({"pose": (3, JOINTS, 3)}))


def joint_case(padding: int) -> Case:
    """The same without the vector, which would modulate."""
    case = pose_case(padding)
    return Case(case.x_t, case.t, Condition(tokens=case.cond.tokens), case.layout)


def candidate_case(padding: int) -> torch.Tensor:
    """Candidates [2, J, 4, 3] of two views."""
    values = torch.rand(2, JOINTS, 4, 3, generator=torch.Generator().manual_seed(11))
    return torch.cat([2 * values[..., :2] - 1, values[..., 2:]], dim=-1)


POSE = [
    denoiser_entry(
        "diffpose", partial(PoseMLP, JOINTS, WIDTH, 32), 6_482, pose_case, JOINTS, padded=False, start="free",
        compiler="eager",
    ),
    denoiser_entry(
        "joints as tokens",
        partial(
            DiT, partial(TokenEmbedding, fields={"pose": 3}, position=partial(LearntPosition, count=JOINTS)),
            partial(TokenHead, fields={"pose": 3}), WIDTH, 2, mixer=partial(Attention, heads=2),
            cross_attention=partial(CrossAttention, heads=2, axes=("heatmaps",)),
        ),
        58_211, joint_case, JOINTS, condition_tokens=JOINTS, padded=False,
    ),
    Entry(
        name="diffpose condition",
        build=partial(HeatmapEncoder, JOINTS, 8, 1, 2, 32, 0.0), inputs=candidate_case,
        run=lambda model, inputs: {"tokens": model(inputs)}, parameters=2_592,
    ),
]
