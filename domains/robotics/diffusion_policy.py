"""Diffusion Policy's transformer (Chi et al. 2023, arXiv 2303.04137), put together from the core's parts.

Shape legend: B batch, T observation steps, H actions of a chunk, A action size, M memory tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from polydit.platform.context import Context
from polydit.platform.denoisers import (
    DiT,
    LayerNorm,
    LearntPosition,
    TimeEmbedding,
    TokenEmbedding,
    TokenHead,
    TransformerBlock,
)
from polydit.platform.denoisers.positions import angles
from polydit.platform.errors import ConfigurationError
from polydit.platform.feedforwards import MLP
from polydit.platform.mixers import Attention, AttentionDropout, CrossAttention
from polydit.platform.mixers.attention import split_heads
from polydit.platform.processes import DDPMSchedule, EpsPrediction, Process
from polydit.platform.samplers import Ancestral, UniformGrid
from polydit.platform.samplers.clipping import ClippedEstimate
from polydit.platform.state import Condition, MaskSpec, State, Time, Tokens

SIZES = {"DP-T": (8, 256, 4), "DP-T-small": (4, 128, 4)}
"""Name -> depth, width, heads; the published one for low-dimensional observations, and one for two CPU cores."""

STEPS = 100
"""Steps of the published noise schedule, in training and sampling."""


class StepEmbedding(TimeEmbedding):
    """The sinusoid of the step number itself, sines before cosines, without any weights.

    Args:
        width: D; supplied by the denoiser.
        steps: of the noise schedule; t = 1 is step number `steps` - 1.
    """

    def __init__(self, width: int, steps: int = STEPS) -> None:
        nn.Module.__init__(self)  # without the sinusoid's perceptron
        self.fields = ()
        self.width, self.steps = width, steps

    def initialise(self) -> None:
        """Nothing to set."""

    def forward(self, t: Time) -> Tensor:
        """Embedding [B, D] float32."""
        step = self._levels(t)[0].float() * (self.steps - 1)
        angle = angles(step, self.width // 2, 1e4, include_base=True)
        return torch.cat([angle.sin(), angle.cos()], dim=-1)

    def cost(self) -> int:
        """None."""
        return 0


class MemoryAttention(CrossAttention):
    """Cross-attention of actions to the memory, in which an action may be kept from observations later than its own.

    Args:
        width: D; supplied by the stack.
        heads: must divide the width; None: one per 64 of the width.
        observations: groups of memory tokens that have steps; all see the others.
        history: T; the tokens of an observation are divided evenly among its steps.
        first_action: the observation step, from 0, that the first action belongs to; see `DiffusionPolicyTransformer`.
    """

    def __init__(
        self,
        width: int,
        heads: int | None = None,
        observations: Sequence[str] = (),
        history: int = 1,
        first_action: int | None = None,
    ) -> None:
        super().__init__(width, heads)
        self.observations, self.history, self.first_action = tuple(observations), history, first_action

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        """What the memory adds to each action: [B, H, D] for `x` [B, H, D]."""
        hidden = 0 if self.first_action is None else max(0, min(x.shape[1], self.history - 1 - self.first_action))
        if hidden == 0:
            return super().forward(x, ctx)
        assert self.first_action is not None
        features, mask = self._gather(x, ctx)
        k, v = self.key_value(features).chunk(2, dim=-1)
        q, k = self.norm(self.query(x), k)
        v, steps, parts = split_heads(v, self.heads), self._steps(ctx.condition), []
        # Few actions see less than everything, so a part of the keys for each of them rather than a mask for all.
        for action in range(hidden):
            seen = [index for index, step in enumerate(steps) if step <= self.first_action + action]
            keys = None if mask is None or mask.keys is None else MaskSpec(keys=mask.keys[:, seen])
            parts.append(ctx.attend(q[:, :, action : action + 1], k[:, :, seen], v[:, :, seen], keys))
        if hidden < x.shape[1]:
            parts.append(ctx.attend(q[:, :, hidden:], k, v, mask))
        return self.output(torch.cat(parts, dim=2).transpose(1, 2).flatten(2))

    def _steps(self, condition: Condition) -> list[int]:
        """The step of every memory token; 0 where it has none, and all may see it."""
        steps = []
        for axis, group in condition.tokens.items():
            count = group.features.shape[1]
            seen = axis in self.observations
            steps += [index // (count // self.history) if seen else 0 for index in range(count)]
        return steps


class DiffusionPolicyTransformer(DiT):
    """The core's transformer as Diffusion Policy's: causal actions that read noise level and observations as memory.

    Memory tokens (the step number's sinusoid, goals, observations, each with a learnt place) go through a two-layer
    perceptron with Mish. Blocks are pre-norm: causal self-attention among the actions, cross-attention to the memory,
    GELU. No modulation. All weights start normal with standard deviation 0.02, as published, the head's too.

    Args:
        action_size: A.
        width: D.
        depth: number of blocks.
        heads: must divide the width; None: one per 64 of the width.
        horizon: most actions H of a chunk.
        history: T, observation steps; each observation's tokens are divided evenly among them.
        goals: condition tokens that say what to do; they share one place. The published model has none.
        observations: condition tokens of what is seen, with a place for each step.
        steps: of the noise schedule.
        first_action: the observation step, from 0, that the first action of a chunk belongs to. An action then sees no
            observation later than its own step, as in the published model, whose chunks begin with the oldest
            observation: 0. None: chunks begin with the last observation, and every action sees all.
        dropout: probability with which training drops attention weights, hidden values and the output of attention.
        field: the field of actions.
    """

    def __init__(
        self,
        action_size: int,
        width: int = 256,
        depth: int = 8,
        heads: int | None = 4,
        horizon: int = 16,
        history: int = 2,
        goals: Sequence[str] = ("instruction",),
        observations: Sequence[str] = ("state",),
        steps: int = STEPS,
        first_action: int | None = None,
        dropout: float = 0.3,
        field: str = "action",
    ) -> None:
        if width % 2:
            raise ConfigurationError(f"a width of {width} cannot hold as many sines as cosines: make it even")
        fields, dropped = {field: action_size}, partial(AttentionDropout, rate=dropout, output=dropout)
        memory = partial(
            MemoryAttention, heads=heads, observations=observations, history=history, first_action=first_action
        )
        super().__init__(
            embedding=partial(TokenEmbedding, fields=fields, position=partial(LearntPosition, count=horizon)),
            head=partial(TokenHead, fields=fields, norm=partial(LayerNorm, eps=1e-5), modulated=False),
            width=width,
            depth=depth,
            mixer=partial(dropped, mixer=partial(Attention, heads=heads, causal=True)),
            cross_attention=partial(dropped, mixer=memory),
            feedforward=partial(MLP, activation="gelu", dropout=dropout),
            norm=partial(LayerNorm, eps=1e-5),
            time=partial(StepEmbedding, steps=steps),
            block=TransformerBlock,
        )
        self.goals, self.observations, self.history = tuple(goals), tuple(observations), history
        self.places = nn.Embedding(1 + bool(goals) + history, width)
        self.encoder = nn.Sequential(nn.Linear(width, 4 * width), nn.Mish(), nn.Linear(4 * width, width))
        self._initialise_all()

    def _initialise_all(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, x_t: State, t: Time, cond: Condition, ctx: Context) -> State:
        """Prediction for the actions; time and condition become the memory that they read.

        Raises:
            ConfigurationError: if the condition lacks a goal or an observation, or its tokens do not divide by steps.
        """
        memory = Condition(tokens=self.remember(t, cond), channels=cond.channels)
        return super().forward(x_t, t, memory, ctx)

    def remember(self, t: Time, cond: Condition) -> dict[str, Tokens]:
        """Memory tokens by group, the noise level's first."""
        missing = [axis for axis in (*self.goals, *self.observations) if axis not in cond.tokens]
        if missing:
            raise ConfigurationError(
                f"the condition has no tokens {missing}, only {sorted(cond.tokens)}: give the conditioner axes of "
                "these names, or take them out of `goals` and `observations`"
            )
        time = self.time(t).to(self.places.weight.dtype)
        groups = {"time": Tokens(time[:, None])}
        groups |= {axis: cond.tokens[axis] for axis in (*self.goals, *self.observations)}
        return {
            axis: replace(group, features=self.encoder(group.features + self.places(self._rows(axis, group))))
            for axis, group in groups.items()
        }

    def _rows(self, axis: str, group: Tokens) -> Tensor:
        """[M] long, the place of each token of a group."""
        count = group.features.shape[1]
        index = torch.arange(count, device=group.features.device)
        if axis not in self.observations:
            return torch.full_like(index, axis in self.goals)
        if count % self.history:
            raise ConfigurationError(
                f"{count} tokens of {axis!r} do not divide among {self.history} observation steps: set `history` to "
                "that of the data"
            )
        return 1 + bool(self.goals) + index // (count // self.history)

    def cost(self, tokens: int, condition_tokens: int = 0) -> int:
        """Operations of one forward pass of one sample, products only, every action seeing all observations.

        Args:
            tokens: H.
            condition_tokens: M without the noise level's.
        """
        memory = condition_tokens + 1
        return super().cost(tokens, memory) + 2 * memory * 8 * self.width**2


def sized_diffusion_policy(
    name: str, action_size: int, horizon: int = 10, history: int = 2, observations: Sequence[str] = ("state",)
) -> DiffusionPolicyTransformer:
    """Diffusion Policy's transformer of a size, as published: no goal, chunks that begin with the oldest observation.

    Args:
        name: one of `SIZES`.
        action_size, horizon, history, observations: see `DiffusionPolicyTransformer`.

    Raises:
        ConfigurationError: if there is no such size.
    """
    if name not in SIZES:
        raise ConfigurationError(f"no size {name!r}: choose one of {', '.join(SIZES)}")
    depth, width, heads = SIZES[name]
    return DiffusionPolicyTransformer(
        action_size, width, depth, heads, horizon, history, goals=(), observations=observations, first_action=0
    )


def published_process(steps: int = STEPS) -> Process:
    """DDPM along a squared cosine that predicts the noise, for actions normalised to [-1, 1]."""
    return Process(DDPMSchedule(steps=steps, spacing="cosine"), EpsPrediction())


def published_sampler(steps: int = STEPS) -> Ancestral:
    """Ancestral sampling at every step of the schedule, with the smaller variance."""
    return Ancestral(steps, UniformGrid(include_end=True))


def published_guidance() -> ClippedEstimate:
    """None but that estimates stay within [-1, 1]."""
    return ClippedEstimate()
