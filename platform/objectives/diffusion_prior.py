"""The diffusion prior of Switch-DiT: near noise levels share experts (arXiv 2403.09176, section 3.3).

Shape legend: B batch, T levels, U = L E units, the experts of all L blocks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import require
from .objective import Denoising, Objective


class DiffusionPrior(Objective):
    """Divergence of the gates at the batch's noise levels from a prior in which a window of units moves with the level.

    Of the U units, a share K / E is on at a level; the window moves by (t / (T - 1))^4, so that low levels share their
    units and high ones drift apart. Which unit stands where in the prior does not matter: the gates' columns, over all
    levels, are matched with its columns at the least sum of absolute differences, anew at every step. The loss is the
    mean Jensen-Shannon divergence of the rows at the batch's levels, each divided by its sum.

    Args:
        depth: L, blocks of the denoiser, all `polydit.platform.denoisers.SwitchBlock`.
        share: K / E.
        weight: factor in the total; 1 as published.
        name: prefix of the blocks' names.
        field: whose noise levels are the batch's, where fields have levels of their own; None: the first.
    """

    def __init__(
        self, depth: int, share: float = 2 / 3, weight: float = 1.0, name: str = "blocks", field: str | None = None
    ) -> None:
        super().__init__(weight)
        self.taps = tuple(f"{name}.{index}.gates" for index in range(depth))
        self.wanted_taps = frozenset(self.taps)
        self.share, self.field = share, field

    def loss(self, denoising: Denoising) -> Tensor:
        """Scalar.

        Raises:
            ValueError: if a block left no gates.
        """
        missing = [name for name in self.taps if name not in denoising.context.taps]
        if missing:
            raise ValueError(f"no gates {missing} were left: set `depth` to the number of the denoiser's Switch blocks")
        gates = torch.cat([denoising.context.taps[name] for name in self.taps], dim=-1).float()
        prior = make_prior(len(gates), gates.shape[1], self.share).to(gates)
        matched = prior[:, match_columns(gates.detach(), prior)]
        t = denoising.time(self.field or sorted(denoising.x_t)[0])
        rows = (t.flatten().float() * (len(gates) - 1)).round().long()
        return divergence(gates[rows], matched[rows]).mean()


def make_prior(levels: int, units: int, share: float) -> Tensor:
    """[T, U] of zeros and ones: at each level a window of ``floor(U share)`` ones."""
    window = int(units * share + 1e-6)
    t = torch.arange(levels, dtype=torch.float64) / max(1, levels - 1)
    start = (t**4 * (units - window)).round().long()[:, None]
    unit = torch.arange(units)[None]
    return ((unit >= start) & (unit < start + window)).float()


def match_columns(gates: Tensor, prior: Tensor) -> Tensor:
    """[U] column of the prior for every column of the gates [T, U], at the least total absolute difference."""
    optimize = require("scipy.optimize", "vision")
    costs = torch.cdist(gates.T.contiguous(), prior.T.contiguous(), p=1)
    _, columns = optimize.linear_sum_assignment(costs.cpu().numpy())
    return torch.as_tensor(columns, device=gates.device)


def divergence(p: Tensor, q: Tensor) -> Tensor:
    """Jensen-Shannon divergence [B] in nats of rows [B, U], each divided by its sum."""
    p, q = p / p.sum(-1, keepdim=True), q / q.sum(-1, keepdim=True)
    middle = (p + q) / 2

    def relative(a: Tensor) -> Tensor:
        return (torch.special.xlogy(a, a) - torch.special.xlogy(a, middle)).sum(-1)

    return (relative(p) + relative(q)) / 2
