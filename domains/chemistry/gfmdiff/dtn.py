"""GFMDiff's dual-track transformer, the denoiser (arXiv 2401.02683, section 4.1).

Shape legend: B batch, N atoms, C element channels, D width of the node track, P of the pair track.

It differs from the core's transformers in kind: tracks of atoms, pairs and triplets instead of one sequence, and an
output that turns with the molecule. Distances, angles and directions are all it sees of coordinates, so a rotated,
moved or mirrored molecule gets the same features and the same moves, turned. It cannot tell a mirror image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from polydit.platform.context import Context
from polydit.platform.denoisers.base import Denoiser
from polydit.platform.denoisers.modulation import AdaLNZero, Modulation
from polydit.platform.denoisers.stack import FeedForwards, choose_parts
from polydit.platform.denoisers.time import TimeEmbedding
from polydit.platform.denoisers.tokens import check_channels
from polydit.platform.errors import ConfigurationError
from polydit.platform.feedforwards import MLP
from polydit.platform.state import Condition, State, Streams, Time, expand_time

from .blocks import DualTrackBlock, GeometryRefresh, clear
from .features import Angles, Distances
from .settings import Lift, Moves, TrackSettings, width_of_triplets

FEATURES = ("element", "number", "valence")
"""Fields beside ``position``, in the order in which the network takes them."""


class DualTrackTransformer(Denoiser):
    """Node, pair and triplet tracks; an equivariant move of the atoms in every layer.

    Fields: ``position`` [B, N, 3], of zero mean over a molecule's atoms, ``element`` [B, N, C], ``number`` [B, N, 1]
    and ``valence`` [B, N, 1]. The time is a channel beside the features, as published; vectors of the condition, such
    as a property's, are added to the embedded atoms. The defaults are those released for QM9, with one exception:
    padding is hidden from triplet attention, as meant there.

    Args:
        elements: C.
        width: D.
        depth: number of layers.
        heads: of node attention.
        hidden: width inside the feed-forwards and the output.
        pair_width: P; None: D.
        pair_heads: of triplet attention; None: as many as of node attention.
        lift: ``"outer"`` or ``"gated"``, see `Lift`; the latter is 9.2 M parameters in place of 92.5 M.
        angles: see `Angles`; ``"recurrent"`` as released.
        distances: see `Distances`.
        moves: see `Moves`.
        dropout: in attention, feed-forwards and residuals.
        mask_triplets: False: the released code's attention to padding.
        chunk: atoms whose triplets are handled at a time, so that memory grows with pairs only; None: all at once.
        estimate: whether the last estimate of the clean molecule, the condition channel ``self_condition``, is seen:
            its distances by the pairs, its features by the atoms, and as a direction to move in.
        time: builds an embedding of the time which, with the condition's vectors, is added to the atoms of every layer
            through a map that starts at zero; None: the published channel alone.
        feedforward: builds the node track's feed-forward from the width, or several that layers take in turn; None: the
            published one.
        modulation: builds what turns that embedding into one vector per layer; unused without `time`.
        channels: condition channel -> number of channels, such as the elements that are asked for; through linear maps
            of their own they are added to the embedded atoms.
    """

    def __init__(
        self,
        elements: int = 5,
        width: int = 256,
        depth: int = 5,
        heads: int = 8,
        hidden: int = 512,
        pair_width: int | None = None,
        pair_heads: int | None = None,
        lift: Lift = "outer",
        angles: Angles = "recurrent",
        distances: Distances = "squared",
        moves: Moves = "all",
        dropout: float = 0.1,
        mask_triplets: bool = True,
        chunk: int | None = None,
        estimate: bool = False,
        time: Callable[[int], TimeEmbedding] | None = None,
        feedforward: FeedForwards | None = None,
        modulation: Callable[[int, Sequence[int]], Modulation] = AdaLNZero,
        channels: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        if depth < 1:
            raise ConfigurationError(f"depth {depth} leaves no layer: give at least 1")
        pair_width = pair_width or width
        settings = TrackSettings(
            heads, pair_width, pair_heads or heads, round(hidden * pair_width / width),
            width_of_triplets(angles, pair_width), lift, angles, moves, distances, dropout, mask_triplets, chunk,
            estimate, time is not None,
        )
        self.elements, self.width = elements, width
        self.sizes = [elements, 1, 1]
        features = sum(self.sizes)
        self.embedding = nn.Linear(features + 1, width)
        self.estimate = nn.Linear(features, width, bias=False) if estimate else None
        self.follow = nn.Linear(width, 1) if estimate else None
        self.channels = nn.ModuleDict(
            {name: nn.Linear(size, width, bias=False) for name, size in (channels or {}).items()}
        )
        self.refresh = GeometryRefresh(width, settings)
        own = feedforward or partial(MLP, ratio=hidden / width, activation="gelu", dropout=dropout)
        self.blocks = nn.ModuleList(
            DualTrackBlock(width, parts, f"blocks.{index}", settings, moves == "all" or index == depth - 1)
            for index, parts in enumerate(choose_parts(depth, feedforward=own))
        )
        self.time = time(width) if time is not None else None
        self.modulation = modulation(width, [1] * depth) if time is not None else None
        self.output = nn.Sequential(
            nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width), nn.ReLU(),
            nn.Linear(width, features, bias=False),
        )
        if self.follow is not None:
            nn.init.zeros_(self.follow.weight)
            nn.init.zeros_(self.follow.bias)

    @property
    def streams(self) -> dict[str, str]:
        """The node track stands on the atoms."""
        return {"node": "position"}

    def forward(self, x_t: State, t: Time, cond: Condition, ctx: Context) -> State:
        """Prediction of every field; that of positions has zero mean and turns with them.

        Args:
            x_t: noised fields.
            t: [B] noise levels.
            cond: the condition's vectors, the channels listed, and ``self_condition`` where estimates are used.
            ctx: context of this pass.

        Raises:
            ConfigurationError: if times differ between fields or atoms, fields are missing or of another size, or the
                condition has channels that are not listed.
        """
        if isinstance(t, dict) or t.ndim != 1:
            raise ConfigurationError("this denoiser takes one noise level per molecule: give t of shape [B]")
        points = x_t["position"]
        # weights may be kept in fewer bits than the state, whose positions then stay as they are
        features = self._gather(x_t).to(self.embedding.weight.dtype)
        level = expand_time(t, features).expand(*features.shape[:2], 1).to(features.dtype)
        node = self.embedding(clear(torch.cat([features, level], dim=-1), ctx))
        for vector in cond.vectors.values():
            node = node + (vector if vector.ndim == 3 else vector[:, None]).to(node.dtype)
        check_channels(cond, {"self_condition", *self.channels})
        for name, layer in self.channels.items():
            if name in cond.channels:
                node = node + layer(cond.channels[name].to(features.dtype))
        clean, clean_features = self._estimates(cond)
        if self.estimate is not None and clean_features is not None:
            node = node + self.estimate(clean_features.to(features.dtype))
        streams = self.refresh.start(clear(functional.relu(node), ctx), points, ctx, clean)
        streams = ctx.run(streams, [
            partial(self._layer, index=index, modulation=vectors, ctx=ctx)
            for index, vectors in enumerate(self._modulate(t, cond))
        ])
        moves = streams["point"] - points
        if self.follow is not None and clean is not None:
            moves = moves + self.follow(streams["node"]).to(points.dtype) * (clean - points)
        return {"position": self._centre(moves, ctx), **self._split(clear(self.output(streams["node"]), ctx), x_t)}

    def _layer(self, h: Streams, index: int, modulation: Sequence[Tensor], ctx: Context) -> Streams:
        """Layer `index`; where atoms move, all but the first begin by looking at where they now are."""
        again = index > 0 and self.refresh.repeats
        return self.blocks[index](self.refresh(h, ctx) if again else h, modulation, ctx)

    def _modulate(self, t: Tensor, cond: Condition) -> list[Sequence[Tensor]]:
        if self.time is None or self.modulation is None:
            return [()] * len(self.blocks)
        return [*self.modulation(cond.add_to(self.time(t)))]

    def _gather(self, x_t: State) -> Tensor:
        """Features [B, N, C + 2] side by side."""
        found = {name: tuple(x_t[name].shape[2:]) for name in ("position", *FEATURES) if name in x_t}
        wanted = {"position": (3,), **{name: (size,) for name, size in zip(FEATURES, self.sizes, strict=True)}}
        if found != wanted or set(x_t) != set(wanted):
            raise ConfigurationError(
                f"the state has fields {sorted(x_t)} of sizes {found}, this denoiser takes {wanted}: set `elements` to "
                "the codec's number, or use the codec of atoms as points"
            )
        return torch.cat([x_t[name] for name in FEATURES], dim=-1)

    def _estimates(self, cond: Condition) -> tuple[Tensor | None, Tensor | None]:
        """Clean positions and features as last estimated; the channel holds fields in the order of their names."""
        channel = cond.channels.get("self_condition")
        if self.estimate is None or channel is None:
            return None, None
        element, number, position, valence = channel.split([self.elements, 1, 3, 1], dim=-1)
        return position, torch.cat([element, number, valence], dim=-1)

    def _split(self, features: Tensor, x_t: State) -> State:
        parts = zip(FEATURES, features.split(self.sizes, dim=-1), strict=True)
        return {name: part.to(x_t[name].dtype) for name, part in parts}

    @staticmethod
    def _centre(moves: Tensor, ctx: Context) -> Tensor:
        mask = ctx.masks.get("node")
        if mask is None or mask.keys is None:
            return moves - moves.mean(1, keepdim=True)
        real = mask.keys[..., None].to(moves.dtype)
        return (moves - (moves * real).sum(1, keepdim=True) / real.sum(1, keepdim=True).clamp(min=1)) * real

    def cost(self, tokens: int, condition_tokens: int = 0) -> int:
        """Floating-point operations of one sample alone, with an estimate, two per multiply-add, products only."""
        layers = (self.embedding, self.estimate, self.follow, *self.channels.values(), *self.output)
        ends = [layer for layer in layers if isinstance(layer, nn.Linear)]
        total = 2 * tokens * sum(layer.weight.numel() for layer in ends)
        total += self.refresh.cost(tokens, len(self.blocks) - 1 if self.refresh.repeats else 0)
        total += sum(block.cost(tokens) for block in self.blocks if isinstance(block, DualTrackBlock))
        if self.time is not None and self.modulation is not None:
            total += self.time.cost() + self.modulation.cost()
        return total
