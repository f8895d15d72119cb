"""GFMDiff's published network from plain torch modules, computing what the released code computes, at its cost.

It is the peer for parity and speed, so nothing is re-associated and nothing is fused: the outer product of two nodes'
features is made in full, [B, N, N, D*D], and so are the keys and values of every triplet, [B, N, N, N, D]. It follows
Xu et al., "Geometric-facilitated Denoising Diffusion Model for 3D Molecule Generation" (arXiv 2401.02683), in its
released configuration: time as a channel of every atom, distances and angles renewed after every layer.

Shape legend: B molecules, N atoms of the largest in the batch, D width, H heads, d = D / H, C feature channels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

Lift = Literal["outer", "concatenate"]
"""How a pair hears of its two nodes: all products of features (QM9), or both nodes side by side (GEOM-Drugs)."""


class GaussianBasis(nn.Module):
    """Linear map of the Gaussians exp(-10 (value - centre)^2).

    Args:
        stop: centres run from 0 up to here.
        step: distance of two centres.
        width: channels that come out.
    """

    centres: Tensor

    def __init__(self, stop: float, step: float, width: int) -> None:
        super().__init__()
        centres = torch.arange(math.ceil(stop / step), dtype=torch.float64) * step
        self.register_buffer("centres", centres.float(), persistent=False)
        self.linear = nn.Linear(len(centres), width)

    def forward(self, values: Tensor) -> Tensor:
        """[..., width] features of values [...]."""
        return self.linear(torch.exp(-10.0 * (values[..., None] - self.centres).square()))


class FeedForward(nn.Module):
    """Two linears with exact GELU and dropout between them."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as x."""
        return self.second(self.dropout(nn.functional.gelu(self.first(x))))


class NodeAttention(nn.Module):
    """Attention of atoms whose keys and values hear the pair: k_j + k_ij, and one map of v_i + v_j + v_ij per head."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.node_norm, self.pair_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.pair_key, self.pair_value = nn.Linear(width, width), nn.Linear(width, width)
        self.mix = nn.Linear(self.size, self.size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor, e: Tensor, node_mask: Tensor, pair_mask: Tensor) -> Tensor:
        """Update of nodes [B, N, D] from nodes and pairs [B, N, N, D]."""
        h, e = self.node_norm(h), self.pair_norm(e)
        q, k, v = (part(h).unflatten(-1, (self.heads, self.size)).transpose(1, 2) for part in (
            self.query, self.key, self.value
        ))  # fmt: skip
        k_pair, v_pair = (part(e).unflatten(-1, (self.heads, self.size)).permute(0, 3, 1, 2, 4) for part in (
            self.pair_key, self.pair_value
        ))  # fmt: skip
        q = (q * self.size**-0.5)[:, :, :, None]  # [B, H, N, 1, d]
        keys = k[:, :, None] + k_pair  # [B, H, N, N, d]
        logits = (q @ keys.transpose(-1, -2)).squeeze(3) + (1 - pair_mask).permute(0, 3, 1, 2) * -1e6
        weights = self.dropout(logits.softmax(-1)[:, :, :, None])
        values = self.mix(v[:, :, :, None] + v[:, :, None] + v_pair)
        return (weights @ values).squeeze(3).transpose(1, 2).flatten(2) * node_mask


class OuterLift(nn.Module):
    """Pair features from all products of the two nodes' gated features: a linear of D*D inputs, each made."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.left, self.right = nn.Linear(width, width), nn.Linear(width, width)
        self.out = nn.Linear(width * width, width)

    def forward(self, h: Tensor, pair_mask: Tensor) -> Tensor:
        """[B, N, N, D]; input channel a * D + b of the linear is left_i[a] * right_j[b]."""
        h = self.norm(h)
        size, count, width = h.shape
        left = (h * self.left(h)).reshape(size, count * width, 1)
        right = (h * self.right(h)).transpose(1, 2).reshape(size, 1, width * count)
        products = (left @ right).reshape(size, count, width, width, count).permute(0, 1, 4, 2, 3)
        return self.out(products.reshape(size, count, count, width * width))


class ConcatenatingLift(nn.Module):
    """Pair features from the two nodes' gated features side by side."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.left, self.right = nn.Linear(width, width), nn.Linear(width, width)
        self.out = nn.Linear(2 * width, width)

    def forward(self, h: Tensor, pair_mask: Tensor) -> Tensor:
        """[B, N, N, D]; the left half of what pair (i, j) hears is of node j, the right half of node i."""
        h = self.norm(h)
        left = (h * self.left(h))[:, None] * pair_mask
        right = (h * self.right(h))[:, :, None] * pair_mask
        return self.out(torch.cat([left, right], dim=-1))


class TripletAttention(nn.Module):
    """Attention of pair (i, j) over pairs (i, k), whose keys and values hear the angle at i, with a sigmoid gate.

    Args:
        width: D.
        heads: H.
        dropout: of the attention weights.
        mask: True: padded k and k = j are masked. False: as released, where the bias is 1e-9 and so masks nothing.
    """

    def __init__(self, width: int, heads: int, dropout: float, mask: bool) -> None:
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.bias = -1e6 if mask else 1e-9
        self.norm = nn.LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.angle_key, self.angle_value = nn.Linear(width // 2, width), nn.Linear(width // 2, width)
        self.out, self.gate = nn.Linear(width, width), nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, e: Tensor, a: Tensor, pair_mask: Tensor) -> Tensor:
        """Update of pairs [B, N, N, D] from pairs and triplets [B, N, N, N, D/2]."""
        e = self.norm(e)
        q, k, v = (part(e).unflatten(-1, (self.heads, self.size)) for part in (self.query, self.key, self.value))
        k_angle, v_angle = (part(a).unflatten(-1, (self.heads, self.size)) for part in (
            self.angle_key, self.angle_value
        ))  # fmt: skip
        q = (q * self.size**-0.5).transpose(2, 3)[:, :, :, :, None]  # [B, N, H, N, 1, d]
        keys = k.permute(0, 1, 3, 4, 2)[:, :, :, None] + k_angle.permute(0, 1, 4, 2, 5, 3)  # [B, N, H, N, d, N]
        values = (v[:, :, None] + v_angle).permute(0, 1, 4, 2, 3, 5)  # [B, N, H, N, N, d]
        bias = (1 - pair_mask).permute(0, 3, 1, 2)[:, :, None, :, None] * self.bias  # [B, 1, 1, N, 1, N]: of (j, k)
        weights = self.dropout((q @ keys + bias).softmax(-1))
        mixed = (weights @ values).squeeze(4).transpose(2, 3).flatten(3)
        return self.out(mixed) * torch.sigmoid(self.gate(e))


class CoordinateUpdate(nn.Module):
    """Moves atom i along (x_i - x_j) / (|x_i - x_j| + 1) by 20 tanh of a network of both nodes and their pair."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.decode = nn.Linear(width, 3)
        self.network = nn.Sequential(
            nn.Linear(2 * width + 3, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(),
            nn.Linear(width, 1, bias=False),
        )  # fmt: skip
        last = self.network[-1]
        assert isinstance(last, nn.Linear)
        nn.init.xavier_uniform_(last.weight, gain=0.001)

    def forward(self, h: Tensor, e: Tensor, x: Tensor, direction: Tensor, pair_mask: Tensor) -> Tensor:
        """Moved coordinates [B, N, 3]."""
        ends = h[:, :, None].expand(e.shape), h[:, None].expand(e.shape)
        shift = direction * torch.tanh(self.network(torch.cat([*ends, self.decode(e)], dim=-1))) * 20.0
        return x + (shift * pair_mask).sum(2)


class DualTrackLayer(nn.Module):
    """Nodes, then what they tell pairs, then pairs among themselves, then the coordinates."""

    def __init__(self, width: int, hidden: int, heads: int, dropout: float, lift: Lift, mask_triplets: bool) -> None:
        super().__init__()
        self.node_attention = NodeAttention(width, heads, dropout)
        self.node_feedforward = FeedForward(width, hidden, dropout)
        self.lift = OuterLift(width) if lift == "outer" else ConcatenatingLift(width)
        self.pair_norm = nn.LayerNorm(width)
        self.triplet_attention = TripletAttention(width, heads, dropout, mask_triplets)
        self.pair_feedforward = FeedForward(width, hidden, dropout)
        self.move = CoordinateUpdate(width)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, h: Tensor, e: Tensor, a: Tensor, x: Tensor, direction: Tensor, node_mask: Tensor, pair_mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Next nodes [B, N, D], pairs [B, N, N, D] and coordinates [B, N, 3]."""
        h = h + self.dropout(self.node_attention(h, e, node_mask, pair_mask))
        h = (h + self.dropout(self.node_feedforward(h))) * node_mask
        e = self.pair_norm(e + self.dropout(self.lift(h, pair_mask)))
        e = e + self.dropout(self.triplet_attention(e, a, pair_mask))
        e = (e + self.dropout(self.pair_feedforward(e))) * pair_mask
        return h, e, self.move(h, e, x, direction, pair_mask)


class PublishedGFMDiff(nn.Module):
    """The dual-track transformer: noise of coordinates and features from noisy coordinates and features.

    Args:
        channels: C, feature channels that are predicted: types, atomic number, valence.
        context: channels of properties joined to every atom's features.
        width: D.
        hidden: width inside the feed-forward parts.
        heads: H.
        layers: how many.
        dropout: of attention weights and updates.
        lift: "outer" as on QM9, "concatenate" as on GEOM-Drugs.
        mask_triplets: False as released, where padded atoms take part in triplets; True: they do not.
    """

    def __init__(
        self, channels: int = 7, context: int = 0, width: int = 256, hidden: int = 512, heads: int = 8, layers: int = 5,
        dropout: float = 0.1, lift: Lift = "outer", mask_triplets: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.channels = channels
        self.embed = nn.Linear(channels + context + 1, width)
        self.distances = GaussianBasis(10.0, 0.2, width)
        self.angles = GaussianBasis(math.pi, 0.1, width // 2)
        self.fuse_nodes = nn.Linear(3 * width, width)
        self.fuse_distances = nn.Linear(2 * width, width)
        self.fuse_angles = nn.Linear(width, width // 2)
        self.layers = nn.ModuleList(
            DualTrackLayer(width, hidden, heads, dropout, lift, mask_triplets) for _ in range(layers)
        )
        self.head = nn.Sequential(
            nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width), nn.ReLU(),
            nn.Linear(width, channels + context + 1, bias=False),
        )  # fmt: skip

    def forward(self, state: Tensor, t: Tensor, mask: Tensor, context: Tensor | None = None) -> Tensor:
        """Predicted noise.

        Args:
            state: [B, N, 3 + C] coordinates in Å without centre of mass, then scaled features; zero where padded.
            t: [B] in [0, 1].
            mask: [B, N] bool, True where an atom is real.
            context: [B, N, context] standardised properties, zero where padded.

        Returns:
            [B, N, 3 + C]; the coordinate part is free of a mean.
        """
        node_mask = mask[..., None].to(state.dtype)
        others = 1 - torch.eye(mask.shape[1], dtype=state.dtype, device=state.device)
        pair_mask = (node_mask * node_mask.transpose(1, 2) * others)[..., None]  # [B, N, N, 1]
        start, features = state[..., :3], state[..., 3:]
        joined = torch.cat([features, t[:, None, None].expand(-1, mask.shape[1], 1)], dim=-1) * node_mask
        if context is not None:
            joined = torch.cat([joined, context], dim=-1)
        x, h = start, torch.relu(self.embed(joined)) * node_mask
        squared, direction = pair_geometry(x)
        e = self.join_nodes(h, self.distances(squared * pair_mask[..., 0]), pair_mask)
        a = torch.relu(self.angles(triplet_angles(x, pair_mask)))
        for layer in self.layers:
            h, e, x = layer(h, e * pair_mask, a, x, direction, node_mask, pair_mask)
            squared, direction = pair_geometry(x)
            a = torch.relu(self.fuse_angles(torch.cat([self.angles(triplet_angles(x, pair_mask)), a], dim=-1)))
            e = torch.relu(self.fuse_distances(torch.cat([self.distances(squared), e], dim=-1)))
            e = self.join_nodes(h, e, pair_mask)
        moved = x - start
        moved = moved - moved.sum(1, keepdim=True) / node_mask.sum(1, keepdim=True) * node_mask
        return torch.cat([moved, (self.head(h) * node_mask)[..., : self.channels]], dim=-1)

    def join_nodes(self, h: Tensor, e: Tensor, pair_mask: Tensor) -> Tensor:
        """Pairs [B, N, N, D] with the nodes at their ends: node j, then node i, then the pair."""
        return self.fuse_nodes(torch.cat([h[:, None] * pair_mask, h[:, :, None] * pair_mask, e], dim=-1))


def pair_geometry(x: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distances [B, N, N] and directions (x_i - x_j) / (|x_i - x_j| + 1) [B, N, N, 3]."""
    difference = x[:, :, None] - x[:, None]
    return difference.square().sum(-1), difference / (difference.norm(dim=-1, keepdim=True) + 1)


def triplet_angles(x: Tensor, pair_mask: Tensor) -> Tensor:
    """[B, N, N, N] angle at i between i -> j and i -> k, radians; 0 where (i, j) is no pair."""
    difference = x[:, :, None] - x[:, None]
    unit = difference / (difference.norm(dim=-1, keepdim=True) + 1e-5)
    return torch.acos((unit[:, :, :, None] * unit[:, :, None]).sum(-1)) * pair_mask


NAMES = (
    # published, ours
    ("embed.", "embedding."),
    ("distances.linear.", "refresh.pair.embed."),
    ("fuse_distances.", "refresh.pair.fuse."),
    ("angles.linear.", "refresh.triplet.embed."),
    ("fuse_angles.", "refresh.triplet.fuse."),
    ("fuse_nodes.", "refresh.nodes."),
    ("head.", "output."),
)
NAMES_OF_PARTS = (
    ("node_feedforward.first.", "feedforward.expand."),
    ("node_feedforward.second.", "feedforward.contract."),
    ("pair_feedforward.first.", "pair_feedforward.expand."),
    ("pair_feedforward.second.", "pair_feedforward.contract."),
    ("lift.out.", "lift.fuse."),
    ("triplet_attention.angle_", "triplet_attention.triplet_"),
    ("triplet_attention.out.", "triplet_attention.output."),
    ("move.decode.", "move.read."),
    ("move.network.0.", "move.expand."),
    ("move.network.2.", "move.hidden."),
    ("move.network.4.", "move.last."),
)


def convert(weights: Mapping[str, Tensor], channels: int = 7) -> dict[str, Tensor]:
    """Weights of `PublishedGFMDiff` under the names of `polydit.domains.chemistry.gfmdiff.dtn.DualTrackTransformer`.

    Args:
        weights: of a network without context.
        channels: C; the head's outputs beyond them, which the published network computes and drops, are left out.
    """
    converted = {}
    for name, value in weights.items():
        if name.endswith(("node_attention.pair_key.bias", "triplet_attention.angle_key.bias")):
            continue  # a softmax takes them out again, and ours leaves them out
        start, *rest = name.split(".", 2)
        if start == "layers":
            index, part = rest
            new = f"blocks.{index}.{replace_start(part, NAMES_OF_PARTS)}"
        else:
            new = replace_start(name, NAMES)
        converted[new] = value[:channels] if name == "head.4.weight" else value
    return converted


def replace_start(name: str, pairs: Sequence[tuple[str, str]]) -> str:
    """`name` with the first of the old beginnings that it has replaced by its new one."""
    for old, new in pairs:
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name
