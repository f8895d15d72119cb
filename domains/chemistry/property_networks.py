"""Networks that read a scalar property off a molecule.

Shape legend: B molecules, N atoms of the largest, a atoms of all molecules together, E directed pairs of atoms.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from polydit.data.chemistry.batch import AtomBatch
from polydit.platform.errors import DataError, require


class PropertyNetwork(nn.Module, ABC):
    """Maps molecules to one number each, in units in which the training split has mean 0 and deviation 1."""

    @abstractmethod
    def forward(self, batch: AtomBatch) -> Tensor:
        """[B], the same however a molecule is turned, shifted, mirrored, padded or its atoms are ordered."""


class SchNetNetwork(PropertyNetwork):
    """SchNet (Schütt et al. 2017, arXiv 1706.08566) of torch-geometric: continuous filters of distances.

    Args:
        width: channels of an atom, and of the filters.
        interactions: layers; each passes on what atoms within the cutoff know.
        gaussians: functions that a distance is expanded in.
        cutoff: Å, beyond which two atoms do not see each other.
        readout: ``"mean"`` for properties that do not grow with the molecule, such as a gap; ``"add"`` for those that
            do, such as an energy.
    """

    def __init__(
        self, width: int = 128, interactions: int = 6, gaussians: int = 50, cutoff: float = 10.0, readout: str = "mean"
    ) -> None:
        super().__init__()
        models = require("torch_geometric.nn.models", "chemistry")
        self.cutoff = cutoff
        self.schnet = models.SchNet(
            width, width, interactions, gaussians, cutoff, interaction_graph=self._neighbours, readout=readout
        )

    def forward(self, batch: AtomBatch) -> Tensor:
        """[B] property of every molecule.

        Raises:
            DataError: if the batch holds a crystal, whose neighbours lie in other cells too.
        """
        if bool(batch.periodic.any()):
            raise DataError(
                f"{int(batch.periodic.sum())} of {len(batch.periodic)} structures are crystals, but this SchNet sees "
                "no other cells: predict properties of molecules"
            )
        owners = torch.arange(len(batch.mask), device=batch.mask.device)[:, None].expand_as(batch.mask)[batch.mask]
        prediction: Tensor = self.schnet(batch.numbers[batch.mask], batch.positions[batch.mask], owners)
        return prediction[:, 0]

    def _neighbours(self, positions: Tensor, owners: Tensor) -> tuple[Tensor, Tensor]:
        """Ordered pairs [2, E] of different atoms of one molecule within the cutoff, and their distances [E], Å.

        torch-geometric's own search needs a compiled extension; molecules are small enough to look at every pair.
        """
        sizes = torch.bincount(owners)
        first = torch.repeat_interleave(torch.arange(len(owners), device=owners.device), sizes[owners])
        starts = torch.cumsum(sizes, 0) - sizes
        begins = torch.repeat_interleave(torch.cumsum(sizes[owners], 0) - sizes[owners], sizes[owners])
        second = torch.arange(len(first), device=owners.device) - begins + starts[owners[first]]
        distance = (positions[first] - positions[second]).norm(dim=-1)
        near = (first != second) & (distance <= self.cutoff)
        return torch.stack([second[near], first[near]]), distance[near]
