"""ADiT's reconstruction loss: every head counts only where its quantity exists (arXiv 2503.03965, appendix).

Shape legend: B structures, N atoms.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from polydit.data.chemistry.batch import AtomBatch
from polydit.data.chemistry.bonds import NUM_ELEMENTS
from polydit.platform.autoencoders import DiagonalGaussian

from ..valence import bond_thresholds, different_pairs, pair_distances, soften_orders
from .prediction import NANOMETRES, AtomPrediction, scaled_lattice


@dataclass(frozen=True, kw_only=True)
class AtomLosses:
    """Weights and conventions of the reconstruction loss; the defaults are the published weights.

    Args:
        types: weight of the element cross-entropy.
        lengths: weight of the mean squared error of lengths / n^(1/3), Å², crystals only.
        angles: weight of the mean squared error of angles, rad², crystals only.
        fractional: weight of the mean squared error of fractional coordinates (see `FractionalCode`), crystals only.
        positions: weight of the mean squared error of centred positions, nm², molecules only.
        kl: weight of the divergence, summed over channels and averaged over atoms.
        valence: weight of the squared difference between the valences that decoded positions imply and the true ones,
            molecules only: GFMDiff's geometric loss, for a decoder. 0, as published: it is not computed.
        softness: Å over which a bond of decoded positions is neither there nor not.
    """

    types: float = 1.0
    lengths: float = 1.0
    angles: float = 10.0
    fractional: float = 10.0
    positions: float = 10.0
    kl: float = 1e-5
    valence: float = 0.0
    softness: float = 0.05

    def __call__(self, prediction: AtomPrediction, posterior: DiagonalGaussian, target: AtomBatch) -> dict[str, Tensor]:
        """Named losses and their weighted sum under ``"loss"``; `target` is in the pose that was encoded."""
        atoms, crystals = target.mask, target.periodic
        molecule_atoms = atoms & ~crystals[:, None]
        crystal_atoms = atoms & crystals[:, None]
        lattice = (prediction.lattice - scaled_lattice(target)).square()
        entropy = cross_entropy(prediction.types.flatten(0, 1), target.numbers.flatten(), reduction="none")
        apart = centred(prediction.positions, atoms) - centred(target.positions * NANOMETRES, atoms)
        losses = {
            "types": _mean(entropy.view_as(target.numbers), atoms),
            "lengths": _mean(lattice[:, :3].mean(dim=-1), crystals),
            "angles": _mean(lattice[:, 3:].mean(dim=-1), crystals),
            "fractional": _mean(prediction.code.error(prediction.fractional, target.fractional), crystal_atoms),
            "positions": _mean(apart.square().mean(dim=-1), molecule_atoms),
            "kl": _mean(posterior.kl(), atoms),
        }
        if self.valence:
            losses["valence"] = _mean(self._valence_error(prediction, target), molecule_atoms)
        total = torch.stack([getattr(self, name) * value for name, value in losses.items()]).sum()
        return {**losses, "loss": total}


    def _valence_error(self, prediction: AtomPrediction, target: AtomBatch) -> Tensor:
        """[B, N] squared differences of valences, of decoded positions by true elements.

        Both are soft: against whole numbers, true positions would not be the best, since no threshold is ever passed
        for sure.
        """
        thresholds = bond_thresholds(range(NUM_ELEMENTS)).to(target.positions.device)
        numbers, pairs = target.numbers, different_pairs(target.mask)
        limits = thresholds[:, numbers[:, :, None], numbers[:, None]]

        def valences(positions: Tensor) -> Tensor:
            orders = soften_orders(pair_distances(positions), limits, self.softness)
            return torch.where(pairs, orders, 0.0).sum(-1)

        return (valences(prediction.positions.float() / NANOMETRES) - valences(target.positions)).square()


def centred(positions: Tensor, mask: Tensor) -> Tensor:
    """Positions [B, N, 3] less their mean over real atoms."""
    weight = mask[..., None].to(positions.dtype)
    return positions - (positions * weight).sum(dim=1, keepdim=True) / weight.sum(dim=1, keepdim=True).clamp(min=1)


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    # where() rather than a product: an undefined quantity must not reach the gradient even if it is not finite.
    return torch.where(mask, values, torch.zeros_like(values)).sum() / mask.sum().clamp(min=1)
