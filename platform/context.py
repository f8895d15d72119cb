"""The context: what one forward pass of a denoiser carries beside its tensors.

Blocks never call their parts directly. They go through ``ctx.call`` and ``ctx.attend``, so that a step cache, token
selection, a sparse attention back end or a feature tap attaches to every block of every domain without editing one.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from torch import Tensor

from .state import Condition, MaskSpec, Streams

BoundBlock = Callable[[Streams], Streams]
"""A block with its modulation and context already given."""

RunBlocks = Callable[[Streams, Sequence[BoundBlock]], Streams]
"""Runs some blocks in order."""


class ModulePolicy(Protocol):
    """Wraps every named call of a block's part; policies nest like middleware, the first listed outermost."""

    def call(self, name: str, function: Callable[[Tensor], Tensor], h: Tensor, ctx: Context) -> Tensor:
        """Return ``function(h)`` or something in its place, such as a cached value."""
        ...


class AttentionBackend(Protocol):
    """Computes attention for every block that runs under it."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: MaskSpec | None, ctx: Context) -> Tensor:
        """Attention of q [B, H, N, E] to k, v [B, H, M, E]: [B, H, N, E]."""
        ...


class Block(Protocol):
    """One step of a stack."""

    def __call__(self, h: Streams, modulation: Sequence[Tensor], ctx: Context) -> Streams:
        """Next streams; `modulation` holds this block's vectors, [B, 1, D] or [B, N, D] each."""
        ...


class StackPolicy(Protocol):
    """Runs a stack of blocks: all of them, or fewer (step caches, early exit, layer choice)."""

    def run(self, h: Streams, blocks: Sequence[BoundBlock], proceed: RunBlocks, ctx: Context) -> Streams:
        """Streams after the stack.

        Args:
            h: streams before it.
            blocks: the stack's blocks, bound to their modulation and context.
            proceed: ``proceed(h, some_blocks)`` runs blocks under the policies nested within this one; calling it more
                than once, or with part of the blocks, is allowed.
            ctx: the context of this pass.
        """
        ...


@dataclass
class Context:
    """Everything one forward pass knows beside its inputs; made anew for every call of a denoiser.

    Args:
        masks: stream -> `MaskSpec`.
        positions: stream -> [B, N] or [B, N, A].
        points: stream -> [B, N, 3] places of the tokens in space, where they have any; under `estimate_of` the stream,
            where they were last thought to belong, if that is known.
        grids: stream -> lengths of the axes that its tokens N fill in row-major order, as frames, rows and columns,
            for mixers along one of them; a stream without one is a plain sequence.
        condition: the encoded condition, for cross- and joint attention.
        time: the time embedding [B, D] or [B, N, D], kept apart from the condition for routers and gates.
        embed_time: the denoiser's own embedding of levels, for gates that must say what they decide at other levels
            than the batch's.
        step: index of the sampling step, None in training; all evaluations within one step of a solver share it.
        steps: how many the sampler takes, None in training.
        module_policies, stack_policies: middleware, outermost first.
        attention: attention back end; None: the default one of `polydit.platform.mixers`.
        wanted_taps: names of intermediate features to keep in `taps`.
        taps: name -> feature, filled during the pass.
        losses: name -> side losses (load balance ...) that feed-forwards and mixers leave behind.
        shared: what `once` keeps.
    """

    masks: dict[str, MaskSpec] = field(default_factory=dict)
    positions: dict[str, Tensor] = field(default_factory=dict)
    points: dict[str, Tensor] = field(default_factory=dict)
    grids: dict[str, tuple[int, ...]] = field(default_factory=dict)
    condition: Condition = field(default_factory=Condition)
    time: Tensor | None = None
    embed_time: Callable[[Tensor], Tensor] | None = None
    step: int | None = None
    steps: int | None = None
    module_policies: tuple[ModulePolicy, ...] = ()
    stack_policies: tuple[StackPolicy, ...] = ()
    attention: AttentionBackend | None = None
    wanted_taps: frozenset[str] = frozenset()
    taps: dict[str, Tensor] = field(default_factory=dict)
    losses: dict[str, list[Tensor]] = field(default_factory=dict)
    shared: dict[Hashable, Tensor] = field(default_factory=dict)

    def call(self, name: str, function: Callable[[Tensor], Tensor], h: Tensor) -> Tensor:
        """Run a block's part ``function(h)`` under every module policy, and tap its output as `name`."""
        run = function
        for policy in reversed(self.module_policies):
            run = self._wrap(policy, name, run)
        return self.tap(name, run(h))

    def _wrap(self, policy: ModulePolicy, name: str, inner: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda h: policy.call(name, inner, h, self)

    def run(self, h: Streams, blocks: Sequence[BoundBlock]) -> Streams:
        """Streams after `blocks`, run under every stack policy."""
        proceed: RunBlocks = _run_in_order
        for policy in reversed(self.stack_policies):
            proceed = self._wrap_stack(policy, proceed)
        return proceed(h, blocks)

    def _wrap_stack(self, policy: StackPolicy, inner: RunBlocks) -> RunBlocks:
        return lambda h, blocks: policy.run(h, blocks, inner, self)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: MaskSpec | None = None) -> Tensor:
        """Attention of q [B, H, N, E] to k, v [B, H, M, E] through the chosen back end."""
        backend = self.attention
        if backend is None:
            from .mixers.backends import default_backend

            backend = default_backend
        return backend.attend(q, k, v, mask, self)

    def tap(self, name: str, feature: Tensor) -> Tensor:
        """Keep `feature` if it is wanted; returns it unchanged."""
        if name in self.wanted_taps:
            self.taps[name] = feature
        return feature

    def once(self, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """What `make` gives, made by the first layer of the pass that asks and kept for the others.

        Args:
            key: names it; layers of one pass that need the same thing give the same key.
            make: makes it from what the whole pass shares, such as positions and points.
        """
        if key not in self.shared:
            self.shared[key] = make()
        return self.shared[key]

    def add_loss(self, name: str, value: Tensor) -> None:
        """Leave a side loss for the objective of that name."""
        self.losses.setdefault(name, []).append(value)

    def at_step(self, step: int, steps: int | None = None) -> Context:
        """Fresh copy for sampling step `step` of `steps`, sharing the policies and their state."""
        return replace(self, step=step, steps=steps, taps={}, losses={}, shared={})


def estimate_of(stream: str) -> str:
    """The name in `Context.points` of the estimated places of a stream's tokens."""
    return f"{stream}/estimate"


def _run_in_order(h: Streams, blocks: Sequence[BoundBlock]) -> Streams:
    for block in blocks:
        h = block(h)
    return h
