"""MoDE, the mixture of denoising experts (arXiv 2412.12953), put together from the core's parts.

Shape legend: B batch, T observation steps, H actions of a chunk, A action size, P condition tokens, D width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from polydit.platform.context import Context
from polydit.platform.denoisers import DiT, LearntPosition, RMSNorm, TimeEmbedding, TokenEmbedding, TokenHead
from polydit.platform.denoisers.blocks import TransformerBlock
from polydit.platform.denoisers.stack import FeedForwards
from polydit.platform.errors import ConfigurationError
from polydit.platform.feedforwards import MixtureOfExperts, NoiseRouter, SwiGLU
from polydit.platform.feedforwards.routers import time_of
from polydit.platform.mixers import Attention, AttentionDropout
from polydit.platform.processes import (
    EDMSchedule,
    EDMWeighting,
    LogLogisticSigma,
    PreconditionedPrediction,
    Process,
    Schedule,
)
from polydit.platform.samplers import DDIM, LogSNRGrid
from polydit.platform.state import Condition, State, Streams, Time

SIZES = {"MoDE": (8, 1024, 8), "MoDE-12": (12, 1024, 8), "MoDE-small": (4, 128, 4)}
"""Name -> depth, width, heads; as published from scratch, as published pre-trained, and one for two CPU cores."""

SIGMAS = (0.001, 80.0)
"""Least and greatest noise, in training and sampling."""


class NoiseLevelEmbedding(TimeEmbedding):
    """The level ln(sigma / alpha) / 4 through two linear maps, the second without bias, and nothing between them.

    Args:
        width: D; supplied by the denoiser.
        schedule: turns times into noise levels; it must be the process's own. None: EDM's from 0.001 to 80.
    """

    def __init__(self, width: int, schedule: Schedule | None = None) -> None:
        nn.Module.__init__(self)  # without the sinusoid's perceptron
        self.fields = ()
        self.schedule = schedule or published_schedule()
        self.expand = nn.Linear(1, width)
        self.contract = nn.Linear(width, width, bias=False)

    def initialise(self) -> None:
        """PyTorch's rule for linear maps: by the common one, a level would hardly show at the start."""
        self.expand.reset_parameters()
        self.contract.reset_parameters()

    def forward(self, t: Time) -> Tensor:
        """Embedding [B, D], or [B, N, D] where levels are per token."""
        label = -self.schedule.log_snr(self._levels(t)[0].float()) / 8
        return self.contract(self.expand(label[..., None].to(self.expand.weight.dtype)))


class NoiseConditionedBlock(TransformerBlock):
    """Pre-norm block that is told the noise level by adding its embedding to the normed input of attention.

    After attention the stream itself is normed, and goes on from there: x = norm(x); x = x + feedforward(x). A pre-norm
    block would leave the stream as it is and norm only what the feed-forward sees.

    Args:
        width: D; supplied by the stack.
        parts: builders of its parts; supplied by the stack.
        name: prefix of its parts' names in ``ctx.call``; supplied by the stack.
    """

    def forward(self, h: Streams, modulation: Sequence[Tensor], ctx: Context) -> Streams:
        """Streams with ``x`` advanced by one block."""
        x = h["x"]
        time = time_of(x, ctx).to(x.dtype)
        x = x + self.mix(self.mixer_norm(x) + (time if time.ndim == 3 else time[:, None]), ctx)
        x = self.feedforward_norm(self.cross(x, ctx))
        x = x + self.feed(x, ctx)
        return {**h, "x": ctx.tap(self.name, x)}


class ActionEmbedding(TokenEmbedding):
    """One token per action, by a linear map without bias, and the table of learnt places that conditions share.

    Row 0 is the goal's, rows 1 to T those of the observation steps, and the first action has the place of the last
    observation, for which it was chosen.

    Args:
        width: D; supplied by the denoiser.
        size: A.
        horizon: most actions H of a chunk.
        history: T.
        field: the field of actions.
    """

    def __init__(self, width: int, size: int, horizon: int, history: int = 1, field: str = "action") -> None:
        super().__init__(width, {field: size}, position=partial(LearntPosition, count=history + horizon), bias=False)
        self.horizon, self.history, self.field = horizon, history, field

    def positions(self, x_t: State, ctx: Context) -> dict[str, Tensor]:
        """Places of the actions [1, H].

        Raises:
            ConfigurationError: if the chunk is longer than the table.
        """
        actions = x_t[self.field]
        if actions.shape[1] > self.horizon:
            raise ConfigurationError(
                f"a chunk of {actions.shape[1]} actions exceeds the horizon of {self.horizon}: raise `horizon`"
            )
        places = torch.arange(self.history, self.history + actions.shape[1], device=actions.device)
        return {**ctx.positions, "x": places[None]}

    def places(self, steps: Tensor) -> Tensor:
        """Learnt places [M, D] of `steps` [M] long, 0 the goal's and 1 to T those of observations."""
        assert isinstance(self.position, LearntPosition)
        return self.position.table(steps)


class MoDE(DiT):
    """The core's transformer as MoDE: noise, goals, observations and noised actions in one causal sequence.

    RMSNorm, normed queries and keys, no modulation: the noise level is the first token, is added to the input of every
    attention, and alone decides which SwiGLU experts run. `polydit.platform.acceleration.fuse_experts` merges these for
    sampling. The load-balance loss is the objective ``SideLoss("balance")``; the published 0.01 counts an expert's
    share by tokens, ours by assignments, so with two experts per token it is 0.02 here.

    Args:
        action_size: A.
        width: D.
        depth: number of blocks.
        heads: must divide the width; None: one per 64 of the width.
        horizon: most actions H of a chunk.
        history: T, observation steps; each observation's tokens are divided evenly among them.
        goals: condition tokens or vectors that say what to do, after the noise token.
        observations: condition tokens of what is seen, after the goals.
        experts: of each block.
        top_k: experts that run.
        ratio: an expert's hidden width over D.
        feedforward: builds another feed-forward in place of the experts, or several; None: the experts.
        schedule: the process's, which the noise token reads; None: EDM's from 0.001 to 80.
        attention_dropout: probability with which training drops an attention weight.
        dropout: the same for an expert's hidden values.
        field: the field of actions.
    """

    def __init__(
        self,
        action_size: int,
        width: int = 1024,
        depth: int = 8,
        heads: int | None = 8,
        horizon: int = 10,
        history: int = 1,
        goals: Sequence[str] = ("instruction",),
        observations: Sequence[str] = ("state",),
        experts: int = 4,
        top_k: int = 2,
        ratio: float = 4.0,
        feedforward: FeedForwards | None = None,
        schedule: Schedule | None = None,
        attention_dropout: float = 0.3,
        dropout: float = 0.1,
        field: str = "action",
    ) -> None:
        attention = partial(Attention, heads=heads, qk_norm="head", causal=True)
        dropped = partial(AttentionDropout, mixer=attention, rate=attention_dropout)
        expert = partial(SwiGLU, ratio=ratio, hidden_bias=True, dropout=dropout)
        super().__init__(
            embedding=partial(ActionEmbedding, size=action_size, horizon=horizon, history=history, field=field),
            head=partial(TokenHead, fields={field: action_size}, norm=RMSNorm, modulated=False),
            width=width,
            depth=depth,
            mixer=dropped,
            feedforward=feedforward
            or partial(MixtureOfExperts, experts=experts, top_k=top_k, expert=expert, router=NoiseRouter),
            norm=RMSNorm,
            time=partial(NoiseLevelEmbedding, schedule=schedule),
            block=NoiseConditionedBlock,
            in_context=("time", *goals, *observations),
        )
        self.goals, self.observations, self.history = tuple(goals), tuple(observations), history

    def forward(self, x_t: State, t: Time, cond: Condition, ctx: Context) -> State:
        """Prediction for the actions; the condition's tokens are given their places first."""
        return super().forward(x_t, t, self._place(cond), ctx)

    def _place(self, cond: Condition) -> Condition:
        embedding = self.embedding
        assert isinstance(embedding, ActionEmbedding)
        tokens, vectors = dict(cond.tokens), dict(cond.vectors)
        for axis in (*self.goals, *self.observations):
            if axis in tokens:
                features = tokens[axis].features
                steps = self._steps(axis, features)
                tokens[axis] = replace(tokens[axis], features=features + embedding.places(steps).to(features))
            elif axis in vectors:
                first = torch.full((1,), axis in self.observations, device=vectors[axis].device, dtype=torch.long)
                vectors[axis] = vectors[axis] + embedding.places(first).to(vectors[axis])
        return replace(cond, tokens=tokens, vectors=vectors)

    def _steps(self, axis: str, features: Tensor) -> Tensor:
        """[M] long, the row of each token of an axis."""
        count = features.shape[1]
        index = torch.arange(count, device=features.device)
        if axis in self.goals:
            return torch.zeros_like(index)
        if count % self.history:
            raise ConfigurationError(
                f"{count} tokens of {axis!r} do not divide among {self.history} observation steps: set `history` to "
                "that of the data"
            )
        return 1 + index // (count // self.history)


def sized_mode(name: str, action_size: int = 7, observations: Sequence[str] = ("static", "gripper")) -> MoDE:
    """MoDE of a size.

    Args:
        name: one of `SIZES`.
        action_size, observations: see `MoDE`.

    Raises:
        ConfigurationError: if there is no such size.
    """
    if name not in SIZES:
        raise ConfigurationError(f"no size {name!r}: choose one of {', '.join(SIZES)}")
    depth, width, heads = SIZES[name]
    return MoDE(action_size, width, depth, heads, observations=observations)


def published_schedule() -> EDMSchedule:
    """Noise from 0.001 to 80."""
    return EDMSchedule(sigma_min=SIGMAS[0], sigma_max=SIGMAS[1])


def published_process(sigma_data: float = 0.5) -> Process:
    """EDM's preconditioning with noise levels drawn log-logistically around the data's standard deviation."""
    return Process(
        published_schedule(), PreconditionedPrediction(sigma_data=sigma_data), EDMWeighting(sigma_data=sigma_data),
        LogLogisticSigma(location=math.log(sigma_data), scale=0.5),
    )


def published_sampler(steps: int = 10) -> DDIM:
    """DDIM over levels evenly spaced in ln(sigma) from 80 to 0.001, the last step leading to the data."""
    return DDIM(steps, LogSNRGrid(t_max=1.0, t_min=0.0))
