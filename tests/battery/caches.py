"""Every denoiser under every step cache: neutral settings, and forecasts of what does not change, change no bit."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import nn

from polydit.platform.acceleration import CGTaylor, DeltaDiT, StepCache, TaylorSeer
from polydit.platform.context import Context

from .entry import Case, Entry, Outputs, run_denoiser

STEPS = 6

CACHES: dict[str, StepCache] = {
    "taylorseer/interval 1": TaylorSeer(1),
    "taylorseer/unchanged": TaylorSeer(4, 2, 2, finish=False),
    "taylorseer/unchanged, newton": TaylorSeer(4, 2, 2, "newton", finish=False),
    "cg-taylor/threshold 0": CGTaylor(0.0, warm_up=2),
    "cg-taylor/unchanged": CGTaylor(math.inf, warm_up=2),
    "delta-dit/no blocks": DeltaDiT(0),
    "delta-dit/interval 1": DeltaDiT(1, 1),
}
"""All end, at the last but one of six steps, in what they would give at the first."""


def walk_in_place(cache: StepCache) -> Callable[[nn.Module, Case], Outputs]:
    """Run of a denoiser that is asked the same at five steps, and its last answer."""

    def run(model: nn.Module, case: Case) -> Outputs:
        policies = cache.begin()
        outputs: Outputs = {}
        for step in range(STEPS - 1):
            torch.manual_seed(0)  # of those that draw, as `seeded` has it

            def change(ctx: Context, step: int = step) -> Context:
                ctx = case.change(ctx).at_step(step, STEPS)
                return replace(ctx, module_policies=policies.module, stack_policies=policies.stack)

            outputs = run_denoiser(model, replace(case, change=change))
        return outputs

    return run


def under_caches(entries: Sequence[Entry]) -> list[Entry]:
    """The entries, those of denoisers with every cache among their neutral settings."""
    runs = {name: walk_in_place(cache) for name, cache in CACHES.items()}
    return [replace(entry, neutral={**entry.neutral, **runs}) if entry.neutral else entry for entry in entries]
