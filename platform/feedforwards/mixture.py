"""Mixtures of experts: many feed-forwards, of which each token meets a few.

Shape legend: B batch, N tokens, D width, E experts, K experts chosen, R decisions (B N or B), T tokens
per decision (1 or N).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from ..context import Context
from ..errors import ConfigurationError
from .base import FeedForward
from .dense import MLP
from .routers import Router, Routing, TokenRouter

BALANCE, LOGITS = "balance", "router_logits"
"""Names of the side losses that a mixture leaves in the context."""


class MixtureOfExperts(FeedForward):
    """Sum of the outputs of the `top_k` experts that a router chooses, weighted, and of experts that all tokens share.

    Experts run only on what is routed to them. Two side losses wait in the context for an objective
    `polydit.platform.objectives.SideLoss`: ``balance``, E sum_i P_i f_i with P_i the mean probability of expert i and
    f_i its share of all assignments (Switch, arXiv 2101.03961, equations 4 to 6), which is 1 where the load is even;
    and ``router_logits``, the mean squared log-sum-exp of the logits (z-loss; ST-MoE, arXiv 2202.08906, equation 5),
    which keeps them small. Padded tokens count in neither.

    Args:
        width: D; supplied by the stack.
        experts: E.
        top_k: K, experts that each decision chooses.
        expert: builds one expert from the width; it must treat every token by itself. None: `MLP`.
        router: builds the router from width, E and K.
        shared: number of further experts that every token meets, with weight 1.
        shared_expert: builds one of these from the width, such as one of another hidden width; None: as `expert` does.

    Raises:
        ConfigurationError: if there are fewer than two experts or `top_k` is none of 1 to E.
    """

    def __init__(
        self,
        width: int,
        experts: int = 4,
        top_k: int = 2,
        expert: Callable[[int], FeedForward] | None = None,
        router: Callable[[int, int, int], Router] = TokenRouter,
        shared: int = 0,
        shared_expert: Callable[[int], FeedForward] | None = None,
    ) -> None:
        super().__init__()
        if experts < 2 or shared < 0:
            raise ConfigurationError(
                f"a mixture of {experts} experts and {shared} shared ones: take at least 2 experts, or one dense "
                "feed-forward, and 0 or more shared ones"
            )
        build = expert or MLP
        self.router = router(width, experts, top_k)
        self.experts = nn.ModuleList([build(width) for _ in range(experts)])
        build_shared = shared_expert or build
        self.shared = nn.ModuleList([build_shared(width) for _ in range(shared)])

    @property
    def top_k(self) -> int:
        """K."""
        return self.router.top_k

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        """Weighted sum of the chosen and the shared experts' outputs [B, N, D]."""
        routing = self.router(x, ctx)
        leave_losses(routing, x, ctx)
        output = self._run_chosen(x, routing, ctx)
        for expert in self.shared:
            output = output + expert(x, ctx)
        return output

    def _run_chosen(self, x: Tensor, routing: Routing, ctx: Context) -> Tensor:
        """Gather by expert, run, put every output back in its place, and sum with the weights."""
        count, chosen = routing.experts.shape
        rows = x.reshape(count, -1, x.shape[-1])
        assigned = routing.experts.flatten()
        order = assigned.argsort(stable=True)
        sizes = torch.bincount(assigned, minlength=len(self.experts)).tolist()
        gathered = rows[order // chosen].split(sizes)
        outputs = torch.cat(
            [expert(part, ctx) for expert, part in zip(self.experts, gathered, strict=True) if len(part)]
        )
        # Scattered to a place each and then summed, not accumulated by index, which would not repeat on a GPU.
        placed = torch.empty_like(outputs).index_copy(0, order, outputs).unflatten(0, (count, chosen))
        weights = routing.weights.to(outputs.dtype)
        return (placed * weights[..., None, None]).sum(1).reshape(x.shape)

    def cost(self, tokens: int) -> int:
        """Operations of the router, K experts and the shared ones."""
        first = cast(FeedForward, self.experts[0])
        shared = sum(cast(FeedForward, expert).cost(tokens) for expert in self.shared)
        return self.router.cost(tokens) + self.top_k * first.cost(tokens) + shared


def leave_losses(routing: Routing, x: Tensor, ctx: Context) -> None:
    """Leave the load-balance loss and the z-loss of the decisions for the tokens `x` [B, N, D] in the context."""
    experts = routing.probabilities.shape[-1]
    weight = decision_weights(routing, x, ctx)
    chosen = torch.zeros_like(routing.probabilities).scatter(1, routing.experts, 1.0)
    share = (weight[:, None] * chosen).sum(0) / routing.experts.shape[1]
    mean = (weight[:, None] * routing.probabilities).sum(0)
    ctx.add_loss(BALANCE, experts * (mean * share).sum())
    ctx.add_loss(LOGITS, (weight * routing.logits.logsumexp(-1).square()).sum())


def decision_weights(routing: Routing, x: Tensor, ctx: Context) -> Tensor:
    """[R], what each decision counts, adding up to one; those for padded tokens nothing."""
    count = len(routing.logits)
    mask = ctx.masks.get("x")
    if count == x.shape[0] or mask is None or mask.keys is None:
        return routing.logits.new_full((count,), 1 / count)
    real = mask.keys.flatten().to(routing.logits.dtype)
    return real / real.sum().clamp(min=1)


def count_active_parameters(module: nn.Module, routers: bool = True) -> int:
    """Parameters that one token meets: all of the module's but those of the experts that it is not routed to.

    Args:
        module: anything, with mixtures of experts inside.
        routers: whether routers count; they do not run once the experts are fused.
    """
    total = sum(parameter.numel() for parameter in module.parameters())
    for mixture in module.modules():
        if isinstance(mixture, MixtureOfExperts):
            unused = len(mixture.experts) - mixture.top_k
            total -= unused * sum(parameter.numel() for parameter in mixture.experts[0].parameters())
            if not routers:
                total -= sum(parameter.numel() for parameter in mixture.router.parameters())
    return total
