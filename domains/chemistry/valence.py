"""Valences that distances imply, as tensors: counted by the EDM bond table, or softly so that coordinates can learn.

Shape legend: B molecules, N atoms, C kinds of elements.

A pair closer than the longest single bond of its elements has order 1, closer than the longest double bond too 2, and
so on (Hoogeboom et al. 2022, arXiv 2203.17003); the valence of an atom is the sum over its pairs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from polydit.data.chemistry.bonds import bond_table
from polydit.platform.errors import require


def usual_valences(heaviest: int) -> Tensor:
    """[heaviest + 1] usual valence of every atomic number, RDKit's; NaN where it has none, as of most metals."""
    table = require("rdkit.Chem", "chemistry").GetPeriodicTable()
    found = torch.tensor([0, *(table.GetDefaultValence(number) for number in range(1, heaviest + 1))])
    return torch.where(found > 0, found.float(), torch.nan)


def count_unsaturation(numbers: Tensor, mask: Tensor, valences: Tensor) -> Tensor:
    """[B] degrees of unsaturation: how many rings and further bonds of multiple ones a formula must have.

    1 + Σ (valence - 2) / 2 over the atoms: a sum, which averages over atoms do not show.

    Args:
        numbers: [B, N] long, atomic numbers.
        mask: [B, N] bool, True at real atoms.
        valences: [Z + 1] as of `usual_valences`.

    Returns:
        NaN for molecules with an element that has no usual valence, or with no atom.
    """
    free = torch.where(mask, valences[torch.where(mask, numbers, 0)] - 2, 0.0)
    return torch.where(mask.any(1), 1 + free.sum(1) / 2, torch.nan)


def bond_thresholds(elements: Sequence[int]) -> Tensor:
    """[3, C, C] longest single, double and triple bonds between atomic numbers, Å; -inf where there is none."""
    chosen = list(elements)
    return torch.from_numpy(bond_table().thresholds[:, chosen][:, :, chosen]).float()


def pair_distances(positions: Tensor) -> Tensor:
    """[B, N, N] distances of positions [B, N, 3], with a finite slope where two atoms meet."""
    apart = positions[:, :, None] - positions[:, None]
    return (apart.square().sum(-1) + 1e-8).sqrt()


def count_valences(distances: Tensor, kinds: Tensor, pairs: Tensor, thresholds: Tensor) -> Tensor:
    """[B, N] summed bond orders by the table, whole numbers.

    Args:
        distances: [B, N, N] Å.
        kinds: [B, N] long, places of the atoms' elements in the thresholds.
        pairs: [B, N, N] bool, True between two different real atoms.
        thresholds: [3, C, C] Å.
    """
    within = distances < thresholds[:, kinds[:, :, None], kinds[:, None]]
    orders = within.to(torch.int8).cumprod(0).sum(0)
    return torch.where(pairs, orders, 0).sum(-1).to(distances.dtype)


def soften_orders(distances: Tensor, limits: Tensor, softness: float) -> Tensor:
    """Expected bond orders of pairs, shaped as distances; `limits` [3, ...] are each pair's thresholds, all in Å."""
    return torch.sigmoid((limits - distances) / softness).cumprod(0).sum(0)


def soften_valences(
    distances: Tensor, probabilities: Tensor, pairs: Tensor, thresholds: Tensor, softness: float
) -> Tensor:
    """[B, N] expected summed bond orders, differentiable in distances and in probabilities.

    A threshold is a sigmoid in distance; a higher order holds inside the lower ones. Summing over both atoms' elements
    takes C² numbers a pair, so for many elements give probabilities of 0 and 1 to `count_valences` instead.

    Args:
        distances: [B, N, N] Å.
        probabilities: [B, N, C] of each atom's element.
        pairs: [B, N, N] bool, True between two different real atoms.
        thresholds: [3, C, C] Å.
        softness: Å over which a bond is neither there nor not.
    """
    limits = thresholds[:, None, None, None]
    orders = soften_orders(distances[..., None, None], limits, softness)  # [B, N, N, C, C]
    expected = torch.einsum("bijcd,bic,bjd->bij", orders, probabilities, probabilities)
    return torch.where(pairs, expected, 0.0).sum(-1)


def different_pairs(mask: Tensor) -> Tensor:
    """[B, N, N] bool, True between two different real atoms, of the mask [B, N]."""
    same = torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)
    return mask[:, :, None] & mask[:, None] & ~same
