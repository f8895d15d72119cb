"""What ADiT's decoder says of every atom and cell, in the network's units, and as structures.

Shape legend: B structures, N atoms, Z element types.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from polydit.data.chemistry.batch import AtomBatch
from polydit.data.chemistry.structure import AtomicStructure

from ..augmentation import cells_from_parameters
from .fractional import FractionalCode

NANOMETRES = 0.1
"""Ångström to nanometre, the unit of positions inside the network."""

LENGTH_LIMITS = (0.5, 200.0)
ANGLE_LIMITS = (math.radians(10.0), math.radians(170.0))
"""Decoded cells are held to these (Å, radians), so that every sample is a cell that can be written and judged."""


@dataclass(frozen=True)
class AtomPrediction:
    """Decoder outputs.

    Args:
        types: [B, N, Z] logits; index 0 is "unknown".
        positions: [B, N, 3] nanometres.
        fractional: [B, N, channels] in the terms of `code`.
        lattice: [B, 6] lengths / n^(1/3) in Å, angles in radians.
        code: turns `fractional` into coordinates.
        places: [B, N, 3] Å, coordinates that the latent holds itself, with cells in their standard setting; None: none.
            Crystals then take these, whose distances inside a cell are exact, and leave the fractional ones aside.
    """

    types: Tensor
    positions: Tensor
    fractional: Tensor
    lattice: Tensor
    code: FractionalCode
    places: Tensor | None = None

    def structures(self, mask: Tensor, periodic: Tensor, numbers: Tensor | None = None) -> list[AtomicStructure]:
        """Molecules from Cartesian, crystals from fractional coordinates and lattice.

        Args:
            mask: [B, N] bool, real atoms.
            periodic: [B] bool, crystals.
            numbers: [B, N] long atomic numbers to use instead of the predicted ones where they are not 0.
        """
        # "Unknown" is a state of the encoder's input, never an atom of a sample.
        types = self.types[..., 1:].argmax(dim=-1) + 1
        if numbers is not None:
            types = torch.where(numbers > 0, numbers, types)
        count = mask.sum(dim=1)
        lengths = (self.lattice[:, :3].double() * count[:, None].double().pow(1 / 3)).clamp(*LENGTH_LIMITS)
        angles = self.lattice[:, 3:].double().clamp(*ANGLE_LIMITS)
        cells = cells_from_parameters(lengths, angles)
        crystals = self.code.decode(self.fractional.double()) @ cells if self.places is None else self.places.double()
        cartesian = torch.where(periodic[:, None, None], crystals, self.positions.double() / NANOMETRES)
        return _cut(types, cartesian, cells, mask, periodic)


def scaled_lattice(batch: AtomBatch) -> Tensor:
    """[B, 6]: lengths divided by n^(1/3) in Å, and angles in radians, which makes cells of all sizes commensurate."""
    scale = batch.num_atoms.to(batch.lengths.dtype).clamp(min=1).pow(1 / 3)[:, None]
    return torch.cat([batch.lengths / scale, batch.angles], dim=-1)


def structures_of_batch(batch: AtomBatch) -> list[AtomicStructure]:
    """The structures of a batch, without padding."""
    return _cut(batch.numbers, batch.positions.double(), batch.cell.double(), batch.mask, batch.periodic)


def _cut(numbers: Tensor, positions: Tensor, cells: Tensor, mask: Tensor, periodic: Tensor) -> list[AtomicStructure]:
    arrays = [tensor.detach().cpu().numpy() for tensor in (numbers, positions, cells, mask, periodic)]
    return [
        AtomicStructure(n[m].astype(np.int64), p[m].astype(np.float64), c.astype(np.float64) if crystal else None)
        for n, p, c, m, crystal in zip(*arrays, strict=True)
    ]
