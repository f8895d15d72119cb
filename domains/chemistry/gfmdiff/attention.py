"""Attention of GFMDiff's two tracks (arXiv 2401.02683, section 4.1), without a projection of every pair or triplet.

Shape legend: B batch, N atoms, D width of the node track, P of the pair track, A of a triplet, H heads, E width of a
head.

The published layers project each pair's features to a key and a value of every query, [B, N, N, D], and each triplet's,
[B, N, N, N, D]. Both are only ever multiplied by a query and summed over keys, so a query may be taken to the features
instead, q · (W e) = (Wᵀ q) · e, and the features summed before their projection, Σ w (V e) = V Σ w e: the same numbers
up to rounding, for H projections per query instead of N.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from polydit.platform.mixers.attention import check_heads

from .features import DEGREES

HIDDEN = -1e6
"""Logit of what must not be attended to; finite, so that a row of padding alone stays a number."""


class NodeAttention(nn.Module):
    """Attention among atoms whose keys and values are those of the other atom plus those of the pair.

    value = mix(v_i + v_j + v(e_ij)), where `mix` is one map for all heads; the way back from heads to width is the
    identity, as released.

    Args:
        width: D.
        pair_width: P.
        heads: H.
        dropout: of attention weights.
    """

    def __init__(self, width: int, pair_width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = check_heads(width, heads)
        self.node_norm = nn.LayerNorm(width)
        self.pair_norm = nn.LayerNorm(pair_width)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        # a bias would add the same to all logits of a row, which the softmax takes out again
        self.pair_key = nn.Linear(pair_width, width, bias=False)
        self.pair_value = nn.Linear(pair_width, width)
        self.mix = nn.Linear(width // heads, width // heads)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor, e: Tensor, pairs: Tensor) -> Tensor:
        """What each atom takes [B, N, D].

        Args:
            h: [B, N, D].
            e: [B, N, N, P].
            pairs: [B, N, N] bool, True between two different real atoms.
        """
        batch, count, width = h.shape
        size = width // self.heads
        h, e = self.node_norm(h), self.pair_norm(e)
        q = self.query(h).view(batch, count, self.heads, size) * size**-0.5
        k, v = (linear(h).view(batch, count, self.heads, size) for linear in (self.key, self.value))
        logits = q.transpose(1, 2) @ k.permute(0, 2, 3, 1)  # [B, H, N, N]
        towards = take_back(q, self.pair_key.weight)  # [B, N, H, P]
        logits = logits + (towards @ e.transpose(-1, -2)).transpose(1, 2)
        weights = torch.where(pairs[:, None], logits, HIDDEN).softmax(-1)
        weights = self.dropout(weights).to(v.dtype)
        total = weights.sum(-1).transpose(1, 2)[..., None]  # [B, N, H, 1]; not 1 under dropout
        seen = (weights @ v.transpose(1, 2)).transpose(1, 2) + v * total
        gathered = weights.transpose(1, 2) @ e  # [B, N, H, P]
        seen = seen + take_to(gathered, self.pair_value.weight)
        seen = seen + self.pair_value.bias.view(self.heads, size) * total
        taken = (functional.linear(seen, self.mix.weight) + self.mix.bias * total).flatten(2)
        # a lone atom, which has nothing to attend to, must not attend to padding
        return taken * pairs.any(-1, keepdim=True).to(taken.dtype)

    def cost(self, tokens: int) -> int:
        """Multiply-adds of products per sample."""
        width, pair_width = self.query.in_features, self.pair_key.in_features
        per_atom = 3 * width**2 + 2 * width * pair_width + width * width // self.heads
        return tokens * per_atom + tokens**2 * (2 * width + 2 * self.heads * pair_width)


class TripletAttention(nn.Module):
    """Attention of each pair ij to the pairs ik that start where it does, told of the angle between them.

    Args:
        pair_width: P.
        triplet_width: A; 0: no angles.
        heads: H, must divide P.
        dropout: of attention weights.
        masked: whether pairs with padding are hidden. The released code means to and does not, for a factor of 1e-9
            where a large number belongs.
        harmonic: whether angles are told by spherical harmonics of the pairs, of A degrees.
    """

    def __init__(
        self,
        pair_width: int,
        triplet_width: int,
        heads: int,
        dropout: float = 0.0,
        masked: bool = True,
        harmonic: bool = False,
    ) -> None:
        super().__init__()
        self.harmonic = harmonic
        self.heads, self.masked = check_heads(pair_width, heads), masked
        self.norm = nn.LayerNorm(pair_width)
        self.query = nn.Linear(pair_width, pair_width)
        self.key = nn.Linear(pair_width, pair_width)
        self.value = nn.Linear(pair_width, pair_width)
        self.triplet_key = nn.Linear(triplet_width, pair_width, bias=False) if triplet_width else None
        self.triplet_value = nn.Linear(triplet_width, pair_width) if triplet_width else None
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(pair_width, pair_width)
        self.gate = nn.Linear(pair_width, pair_width)

    def forward(self, e: Tensor, pairs: Tensor, triplets: Tensor | None = None, around: Tensor | None = None) -> Tensor:
        """What each pair takes [B, M, N, P].

        Args:
            e: [B, M, N, P], the pairs of all or some first atoms.
            pairs: [B, N, N] bool, True between two different real atoms; k is hidden from j where it is False.
            triplets: [B, M, N, N, A] features of i, j, k.
            around: [B, M, N, S] instead: spherical harmonics of the ways ij, whose A degrees are told.
        """
        batch, firsts, count, width = e.shape
        size = width // self.heads
        e = self.norm(e)
        q = self.query(e).view(batch, firsts, count, self.heads, size) * size**-0.5
        k, v = (linear(e).view(batch, firsts, count, self.heads, size) for linear in (self.key, self.value))
        towards = None if self.triplet_key is None else take_back(q, self.triplet_key.weight)  # [B, M, j, H, A]
        if around is not None and towards is not None:
            functions = around[..., None, :].to(q.dtype).expand(*around.shape[:3], self.heads, around.shape[-1])
            q = torch.cat([q, spread(towards) * functions], dim=-1)
            k, v = torch.cat([k, functions], dim=-1), torch.cat([v, functions], dim=-1)
        logits = q.transpose(2, 3) @ k.permute(0, 1, 3, 4, 2)  # [B, M, H, j, k]
        if triplets is not None and towards is not None:
            logits = logits + (towards @ triplets.transpose(-1, -2).to(towards.dtype)).transpose(2, 3)
        if self.masked:
            logits = torch.where(pairs[:, None, None], logits, HIDDEN)
        weights = self.dropout(logits.softmax(-1)).to(v.dtype)
        seen = (weights @ v.transpose(2, 3)).transpose(2, 3)  # [B, M, j, H, E]
        gathered = None if triplets is None else weights.transpose(2, 3) @ triplets.to(v.dtype)  # [B, M, j, H, A]
        if around is not None:
            gathered = gather(seen[..., size:] * functions)
            seen = seen[..., :size]
        if gathered is not None and self.triplet_value is not None:
            seen = seen + take_to(gathered, self.triplet_value.weight)
            seen = seen + self.triplet_value.bias.view(self.heads, size) * self._total(weights)
        return self.output(seen.flatten(3)) * torch.sigmoid(self.gate(e))

    def _total(self, weights: Tensor) -> Tensor | float:
        """Sum of each row of weights, which dropout makes other than 1."""
        if not (self.training and self.dropout.p):
            return 1.0
        return weights.sum(-1).transpose(2, 3)[..., None]

    def cost(self, tokens: int) -> int:
        """Multiply-adds of products per sample."""
        width = self.query.in_features
        triplet = self.triplet_key.in_features if self.triplet_key is not None else 0
        told = sum(DEGREES) if self.harmonic else triplet
        per_pair = 5 * width**2 + 2 * width * triplet
        return tokens**2 * per_pair + tokens**3 * (2 * width + 2 * self.heads * told)


def take_back(q: Tensor, weight: Tensor) -> Tensor:
    """Wᵀ q for each head: [..., H, F] of q [..., H, E] and W [H E, F]."""
    heads, size = q.shape[-2:]
    return per_head(q, weight.view(heads, size, -1))


def take_to(gathered: Tensor, weight: Tensor) -> Tensor:
    """W g for each head: [..., H, E] of g [..., H, F] and W [H E, F]."""
    heads, features = gathered.shape[-2:]
    return per_head(gathered, weight.view(heads, -1, features).transpose(1, 2))


def per_head(x: Tensor, weights: Tensor) -> Tensor:
    """[..., H, G] of x [..., H, F] by one matrix a head, [H, F, G]."""
    heads = x.shape[-2]
    rows = x.reshape(-1, heads, x.shape[-1]).transpose(0, 1)
    return (rows @ weights.to(x.dtype)).transpose(0, 1).reshape(*x.shape[:-1], -1)


def spread(degrees: Tensor) -> Tensor:
    """[..., S] of [..., A]: what is said of a degree, for each of its functions."""
    repeats = torch.tensor(DEGREES, device=degrees.device)
    return degrees.repeat_interleave(repeats, dim=-1, output_size=sum(DEGREES))


def gather(functions: Tensor) -> Tensor:
    """[..., A] of [..., S]: sums over the functions of each degree."""
    return torch.stack([part.sum(-1) for part in functions.split(DEGREES, dim=-1)], dim=-1)
