"""Step caches: sampling steps at which part of a network is not computed but foretold from earlier steps.

A cache's options are one object, kept by the system; what it remembers lives in the policies that it makes, anew for
every walk from noise to data and for every branch of it (see `polydit.platform.systems.sampling.SamplingDenoiser`). So
samples never see each other's features, nor a chunk of actions those of the last, and a policy sees one pass a step.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ..context import BoundBlock, Context, ModulePolicy, RunBlocks, StackPolicy
from ..errors import ConfigurationError
from ..state import Streams


@dataclass(frozen=True)
class Policies:
    """Policies of one branch of one walk.

    Args:
        module: around the parts of blocks.
        stack: around stacks of blocks.
    """

    module: tuple[ModulePolicy, ...] = ()
    stack: tuple[StackPolicy, ...] = ()


class StepCache(ABC):
    """Options of a step cache."""

    @abstractmethod
    def begin(self) -> Policies:
        """Policies that remember nothing yet, for one branch of one walk."""


class FullSteps:
    """Which steps of a walk are computed in full: the first few, then one in every `interval`.

    Args:
        interval: N, steps from one full step to the next; 1: all are full.
        first: number of full steps to begin with.

    Attributes:
        last: the last full step; None before the first.
    """

    def __init__(self, interval: int, first: int = 1) -> None:
        self.interval, self.first = interval, first
        self.last: int | None = None
        self._step: int | None = None
        self._count = 0
        self._full = True

    @torch.compiler.disable
    def enter(self, step: int, wanted: bool = False) -> bool:
        """Whether `step` is full; asked again within a step, the same answer.

        Args:
            step: its index; steps come in rising order, some may never come.
            wanted: whether it must be full for another reason.
        """
        if step != self._step:
            self._step = step
            due = self.last is None or step - self.last >= self.interval
            self._full = wanted or due or self._count < self.first
            self._count += 1
            if self._full:
                self.last = step
        return self._full


class Numbering:
    """Numbers what happens again within a step, as parts that run for one chunk of windows after another do."""

    def __init__(self) -> None:
        self._step: int | None = None
        self._counts: Counter[str] = Counter()

    @torch.compiler.disable
    def next(self, name: str, step: int) -> int:
        """How often `name` was asked for before at `step`."""
        if step != self._step:
            self._step = step
            self._counts.clear()
        self._counts[name] += 1
        return self._counts[name] - 1


class EachStack:
    """Stack policy that gives every stack of a pass a policy of its own: the first that runs, the second, and so on.

    Args:
        make: makes the policy of one stack.

    Attributes:
        policies: in the order in which the stacks run.
    """

    def __init__(self, make: Callable[[], StackPolicy]) -> None:
        self.make = make
        self.policies: list[StackPolicy] = []
        self._numbering = Numbering()

    @torch.compiler.disable(recursive=False)  # its choices differ by step; what it runs is compiled
    def run(self, h: Streams, blocks: Sequence[BoundBlock], proceed: RunBlocks, ctx: Context) -> Streams:
        """Streams after the stack, under its policy; outside of sampling, under none."""
        if ctx.step is None:
            return proceed(h, blocks)
        number = self._numbering.next("", ctx.step)
        if number == len(self.policies):
            self.policies.append(self.make())
        return self.policies[number].run(h, blocks, proceed, ctx)


def is_last(ctx: Context) -> bool:
    """Whether a pass is of the walk's last step."""
    return ctx.step is not None and ctx.steps is not None and ctx.step >= ctx.steps - 1


def check_positive(**options: int) -> None:
    """Refuse options below one.

    Raises:
        ConfigurationError: naming the first of them.
    """
    for name, value in options.items():
        if value < 1:
            raise ConfigurationError(f"{name} {value} leaves a step cache nothing to start from: give at least 1")
