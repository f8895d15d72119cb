"""The padded batch of atoms that a chemistry data module yields, with units.

Shape legend: B structures, N atoms of the largest structure in the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor


@dataclass
class AtomBatch:
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

    def to(self, device: torch.device | str, non_blocking: bool = False) -> AtomBatch:
        """Copy with every tensor on `device`."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> AtomBatch:
        """Copy in page-locked memory; a data loader with ``pin_memory=True`` calls it."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, function: Callable[[Tensor], Tensor]) -> AtomBatch:
        tensors = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name != "properties"}
        mapped: dict[str, Any] = {name: None if value is None else function(value) for name, value in tensors.items()}
        return AtomBatch(**mapped, properties={name: function(tensor) for name, tensor in self.properties.items()})
