"""A system to sample from under step caches, and what counts its calls."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from polydit.platform.acceleration import StepCache
from polydit.platform.denoisers import DiT, TokenEmbedding, TokenHead
from polydit.platform.mixers import Attention
from polydit.platform.requests import expand_requests
from polydit.platform.state import Condition
from polydit.platform.systems.diffusion import DiffusionSystem
from tests.core.systems.test_diffusion import make_system

WISHES = [{"count": 3, "points": 4, "label": 1}, {"count": 1, "points": 2, "label": 2}]


def walking_system(depth: int = 3, **options: Any) -> DiffusionSystem:
    """Two fields, labels and a channel for self-conditioning; weights that make every part count."""
    system = make_system(**options)
    fields = {"a": 2, "b": 1}
    torch.manual_seed(0)
    system.denoiser = DiT(
        partial(TokenEmbedding, fields=fields, channels={"self_condition": 3}), partial(TokenHead, fields=fields),
        width=32, depth=depth, mixer=partial(Attention, heads=2),
    )
    for parameter in (*system.denoiser.parameters(), *system.conditioner.parameters()):  # type: ignore[union-attr]
        nn.init.normal_(parameter, std=0.15)
    return system.eval()


def sample(system: DiffusionSystem, cache: StepCache | None = None, wishes: Any = None, seed: int = 0) -> list[Tensor]:
    """Items asked for, under a cache."""
    system.step_cache = cache
    items = [entry.item for entry in system.generate(expand_requests(wishes or WISHES, seed))]
    system.step_cache = None
    return items


def assert_same(first: list[Tensor], second: list[Tensor]) -> None:
    """The same bits."""
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def distance(first: list[Tensor], second: list[Tensor]) -> float:
    """Root mean square difference."""
    pairs = zip(first, second, strict=True)
    return float(torch.cat([(a - b).flatten() for a, b in pairs]).square().mean().sqrt())


@contextmanager
def counted(*modules: nn.Module) -> Iterator[list[nn.Module]]:
    """Every call of the modules, in order."""
    calls: list[nn.Module] = []
    hooks = [module.register_forward_hook(lambda called, *_: calls.append(called)) for module in modules]
    yield calls
    for hook in hooks:
        hook.remove()


def parts_of(system: DiffusionSystem) -> list[Any]:
    """Mixers and feed-forwards of all blocks."""
    blocks: Any = system.denoiser.blocks
    return [part for block in blocks for part in (block.mixer, block.feedforward)]


def told(system: DiffusionSystem, label: int) -> Condition:
    """The encoded label of one sample."""
    assert system.conditioner is not None
    return system.conditioner.encode({"label": torch.tensor([label])}, 1, torch.device("cpu"))
