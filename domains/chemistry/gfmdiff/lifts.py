"""From the node track to the pair track, and from both to coordinates (arXiv 2401.02683, section 4.1).

Shape legend: B batch, N atoms, D width of the node track, P of the pair track.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional


class PairLift(nn.Module):
    """What a pair learns of its two atoms; both first gate themselves, x · linear(x), after a norm.

    Args:
        width: D.
        pair_width: P.
    """

    def __init__(self, width: int, pair_width: int) -> None:
        super().__init__()
        self.width, self.pair_width = width, pair_width
        self.norm = nn.LayerNorm(width)
        self.left = nn.Linear(width, width)
        self.right = nn.Linear(width, width)

    def gate(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Gated features [B, N, D] of the pair's two atoms."""
        h = self.norm(h)
        return h * self.left(h), h * self.right(h)

    @abstractmethod
    def forward(self, h: Tensor, pairs: Tensor) -> Tensor:
        """[B, N, N, P] of nodes [B, N, D]; `pairs` [B, N, N] bool is True between two different real atoms."""

    @abstractmethod
    def cost(self, tokens: int) -> int:
        """Multiply-adds of products per sample."""


class OuterProductLift(PairLift):
    """All products of a feature of the one atom with one of the other, D², in a linear map to P; as released for QM9.

    The sum over features of the first atom is taken once per atom, not per pair, so that no pair ever holds D² numbers:
    N D² P + N² D P multiply-adds instead of N² D² P, and D times less memory.
    """

    def __init__(self, width: int, pair_width: int) -> None:
        super().__init__(width, pair_width)
        self.fuse = nn.Linear(width * width, pair_width)

    def forward(self, h: Tensor, pairs: Tensor) -> Tensor:
        """Lifted features, of pairs with padding too."""
        left, right = self.gate(h)
        batch, count, width = h.shape
        weight = self.fuse.weight.view(self.pair_width, width, width)  # [P, first, second]
        first = left.reshape(-1, width) @ weight.permute(1, 0, 2).reshape(width, -1)  # [B N, P D]
        lifted = first.view(batch, count * self.pair_width, width) @ right.transpose(1, 2)
        lifted = lifted.view(batch, count, self.pair_width, count).transpose(2, 3)
        return lifted + self.fuse.bias

    def cost(self, tokens: int) -> int:
        """Two gates, then the sums over first and second features."""
        gates = 2 * tokens * self.width**2
        return gates + tokens * self.width**2 * self.pair_width + tokens**2 * self.width * self.pair_width


class GatedLift(PairLift):
    """Both atoms' gated features side by side in a linear map; as released for GEOM.

    A linear map of two things side by side is a sum of one of each, and is taken per atom.
    """

    def __init__(self, width: int, pair_width: int) -> None:
        super().__init__(width, pair_width)
        self.fuse = nn.Linear(2 * width, pair_width)

    def forward(self, h: Tensor, pairs: Tensor) -> Tensor:
        """Lifted features; of pairs with padding, and of an atom with itself, the bias alone."""
        left, right = self.gate(h)
        of_second, of_first = self.fuse.weight.split(self.width, dim=1)
        both = functional.linear(left, of_second)[:, None] + functional.linear(right, of_first)[:, :, None]
        return torch.where(pairs[..., None], both, 0.0) + self.fuse.bias

    def cost(self, tokens: int) -> int:
        """Two gates and two maps per atom."""
        return 2 * tokens * self.width * (self.width + self.pair_width)


class CoordinateUpdate(nn.Module):
    """Moves atoms along their directions to all others: x_i += Σ_j direction_ij · reach · tanh(mlp(h_i, h_j, e_ij)).

    Three numbers are read from the pair; the last layer starts near zero. Directions alone carry vectors, so the move
    turns with the molecule.

    Args:
        width: D.
        pair_width: P.
        reach: largest share of a direction.
    """

    def __init__(self, width: int, pair_width: int, reach: float = 20.0) -> None:
        super().__init__()
        self.reach, self.width = reach, width
        self.read = nn.Linear(pair_width, 3)
        self.expand = nn.Linear(2 * width + 3, pair_width)
        self.hidden = nn.Linear(pair_width, pair_width)
        self.last = nn.Linear(pair_width, 1, bias=False)
        nn.init.xavier_uniform_(self.last.weight, gain=0.001)

    def forward(self, points: Tensor, h: Tensor, e: Tensor, directions: Tensor, pairs: Tensor) -> Tensor:
        """Moved points [B, N, 3], of points [B, N, 3], nodes [B, N, D], pairs [B, N, N, P] and directions."""
        of_first, of_second, of_pair = self.expand.weight.split([self.width, self.width, 3], dim=1)
        # a linear map of what stands side by side is a sum of maps, and those of the atoms are taken once per atom
        mixed = functional.linear(self.read(e), of_pair, self.expand.bias)
        mixed = mixed + functional.linear(h, of_first)[:, :, None] + functional.linear(h, of_second)[:, None]
        share = torch.tanh(self.last(functional.silu(self.hidden(functional.silu(mixed))))) * self.reach
        share = torch.where(pairs[..., None], share, 0.0).to(directions.dtype)
        return points + (directions * share).sum(2).to(points.dtype)

    def cost(self, tokens: int) -> int:
        """Multiply-adds of products per sample."""
        pair_width = self.hidden.in_features
        return 2 * tokens * self.width * pair_width + tokens**2 * (6 * pair_width + pair_width**2 + pair_width)
