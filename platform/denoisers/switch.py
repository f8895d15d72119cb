"""Switch-DiT: blocks that the noise level adapts through a small mask of experts (arXiv 2403.09176).

Shape legend: B batch, N tokens, D width, E experts, K experts chosen, T levels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..context import Context
from ..errors import ConfigurationError
from ..feedforwards import FeedForward, MixtureOfExperts, NoiseRouter
from ..state import Streams
from .blocks import BlockParts, DenoiserBlock, DiTBlock
from .initialisation import zero_linear

LEVELS = 1000
"""T, noise levels at which the gates are compared with the prior, those of the published process."""


class TimeRouter(NoiseRouter):
    """SiLU and one linear map of the time embedding, the likeliest K, with their probabilities as they are.

    Args:
        width: D; supplied by the mixture.
        experts: E; supplied by the mixture.
        top_k: K; supplied by the mixture.
    """

    def __init__(self, width: int, experts: int, top_k: int) -> None:
        super().__init__(width, experts, top_k, hidden=0.0, sampled=False, renormalised=False, bias=True)

    def features(self, x: Tensor, ctx: Context) -> Tensor:
        """The time embedding, one row per sample or per token."""
        return functional.silu(super().features(x, ctx))

    def probabilities(self, time: Tensor) -> Tensor:
        """[T, E] of embedded levels [T, D]."""
        return self._score(functional.silu(time)).softmax(-1)


class LinearExpert(FeedForward):
    """One linear map, zero at the start.

    Args:
        width: D; supplied by the mixture.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.initialise()

    def initialise(self) -> None:
        """Zero, so that the mask starts at one."""
        zero_linear(self.linear)

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        """[B, N, D]."""
        return self.linear(x)

    def cost(self, tokens: int) -> int:
        """Operations per sample: 2 N D²."""
        return 2 * tokens * self.linear.weight.numel()


class SwitchBlock(DenoiserBlock):
    """A block whose input is masked by experts that the noise level chooses, and whose output is filled up again.

    With mask = 1 + sum_k g_k Expert_k(x), out = Block(x * mask) + (1 - mask) * x (section 3.2). One decision holds for
    all tokens of a sample. The mask starts at one, and so the block as the plain one. Its gates at T levels are left
    under the tap ``{name}.gates`` [T, E] where `polydit.platform.objectives.DiffusionPrior` wants them.

    Args:
        width: D; supplied by the stack.
        parts: builders of the block's parts; supplied by the stack.
        name: prefix of the parts' names in ``ctx.call``; supplied by the stack.
        experts: E.
        top_k: K.
        block: builds the block within.
    """

    def __init__(
        self,
        width: int,
        parts: BlockParts,
        name: str,
        experts: int = 3,
        top_k: int = 2,
        block: Callable[[int, BlockParts, str], DenoiserBlock] = DiTBlock,
    ) -> None:
        super().__init__()
        self.name = name
        self.block = block(width, parts, name)
        self.chunks = self.block.chunks
        self.mask = MixtureOfExperts(width, experts, top_k, LinearExpert, TimeRouter)

    def forward(self, h: Streams, modulation: Sequence[Tensor], ctx: Context) -> Streams:
        """Streams with ``x`` advanced by one block."""
        x = h["x"]
        added = ctx.call(f"{self.name}.mask", lambda value: self.mask(value, ctx), x)
        result = self.block({**h, "x": x * (1 + added)}, modulation, ctx)
        if f"{self.name}.gates" in ctx.wanted_taps:
            ctx.tap(f"{self.name}.gates", self._gates(ctx))
        return {**result, "x": ctx.tap(self.name, result["x"] - added * x)}

    def _gates(self, ctx: Context) -> Tensor:
        embed = ctx.embed_time
        if embed is None or ctx.time is None:
            raise ConfigurationError("the gates of a Switch block are of noise levels: use it inside a DiT")
        levels = torch.linspace(0, 1, LEVELS, device=ctx.time.device)
        router = cast(TimeRouter, self.mask.router)
        return router.probabilities(ctx.once("switch.levels", lambda: embed(levels)))

    def cost(self, tokens: int, condition_tokens: int = 0) -> int:
        """The block's and the mask's."""
        return self.block.cost(tokens, condition_tokens) + self.mask.cost(tokens)
