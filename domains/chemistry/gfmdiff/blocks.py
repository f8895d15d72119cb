"""One layer of GFMDiff's dual-track transformer, and the refresh between two (arXiv 2401.02683, section 4.1).

Shape legend: B batch, N atoms, D width of the node track, P of the pair track, A of a triplet, M atoms of a chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from polydit.platform.context import Context
from polydit.platform.denoisers.blocks import BlockParts, DenoiserBlock
from polydit.platform.feedforwards import MLP
from polydit.platform.state import Streams

from .attention import NodeAttention, TripletAttention
from .features import (
    DistanceBasis,
    FusedEmbedding,
    GaussianAngles,
    pair_geometry,
    spherical_harmonics,
    unit_vectors,
)
from .lifts import CoordinateUpdate, GatedLift, OuterProductLift
from .settings import TrackSettings


def real_pairs(points: Tensor, ctx: Context) -> Tensor:
    """[B, N, N] bool, True between two different real atoms; made once a pass."""

    def make() -> Tensor:
        batch, count = points.shape[:2]
        different = ~torch.eye(count, dtype=torch.bool, device=points.device)
        mask = ctx.masks.get("node")
        if mask is None or mask.keys is None:
            return different.expand(batch, count, count)
        return mask.keys[:, :, None] & mask.keys[:, None] & different

    return ctx.once(("real pairs", points.shape[1]), make)


class DualTrackBlock(DenoiserBlock):
    """Node attention, feed-forward, lift to pairs, triplet attention, feed-forward of pairs, move of the atoms.

    Streams: ``node`` [B, N, D], ``pair`` [B, N, N, P], ``point`` [B, N, 3] and, where triplets have a state of their
    own, ``triplet`` [B, N, N, N, A].

    Args:
        width: D; supplied by the denoiser.
        parts: builders, of which the node track's feed-forward is taken; supplied by the denoiser.
        name: prefix of its parts' names in ``ctx.call``; supplied by the denoiser.
        settings: everything else.
        moves: whether atoms move at its end.
    """

    def __init__(self, width: int, parts: BlockParts, name: str, settings: TrackSettings, moves: bool = True) -> None:
        super().__init__()
        pair_width, dropout = settings.pair_width, settings.dropout
        self.name, self.chunk = name, settings.chunk
        self.chunks = 1 if settings.timed else 0
        self.angles = GaussianAngles() if settings.angles == "gaussian" else None
        self.node_attention = NodeAttention(width, pair_width, settings.heads, dropout)
        self.feedforward = parts.feedforward(width)
        lift = OuterProductLift if settings.lift == "outer" else GatedLift
        self.lift = lift(width, pair_width)
        self.pair_norm = nn.LayerNorm(pair_width)
        self.triplet_attention = TripletAttention(
            pair_width, settings.triplet_width, settings.pair_heads, dropout, settings.mask_triplets,
            settings.angles == "harmonic",
        )
        self.pair_feedforward = MLP(pair_width, settings.pair_hidden / pair_width, "gelu", dropout=dropout)
        self.move = CoordinateUpdate(width, pair_width) if moves else None
        self.rests = settings.moves == "last"
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Streams, modulation: Sequence[Tensor], ctx: Context) -> Streams:
        """Next streams; the one vector of the modulation, if there is any, is added to the nodes."""
        node, points = h["node"], h["point"]
        pairs = real_pairs(points, ctx)
        pair = h["pair"] * pairs[..., None].to(h["pair"].dtype)
        if self.chunks:
            node = node + modulation[0]
        attend = ctx.call(f"{self.name}.node_attention", lambda value: self.node_attention(value, pair, pairs), node)
        node = node + self.dropout(attend)
        fed = ctx.call(f"{self.name}.feedforward", lambda value: self.feedforward(value, ctx), node)
        node = clear(node + self.dropout(fed), ctx)
        pair = self.pair_norm(pair + self.dropout(self.lift(node, pairs)))
        seen = ctx.call(
            f"{self.name}.triplet_attention", lambda value: self._attend(value, points, h.get("triplet"), ctx), pair
        )
        pair = pair + self.dropout(seen)
        fed = ctx.call(f"{self.name}.pair_feedforward", lambda value: self.pair_feedforward(value, ctx), pair)
        pair = (pair + self.dropout(fed)) * pairs[..., None].to(pair.dtype)
        if self.move is not None:
            points = self.move(points, node, pair, pair_geometry(points)[1], pairs)
        return {**h, "node": ctx.tap(self.name, node), "pair": pair, "point": points}

    def _attend(self, pair: Tensor, points: Tensor, triplets: Tensor | None, ctx: Context) -> Tensor:
        """Triplet attention of all first atoms, or chunk by chunk where no more memory than of pairs is wanted."""
        pairs, key = real_pairs(points, ctx), points.shape[1]
        if self.triplet_attention.harmonic:
            around = self._make(ctx, ("harmonics", key), lambda: spherical_harmonics(unit_vectors(points)))
            return self.triplet_attention(pair, pairs, around=around)
        angles = self.angles
        if angles is None:
            return self.triplet_attention(pair, pairs, triplets)
        if self.chunk is None:
            return self.triplet_attention(pair, pairs, self._make(ctx, ("angles", key), lambda: angles(points, points)))

        def attend_from(some: Tensor, centres: Tensor) -> Tensor:
            return self.triplet_attention(some, pairs, angles(points, centres))

        found = []
        for start in range(0, pair.shape[1], self.chunk):
            part = slice(start, start + self.chunk)
            # what the backward pass needs is made again then, so that no triplet outlives its chunk
            run = partial(checkpoint, attend_from, use_reentrant=False) if torch.is_grad_enabled() else attend_from
            found.append(cast(Tensor, run(pair[:, part], points[:, part])))
        return torch.cat(found, dim=1)

    def _make(self, ctx: Context, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """What is made of the points: once a pass where no layer but the last moves them."""
        return ctx.once(key, make) if self.rests else make()

    def cost(self, tokens: int, condition_tokens: int = 0) -> int:
        """Floating-point operations of one sample alone, two per multiply-add, products only."""
        products = self.node_attention.cost(tokens) + self.lift.cost(tokens) + self.triplet_attention.cost(tokens)
        if self.move is not None:
            products += self.move.cost(tokens)
        # angles that are made once are counted in the last layer, where atoms move
        if self.angles is not None and (self.move is not None or not self.rests or self.chunk is not None):
            products += 3 * tokens**3
        feedforwards = self.feedforward.cost(tokens) + self.pair_feedforward.cost(tokens**2)
        return 2 * products + feedforwards


class GeometryRefresh(nn.Module):
    """What both tracks know of distances and angles: at the start, and again after every move; one for all layers.

    Args:
        width: D.
        settings: of the tracks.
    """

    def __init__(self, width: int, settings: TrackSettings) -> None:
        super().__init__()
        pair_width = settings.pair_width
        self.width = width
        self.distances = DistanceBasis(settings.distances)
        self.estimate = nn.Linear(self.distances.count, pair_width, bias=False) if settings.estimate else None
        self.repeats = settings.moves == "all"
        self.pair = FusedEmbedding(self.distances.count, pair_width, pair_width if self.repeats else 0, pair_width)
        self.nodes = nn.Linear(2 * width + pair_width, pair_width)
        self.angles = GaussianAngles() if settings.angles == "recurrent" else None
        self.triplet = (
            FusedEmbedding(GaussianAngles.count, settings.triplet_width, settings.triplet_width, settings.triplet_width)
            if settings.angles == "recurrent"
            else None
        )

    def start(self, node: Tensor, points: Tensor, ctx: Context, estimate: Tensor | None = None) -> Streams:
        """The first streams: pairs of embedded distances, and of those of an estimate of the clean points if given."""
        pair = self.pair.start(self.distances(pair_geometry(points)[0]))
        if self.estimate is not None and estimate is not None:
            pair = pair + self.estimate(self.distances(pair_geometry(estimate)[0]).to(self.estimate.weight.dtype))
        streams = {"node": node, "pair": self._with_nodes(node, pair, points, ctx), "point": points}
        if self.angles is not None and self.triplet is not None:
            streams["triplet"] = functional.relu(self.triplet.start(self.angles(points, points)))
        return streams

    def forward(self, h: Streams, ctx: Context) -> Streams:
        """Streams that know where the atoms now are."""
        points = h["point"]
        pair = functional.relu(self.pair(self.distances(pair_geometry(points)[0]), h["pair"]))
        refreshed = {**h, "pair": self._with_nodes(h["node"], pair, points, ctx)}
        if self.angles is not None and self.triplet is not None:
            refreshed["triplet"] = functional.relu(self.triplet(self.angles(points, points), h["triplet"]))
        return refreshed

    def _with_nodes(self, node: Tensor, pair: Tensor, points: Tensor, ctx: Context) -> Tensor:
        """Linear map of both atoms and the pair side by side, the atoms' shares taken once per atom."""
        of_second, of_first, of_pair = self.nodes.weight.split([self.width, self.width, pair.shape[-1]], dim=1)
        both = functional.linear(node, of_second)[:, None] + functional.linear(node, of_first)[:, :, None]
        both = torch.where(real_pairs(points, ctx)[..., None], both, 0.0)
        return functional.linear(pair, of_pair, self.nodes.bias) + both

    def cost(self, tokens: int, refreshes: int) -> int:
        """Floating-point operations of one sample alone: the start, and so many refreshes; products only."""
        pair_width, count = self.pair.embed.out_features, self.distances.count
        nodes = 2 * tokens * self.width * pair_width + tokens**2 * pair_width**2
        embeddings = 1 if self.estimate is None else 2
        products = embeddings * tokens**2 * count * pair_width + nodes
        products += refreshes * (tokens**2 * self.pair.cost() + self.pair.fold_cost() + nodes)
        if self.triplet is not None:
            width = self.triplet.embed.out_features
            angle = 3 * tokens**3
            products += angle + tokens**3 * GaussianAngles.count * width
            products += refreshes * (angle + tokens**3 * self.triplet.cost() + self.triplet.fold_cost())
        return 2 * products


def clear(node: Tensor, ctx: Context) -> Tensor:
    """Nodes [B, N, D] with zeros at padding."""
    mask = ctx.masks.get("node")
    return node if mask is None or mask.keys is None else node * mask.keys[..., None].to(node.dtype)
