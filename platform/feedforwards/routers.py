"""Routers: which experts a token goes to, decided from the token, from the noise level, or from both.

Shape legend: B batch, N tokens, D width, E experts, K experts chosen, R decisions: B N one per token,
or B one per sample.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..context import Context
from ..errors import ConfigurationError


@dataclass(frozen=True)
class Routing:
    """Decisions of a router, one per token in the order of the flattened batch, or one per sample.

    Args:
        logits: [R, E].
        probabilities: [R, E], their softmax.
        experts: [R, K] long, the chosen experts.
        weights: [R, K], what each chosen expert's output counts.
    """

    logits: Tensor
    probabilities: Tensor
    experts: Tensor
    weights: Tensor


class Router(nn.Module):
    """Chooses `top_k` of `experts` experts; built as ``Router(width, experts, top_k, **options)``.

    Args:
        width: D; supplied by the mixture.
        experts: E; supplied by the mixture.
        top_k: K; supplied by the mixture.
        hidden: width of a hidden layer with GELU, in units of D; 0: one linear map.
        sampled: whether training draws the experts from their probabilities, without replacement, from torch's global
            generator, which `polydit.platform.callbacks.StepSeeds` seeds at every step; evaluation takes the likeliest.
        renormalised: whether the weights are the chosen probabilities over their sum. With K = 1 every weight is then
            one, and the router learns from side losses only.
        bias: whether the linear maps have biases.

    Attributes:
        reads_tokens: whether decisions depend on the tokens' content.
    """

    reads_tokens: bool = True

    def __init__(
        self,
        width: int,
        experts: int,
        top_k: int,
        hidden: float = 0.0,
        sampled: bool = False,
        renormalised: bool = True,
        bias: bool = False,
    ) -> None:
        super().__init__()
        if not 1 <= top_k <= experts:
            raise ConfigurationError(f"top_k {top_k} of {experts} experts cannot be chosen: take 1 to {experts}")
        self.experts, self.top_k, self.sampled, self.renormalised = experts, top_k, sampled, renormalised
        self.expand = nn.Linear(width, round(hidden * width), bias=bias) if hidden else None
        self.score = nn.Linear(round(hidden * width) if hidden else width, experts, bias=bias)

    @abstractmethod
    def features(self, x: Tensor, ctx: Context) -> Tensor:
        """What decides, [R, D], for the tokens `x` [B, N, D]."""

    @abstractmethod
    def decisions(self, tokens: int) -> int:
        """Number of decisions for one sample of this many tokens."""

    def forward(self, x: Tensor, ctx: Context) -> Routing:
        """Decisions for the tokens `x` [B, N, D]."""
        logits = self._score(self.features(x, ctx))
        probabilities = logits.softmax(-1)
        experts = self._choose(probabilities.detach())
        weights = probabilities.gather(-1, experts)
        if self.renormalised:
            weights = weights / weights.sum(-1, keepdim=True)
        return Routing(logits, probabilities, experts, weights)

    def _score(self, features: Tensor) -> Tensor:
        # In full precision also under autocast (Switch, section 2.4): rounding makes ties, and ties flip experts.
        with torch.autocast(features.device.type, enabled=False):
            h = features.to(torch.promote_types(features.dtype, torch.float32))
            if self.expand is not None:
                h = functional.gelu(apply_linear(self.expand, h))
            return apply_linear(self.score, h)

    def _choose(self, probabilities: Tensor) -> Tensor:
        if self.sampled and self.training:
            # The K largest of p / e with e exponential are K draws without replacement (Efraimidis and Spirakis 2006).
            probabilities = probabilities / torch.empty_like(probabilities).exponential_()
        return probabilities.topk(self.top_k, dim=-1).indices

    def cost(self, tokens: int) -> int:
        """Floating-point operations of one sample, two per multiply-add, products only."""
        weights = sum(part.weight.numel() for part in (self.expand, self.score) if part is not None)
        return 2 * self.decisions(tokens) * weights


class TokenRouter(Router):
    """Every token goes where its own content says (Switch, arXiv 2101.03961; DiT-MoE, arXiv 2407.11633).

    Defaults are a single linear map, softmax, and the likeliest K; DiT-MoE does not renormalise.
    """

    def features(self, x: Tensor, ctx: Context) -> Tensor:
        """The tokens themselves."""
        return x.flatten(0, 1)

    def decisions(self, tokens: int) -> int:
        """One per token."""
        return tokens


class NoiseRouter(Router):
    """All tokens of a sample go where its noise level says (MoDE, arXiv 2412.12953); content never matters.

    At a known noise level the chosen experts are known beforehand, and can be merged into one feed-forward: see
    `polydit.platform.acceleration.fuse_experts`. Where noise levels are per token, so are the decisions.

    Args:
        width: D; supplied by the mixture.
        experts: E; supplied by the mixture.
        top_k: K; supplied by the mixture.
        hidden: see `Router`; 2 as published.
        sampled: see `Router`; as published.
        renormalised: see `Router`; as published.
        bias: see `Router`; as published.
    """

    reads_tokens = False

    def __init__(
        self,
        width: int,
        experts: int,
        top_k: int,
        hidden: float = 2.0,
        sampled: bool = True,
        renormalised: bool = True,
        bias: bool = True,
    ) -> None:
        super().__init__(width, experts, top_k, hidden, sampled, renormalised, bias)

    def features(self, x: Tensor, ctx: Context) -> Tensor:
        """The time embedding, one row per sample or per token."""
        time = time_of(x, ctx).to(x.dtype)
        return time if time.ndim == 2 else time.flatten(0, 1)

    def decisions(self, tokens: int) -> int:
        """One per sample, noise levels being per sample."""
        return 1


class TokenNoiseRouter(Router):
    """Every token goes where its content and its noise level say: their sum decides.

    The sum is of the token and the time embedding, as adding a condition to a token is elsewhere in a transformer.
    """

    def features(self, x: Tensor, ctx: Context) -> Tensor:
        """Tokens plus time embedding."""
        time = time_of(x, ctx).to(x.dtype)
        return (x + (time if time.ndim == 3 else time[:, None])).flatten(0, 1)

    def decisions(self, tokens: int) -> int:
        """One per token."""
        return tokens


def apply_linear(linear: nn.Linear, h: Tensor) -> Tensor:
    """The linear map in the type of `h`, whatever that of its weights."""
    bias = None if linear.bias is None else linear.bias.to(h.dtype)
    return functional.linear(h, linear.weight.to(h.dtype), bias)


def time_of(x: Tensor, ctx: Context) -> Tensor:
    """The pass's time embedding [B, D] or [B, N, D].

    Raises:
        ConfigurationError: if there is none, or one per token for other tokens than `x` [B, N, D].
    """
    if ctx.time is None:
        raise ConfigurationError(
            "a router by noise level needs a time embedding, and this stack has none: use it inside a denoiser, or "
            "route by `TokenRouter`"
        )
    if ctx.time.ndim == 3 and ctx.time.shape[1] != x.shape[1]:
        raise ConfigurationError(
            f"the time embedding has {ctx.time.shape[1]} tokens and the sequence {x.shape[1]}: with noise levels per "
            "token, take the condition out of `in_context`, or route by `TokenRouter`"
        )
    return ctx.time
