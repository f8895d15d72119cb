"""The padded batch of atoms that a chemistry data module yields, with units.

Shape legend: B structures, N atoms of the largest structure in the batch.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from polydit.data.tensor_batch import TensorBatch


@dataclass
class AtomBatch(TensorBatch):
    """Molecules and crystals, padded with zeros to the largest of the batch.

    Args:
        numbers: [B, N] long, atomic numbers; 0 where padded.
        positions: [B, N, 3] float32, Cartesian, Å.
        fractional: [B, N, 3] float32 in [0, 1); zero for molecules.
        cell: [B, 3, 3] float32 lattice vectors as rows, Å; zero for molecules.
        lengths: [B, 3] float32 cell lengths a, b, c, Å; zero for molecules.
        angles: [B, 3] float32 cell angles alpha, beta, gamma, radians; zero for molecules.
        mask: [B, N] bool, True where an atom is real.
        periodic: [B] bool, True for crystals.
        num_atoms: [B] long.
        space_group: [B] long, international number 1..230; 0 unknown or molecule.
        properties: name -> [B] float32 in the unit of the data set; NaN where unknown.
        index: [B] long, names the record: position in the store, or over all stores of a data module one after another.
    """

    numbers: Tensor
    positions: Tensor
    fractional: Tensor
    cell: Tensor
    lengths: Tensor
    angles: Tensor
    mask: Tensor
    periodic: Tensor
    num_atoms: Tensor
    space_group: Tensor
    properties: dict[str, Tensor] = field(default_factory=dict)
    index: Tensor | None = None
