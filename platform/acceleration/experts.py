"""Experts fused beforehand, where the noise level alone chooses them.

A router that reads only the noise level (`NoiseRouter`) decides alike for all tokens and all samples at one level. For
the levels of a sampler's grid its decisions are therefore known before sampling: the chosen experts of every layer
become one dense feed-forward, their hidden layers side by side and the router's weights folded into the last linear map
(MoDE, arXiv 2412.12953). The router and the other experts then cost nothing.

It attaches as a module policy, and by a hook before the denoiser's forward pass rather than by a wrapper around it: the
denoiser's weights, their names, its checkpoints and every reference to it stay what they are, and taking the hook off
leaves the denoiser as it was. The level is the key, the value that the sampler asks at, so that starts in the middle of
a grid, solvers that ask twice a step and guidance find what they need at every batch size.

Shape legend: B batch, N tokens, D width.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Protocol, cast

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from ..context import Context
from ..denoisers import TransformerBlock
from ..errors import ConfigurationError
from ..feedforwards import FeedForward, MixtureOfExperts
from ..processes import Process
from ..samplers import Sampler
from ..state import Time
from .inference import find_denoiser

ARGUMENTS = ("x_t", "t", "cond", "ctx")
"""Of a denoiser's forward pass, in order."""


class ChosenExperts(FeedForward):
    """Experts that cannot be fused into one: the chosen ones alone, one after the other, without a router.

    Args:
        parts: the experts.
        weights: one for each.
    """

    def __init__(self, parts: Sequence[FeedForward], weights: Sequence[float]) -> None:
        super().__init__()
        self.parts, self.weights = nn.ModuleList(parts), tuple(weights)

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        """Their weighted sum [B, N, D]."""
        total = self.weights[0] * self.parts[0](x, ctx)
        for weight, part in zip(self.weights[1:], self.parts[1:], strict=True):
            total = total + weight * part(x, ctx)
        return total

    def cost(self, tokens: int) -> int:
        """Operations of the chosen experts."""
        return sum(cast(FeedForward, part).cost(tokens) for part in self.parts)


class LevelPolicy:
    """Module policy of one noise level: fused feed-forwards in place of the mixtures.

    Args:
        fused: name of a call -> what runs in its place.
    """

    def __init__(self, fused: dict[str, FeedForward]) -> None:
        self.fused = fused

    def call(self, name: str, function: Callable[[Tensor], Tensor], h: Tensor, ctx: Context) -> Tensor:
        """The fused feed-forward's output, or that of `function` where none is fused."""
        fused = self.fused.get(name)
        return function(h) if fused is None else fused(h, ctx)


class FusedExperts:
    """Fused experts on a denoiser, until `remove` or the end of a ``with`` block; made by `fuse_experts`.

    They stand in only while the denoiser is in evaluation mode, and no gradient reaches the experts through them. When
    weights change, whoever changes them, they are made anew at the next pass. A pass at a level that is not among
    `levels`, or at several levels at once, runs unfused: right, but slow, so the first such pass warns.

    Args:
        denoiser: with mixtures of experts whose routers read the noise level alone; others stay as they are.
        levels: times in [0, 1].

    Attributes:
        hits, misses: number of passes in evaluation that ran fused and unfused.
    """

    def __init__(self, denoiser: nn.Module, levels: Sequence[float] | Tensor) -> None:
        self.mixtures = find_mixtures(denoiser)
        self.denoiser = denoiser
        # Samplers ask in float32, so that is what a level's value is.
        self.levels = tuple(torch.as_tensor(levels, dtype=torch.float64).float().tolist())
        self.hits = self.misses = 0
        self._policies: dict[float, LevelPolicy] = {}
        self._twins: dict[tuple[str, tuple[int, ...]], FeedForward] = {}
        self._sources = [
            module._parameters
            for root in (cast(nn.Module, denoiser.time), *self.mixtures.values())
            for module in root.modules()
            if module._parameters
        ]
        self._updates = 0
        self._watch_optimizers()
        self._stamp = self._read_stamp()
        for level in self.levels:
            self._policy_at(level)
        self._handle = denoiser.register_forward_pre_hook(self._attach, with_kwargs=True)

    def remove(self) -> None:
        """Leave the denoiser as it was."""
        self._handle.remove()
        self._policies.clear()
        self._twins.clear()

    def __enter__(self) -> FusedExperts:
        """These fused experts."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove them."""
        self.remove()

    def _attach(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if module.training:
            self._updates += 1
            return None
        given = {**dict(zip(ARGUMENTS, args, strict=False)), **kwargs}
        level = single_level(given["t"])
        if level is None or level not in self.levels:
            self._miss(level)
            return None
        self.hits += 1
        stamp = self._read_stamp()
        if stamp != self._stamp:
            self._policies.clear()
            self._twins.clear()
            self._stamp = stamp
        ctx: Context = given["ctx"]
        policies = (*ctx.module_policies, self._policy_at(level))
        return (), {**given, "ctx": replace(ctx, module_policies=policies)}

    def _miss(self, level: float | None) -> None:
        self.misses += 1
        if self.misses == 1:
            what = "several noise levels at once" if level is None else f"noise level {level}"
            warnings.warn(
                f"{what} came where experts are fused for {len(self.levels)} levels, {max(self.levels)} to "
                f"{min(self.levels)}; it runs unfused: fuse for the times of the sampler that is used",
                stacklevel=4,
            )

    def _watch_optimizers(self) -> None:
        """Count their steps: fused ones write to weights without raising the version that torch keeps of a tensor."""
        reference = weakref.ref(self)

        def count(*_: object) -> None:
            fused = reference()
            if fused is not None:
                fused._updates += 1

        weakref.finalize(self, register_optimizer_step_post_hook(count).remove)

    def _read_stamp(self) -> tuple[Any, ...]:
        """What changes with the weights: where they lie, how often they were written to, and steps of optimizers."""
        return self._updates, *(
            (parameter.data_ptr(), 0 if parameter.is_inference() else parameter._version)
            for parameters in self._sources
            for parameter in parameters.values()
            if parameter is not None
        )

    def _policy_at(self, level: float) -> LevelPolicy:
        if level not in self._policies:
            # Not inference mode even within it: these tensors may meet a gradient by x_t later.
            with torch.inference_mode(False), torch.no_grad():
                self._policies[level] = LevelPolicy(self._fuse_all(level))
        return self._policies[level]

    def _fuse_all(self, level: float) -> dict[str, FeedForward]:
        embed = cast(Callable[[Time], Tensor], self.denoiser.time)
        device = next(self.denoiser.parameters()).device
        ctx = Context(time=embed(torch.tensor([level], device=device)))
        return {name: self._fuse(name, mixture, ctx) for name, mixture in self.mixtures.items()}

    def _fuse(self, name: str, mixture: MixtureOfExperts, ctx: Context) -> FeedForward:
        assert ctx.time is not None
        was_training = mixture.router.training
        routing = mixture.router.eval()(ctx.time[:, None], ctx)
        mixture.router.train(was_training)
        pairs = sorted(zip(routing.experts[0].tolist(), routing.weights[0].tolist(), strict=True))
        chosen, weights = tuple(pair[0] for pair in pairs), [pair[1] for pair in pairs]
        parts = [cast(FeedForward, part) for part in (*(mixture.experts[i] for i in chosen), *mixture.shared)]
        weights += [1.0] * len(mixture.shared)
        alike = all(type(part) is type(parts[0]) for part in parts)
        fused = type(parts[0]).fuse(parts, weights, self._twins.get((name, chosen))) if alike else None
        if fused is None:
            return ChosenExperts(parts, weights)
        self._twins.setdefault((name, chosen), fused)
        return fused


def fuse_experts(denoiser: nn.Module, levels: Sequence[float] | Tensor) -> FusedExperts:
    """Fuse the experts that a denoiser's routers choose at each of these noise levels.

    Memory: one chosen set of experts for every set that occurs, and their last linear map again for every level.

    Args:
        denoiser: with at least one mixture of experts under a router that reads the noise level alone.
        levels: times in [0, 1] at which the sampler asks; see `sampling_levels`.

    Returns:
        What stands in for the mixtures from now on, in evaluation mode; its ``remove()`` takes it off.

    Raises:
        ConfigurationError: if there is no such mixture.
    """
    return FusedExperts(denoiser, levels)


def find_mixtures(denoiser: nn.Module) -> dict[str, MixtureOfExperts]:
    """Name of a block's call -> its mixture of experts, where the router reads no token.

    Raises:
        ConfigurationError: if there is none, or the denoiser has no time embedding.
    """
    mixtures = {
        f"{block.name}.feedforward": block.feedforward
        for block in denoiser.modules()
        if isinstance(block, TransformerBlock)
        and isinstance(block.feedforward, MixtureOfExperts)
        and not block.feedforward.router.reads_tokens
    }
    if not mixtures or not isinstance(getattr(denoiser, "time", None), nn.Module):
        raise ConfigurationError(
            f"{type(denoiser).__name__} has no experts that the noise level alone chooses, and only these can be known "
            "beforehand: give its blocks a `MixtureOfExperts` with a `NoiseRouter`, or leave the fusion out"
        )
    return mixtures


def single_level(t: Time) -> float | None:
    """The one noise level of a batch, as float32 has it; None if there are several."""
    values = list(t.values()) if isinstance(t, dict) else [t]
    found = set()
    for value in values:
        first = value.flatten()[0]
        # An expanded level needs no look at all of it.
        if any(value.stride()) and not bool((value == first).all()):
            return None
        found.add(float(first.float()))
    return found.pop() if len(found) == 1 else None


class SampledSystem(Protocol):
    """What `sampling_levels` asks of a system; `DiffusionSystem` has it."""

    sampler: Sampler
    processes: dict[str, Process]

    def process_of(self, field: str) -> Process:
        """The noising law of a field."""
        ...


def sampling_levels(system: SampledSystem) -> Tensor:
    """The times [N] at which the system's sampler asks its denoiser."""
    fields = {*cast(Any, system).denoiser.streams.values(), *system.processes}
    return system.sampler.times({field: system.process_of(field) for field in sorted(fields)})


class ExpertFusion(Callback):
    """Fuses the experts for the system's own sampler while `predict` or `test` runs; see `fuse_experts`."""

    def __init__(self) -> None:
        self.fused: FusedExperts | None = None

    def _start(self, module: LightningModule) -> None:
        self.fused = fuse_experts(find_denoiser(module), sampling_levels(cast(Any, module).system))

    def _end(self) -> None:
        if self.fused is not None:
            self.fused.remove()
            self.fused = None

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fuse."""
        self._start(pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fuse."""
        self._start(pl_module)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take them off."""
        self._end()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take them off."""
        self._end()
