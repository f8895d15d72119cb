"""TaylorSeer of diffusers and ours, on one transformer with the same weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import DiTTransformer2DModel
from diffusers.hooks.hooks import CacheContext, _set_cache_context
from diffusers.hooks.taylorseer_cache import TaylorSeerCacheConfig, apply_taylorseer_cache
from torch import Tensor

from polydit.platform.acceleration import TaylorSeer
from polydit.platform.context import Context
from polydit.platform.denoisers.convert import dit_from_diffusers
from polydit.platform.state import Condition

STEPS = 12


def make_peer() -> Any:
    """diffusers' DiT, random and everywhere open, with its second norm as published."""
    torch.manual_seed(0)
    peer: Any = DiTTransformer2DModel(2, 16, 4, sample_size=8, num_layers=3, num_embeds_ada_norm=10)
    for parameter in peer.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    state = peer.state_dict()
    for name in list(state):
        if ".norm1.emb." in name:  # one embedding for all blocks
            state[name] = state["transformer_blocks.0.norm1.emb." + name.split(".norm1.emb.")[1]]
    peer.load_state_dict(state)
    for block in peer.transformer_blocks:
        block.norm3.eps = 1e-6
    return peer.eval()


def images(step: int) -> Tensor:
    """What both are shown: a path that bends."""
    generator = torch.Generator().manual_seed(1)
    start, end = torch.randn(2, 2, 4, 8, 8, generator=generator)
    share = step / STEPS
    return start * (1 - share) + end * share**2


@torch.no_grad()
@pytest.mark.parametrize("order", [0, 1, 2])
def test_forecasts_equal_those_of_diffusers(order: int) -> None:
    """Its schedule is one in two after three full steps where ours is, too: 0 1 2 4 6 8 10."""
    peer = make_peer()
    ours, table = dit_from_diffusers(peer.config, peer.state_dict())
    apply_taylorseer_cache(
        peer,
        TaylorSeerCacheConfig(
            2, 3, max_order=order, taylor_factors_dtype=torch.float32,
            cache_identifiers=[r"transformer_blocks\.\d+\.(attn1|ff)"],
        ),
    )
    _set_cache_context(peer, CacheContext("cond"))
    policy = TaylorSeer(2, order, 3, finish=False).begin().module
    labels = torch.tensor([1, 7])
    differences, changes = [], []
    for step in range(STEPS):
        level = torch.full((2,), 1 - step / STEPS)
        theirs = peer(images(step), timestep=level * 1000, class_labels=labels).sample
        ctx = Context(module_policies=policy)
        condition = Condition({"class": table[labels]})
        found = ours({"image": images(step)}, level, condition, ctx.at_step(step, STEPS))["image"]
        exact = ours({"image": images(step)}, level, condition, Context())["image"]
        differences.append(float((found - theirs).abs().max() / theirs.abs().max()))
        changes.append(float((found - exact).abs().max() / exact.abs().max()))
    assert max(differences) < 1e-4
    assert [change > 1e-3 for change in changes] == [step in (3, 5, 7, 9, 11) for step in range(STEPS)]
