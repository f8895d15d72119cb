"""Bridges between towers: two transformers that run side by side and read each other between their blocks.

Shape legend: B batch, N, M tokens of two streams, D, E their widths, H heads, W inner width of the attention.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..context import Context
from ..denoisers.blocks import modulate
from ..denoisers.initialisation import initialise_weights, zero_linear
from ..feedforwards import MLP, FeedForward
from ..mixers.attention import check_heads, split_heads
from ..mixers.rotary import RotaryPosition
from ..norms import LayerNorm

CHUNKS = 6
"""Vectors that modulate each stream: shift, scale and gate of the attention, and of the feed-forward."""


class Stream(NamedTuple):
    """One tower at a bridge.

    Args:
        h: [B, N, D] tokens.
        time: [B, D] the tower's own time embedding.
        positions: [B, N] or [1, N] where its tokens stand on the axis that both towers share, such as seconds; None:
            their number in the sequence.
    """

    h: Tensor
    time: Tensor
    positions: Tensor | None = None


class Bridge(nn.Module):
    """Dual cross-attention between two streams, each under adaLN of its own tower's time (BridgeDiT, arXiv 2510.03117).

    Both streams read the other as it was before the bridge, then pass a feed-forward of their own. Output projections
    and last layers of the feed-forwards start at zero, so that a bridge between trained towers is the identity before
    training. Gates start near one, since a gate of zero would keep these layers from ever learning. With equal widths D
    it has 36 D² weights beside its biases: 8 of attention, 16 of the feed-forwards, 12 of the modulation.

    Args:
        widths: D and E of the streams.
        heads: H, must divide the inner width; None: one per 64 of it.
        width: W; None: the smaller of the two.
        feedforward: builds the feed-forwards from a stream's width; None: `MLP` of ratio 4.
        unit: positions that differ by it turn the fastest part of queries and keys by one radian: about the spacing of
            tokens, in the unit of the positions.
        base: ratio of the longest to the shortest wavelength of rotary positions.
        focus: what biases of queries and keys start at. Turned by their positions, equal constants attend to equal
            positions, the more so the larger they are: a bridge that starts focused need not first find out that what
            happens at one moment belongs together. 0: it attends alike to all at first, as published.
        name: prefix of its parts' names in ``ctx.call``.
    """

    def __init__(
        self,
        widths: tuple[int, int],
        heads: int | None = None,
        width: int | None = None,
        feedforward: Callable[[int], FeedForward] | None = None,
        unit: float = 1.0,
        base: float = 1e4,
        focus: float = 0.0,
        name: str = "bridge",
    ) -> None:
        super().__init__()
        inner = min(widths) if width is None else width
        self.focus = focus
        self.heads, self.name, self.unit, self.widths, self.width = check_heads(inner, heads), name, unit, widths, inner
        build = feedforward or partial(MLP, ratio=4.0)
        self.modulations = nn.ModuleList([nn.Linear(size, CHUNKS * size) for size in widths])
        self.norms = nn.ModuleList([LayerNorm(size, False) for size in (*widths, *widths)])
        self.queries = nn.ModuleList([nn.Linear(size, inner) for size in widths])
        self.keys = nn.ModuleList([nn.Linear(size, inner) for size in reversed(widths)])
        self.values = nn.ModuleList([nn.Linear(size, inner) for size in reversed(widths)])
        self.outputs = nn.ModuleList([nn.Linear(inner, size) for size in widths])
        self.feedforwards = nn.ModuleList([build(size) for size in widths])
        self.rotary = RotaryPosition(inner // self.heads, base=base)
        initialise_weights(self)

    def initialise(self) -> None:
        """Zero what is added to the streams; gates about one."""
        for linear in (*self.queries, *self.keys):
            nn.init.constant_(cast(nn.Linear, linear).bias, self.focus)
        for output in self.outputs:
            zero_linear(cast(nn.Linear, output))
        for feedforward in self.feedforwards:
            last = [module for module in feedforward.modules() if isinstance(module, nn.Linear)][-1]
            zero_linear(last)
        for linear, size in zip(self.modulations, self.widths, strict=True):
            with torch.no_grad():
                gates = cast(nn.Linear, linear).bias.view(CHUNKS, size)
                gates[2], gates[5] = 1.0, 1.0

    def forward(self, first: Stream, second: Stream, ctx: Context) -> tuple[Tensor, Tensor]:
        """Both streams, [B, N, D] and [B, M, E], after reading each other."""
        pair = (first, second)
        vectors = [
            linear(functional.silu(stream.time))[:, None].chunk(CHUNKS, dim=-1)
            for linear, stream in zip(self.modulations, pair, strict=True)
        ]
        normed = [
            modulate(norm(stream.h), *vector[:2])
            for norm, stream, vector in zip(self.norms, pair, vectors, strict=False)
        ]
        mixed = []
        for side, stream in enumerate(pair):
            read = partial(self._read, side, normed[1 - side], stream.positions, pair[1 - side].positions, ctx)
            h = torch.addcmul(stream.h, vectors[side][2], ctx.call(f"{self.name}.{side}.attention", read, normed[side]))
            feed = partial(self.feedforwards[side], ctx=ctx)
            fed = ctx.call(
                f"{self.name}.{side}.feedforward", feed, modulate(self.norms[2 + side](h), *vectors[side][3:5])
            )
            mixed.append(torch.addcmul(h, vectors[side][5], fed))
        return mixed[0], mixed[1]

    def cost(self, tokens: tuple[int, int]) -> int:
        """Floating-point operations of one sample with N and M tokens, two per multiply-add, products only."""
        total = 2 * 4 * tokens[0] * tokens[1] * self.width
        for side, count in enumerate(tokens):
            # a stream's tokens pass a query and an output of its own, a key and a value of the other's
            total += 8 * count * self.width * self.widths[side] + 2 * CHUNKS * self.widths[side] ** 2
            total += cast(FeedForward, self.feedforwards[side]).cost(count)
        return total

    def _read(
        self, side: int, other: Tensor, positions: Tensor | None, others: Tensor | None, ctx: Context, x: Tensor
    ) -> Tensor:
        """What stream `side` reads from the other: [B, N, D] of its normed tokens `x`."""
        q = self._turn(split_heads(self.queries[side](x), self.heads), positions)
        k = self._turn(split_heads(self.keys[side](other), self.heads), others)
        v = split_heads(self.values[side](other), self.heads)
        return self.outputs[side](ctx.attend(q, k, v).transpose(1, 2).flatten(2))

    def _turn(self, x: Tensor, positions: Tensor | None) -> Tensor:
        return self.rotary(x, None if positions is None else positions / self.unit)
