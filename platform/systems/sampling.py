"""What a sampler sees of a diffusion system.

Shape legend: B batch, N tokens, C channels.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..acceleration.step_cache import Policies
from ..context import Context, StackPolicy
from ..samplers.guidance import Guided
from ..samplers.sampler import spread_of
from ..state import Condition, Layout, State, Time

if TYPE_CHECKING:
    from .diffusion import DiffusionSystem


class SamplingDenoiser:
    """What a sampler sees of a system: (x, t) -> guided clean estimate, self-conditioned and with kept values kept.

    It lasts for one walk from noise to data, and so do the policies of the system's step cache. Every branch of the
    walk has its own: passes that are told other conditions, run other blocks, or look a second time within a solver's
    step have other features, which must not be taken for the last step's.

    Args:
        system: the model.
        layout, condition: of the batch being sampled.
        draw: fresh noise for all fields, used to noise kept values to the level of the rest.
        start: the sampler's step that the walk begins at.
    """

    def __init__(
        self, system: DiffusionSystem, layout: Layout, condition: Condition, draw: Any, start: int = 0
    ) -> None:
        self.system = system
        self.layout = layout
        self.condition = condition
        self.known = system.codec.known(layout)
        self.known_noise = draw() if self.known is not None else {}
        self.previous: State | None = None
        self.spread: State = {}
        self.start = self.step = start
        self._passes = 0
        self._repeated: dict[int, Layout] = {}
        self._branches: dict[Hashable, Policies] = {}

    def begin_step(self, i: int, x: State) -> None:
        """The walk's step `i` begins at `x`; the callback that `Sampler.walk` wants."""
        self.step, self._passes = self.start + i, 0

    def __call__(self, x: State, t: Tensor) -> State:
        """Clean estimate of x [B, ...] at time t (0-dim), and under `spread_of` what was learnt of the variance."""
        if self.known is not None:
            x = self._with_known(x, t)
        guided = Guided(self._denoise, self.condition, self.system.conditioner, tuple(self.layout.labels))
        estimate = self.system.guidance.estimate(x, t, guided)
        if self.known is not None:
            values, keep = self.known
            estimate = {field: torch.where(keep[field], values[field], e) if field in keep else e
                        for field, e in estimate.items()}
        if self.system.self_conditioning > 0:
            self.previous = estimate
        return {**estimate, **{spread_of(field): value for field, value in self.spread.items()}}

    def _with_known(self, x: State, t: Tensor) -> State:
        """Replace kept values by their noised selves (the replacement method of Song et al. 2021, app. I.2).

        By themselves instead, where the network has learnt to see them so.
        """
        assert self.known is not None
        if self.system.codec.shows_known:
            return show_known(x, self.known)
        values, keep = self.known
        result = dict(x)
        for field, kept in keep.items():
            noised = self.system.process_of(field).corrupt(
                values[field], self.known_noise[field], t.expand(x[field].shape[0]).to(x[field])
            )
            result[field] = torch.where(kept, noised, x[field])
        return result

    def _denoise(
        self, x: State, t: Tensor, conditions: Sequence[Condition], stack_policies: tuple[StackPolicy, ...] = ()
    ) -> list[State]:
        count = len(conditions)
        condition = conditions[0] if count == 1 else Condition.concatenate(list(conditions))
        if self.previous is not None:
            feedback = join_fields(self.previous)
            condition = condition.with_channels(self_condition=torch.cat([feedback] * count))
        batch = {field: value if count == 1 else torch.cat([value] * count) for field, value in x.items()}
        first = next(iter(batch.values()))
        level = t.to(first).expand(first.shape[0])
        times: Time = dict.fromkeys(batch, level) if self.system.separate_times else level
        layout = self.layout if count == 1 else self._repeated.setdefault(count, self.layout.repeat(count))
        context = self.system._context(layout, condition).at_step(self.step, self.system.sampler.steps)
        self._attach(context, stack_policies, (count, tuple(condition.channels)))
        estimate, spread = self.system.estimate(batch, times, condition, context)
        if not stack_policies:
            # Guidance overshoots means, not variances: those of the last condition, the one asked for, are kept.
            self.spread = {field: value.chunk(count)[-1] for field, value in spread.items()}
        parts = {field: value.chunk(count) for field, value in estimate.items()}
        return [{field: parts[field][i] for field in parts} for i in range(count)]

    def _attach(self, context: Context, stack_policies: tuple[StackPolicy, ...], told: Hashable) -> None:
        """Give a pass the guidance's policies and, inside these, the step cache's of its branch."""
        context.stack_policies += stack_policies
        cache = self.system.step_cache
        if cache is None:
            return
        branch = (self._passes, told, stack_policies)
        self._passes += 1
        if branch not in self._branches:
            self._branches[branch] = cache.begin()
        policies = self._branches[branch]
        context.module_policies += policies.module
        context.stack_policies += policies.stack


def show_known(x: State, known: tuple[State, State] | None) -> State:
    """`x` with known values, and masks of where they are, in place of its own; `x` itself if nothing is known."""
    if known is None:
        return x
    values, keep = known
    return {
        field: torch.where(keep[field], values[field].to(value), value) if field in keep else value
        for field, value in x.items()
    }


def join_fields(state: State) -> Tensor:
    """All fields side by side [B, N, sum C], in the order of their names."""
    return torch.cat([state[field] for field in sorted(state)], dim=-1)
