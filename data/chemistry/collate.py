"""Structures to the padded batch that models read, without a Python loop over atoms.

Shape legend: B structures, N atoms of the largest structure in the batch, a atoms of all structures together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .batch import AtomBatch
from .lattice import cell_parameters
from .store import RawBatch
from .structure import AtomicStructure


def collate(
    structures: Sequence[AtomicStructure],
    properties: Sequence[str] = (),
    space_group: Sequence[int] | None = None,
) -> AtomBatch:
    """Padded batch of structure objects; `index` counts them from 0.

    Args:
        structures: at least one, molecules and crystals in any mix.
        properties: labels to keep, NaN where a structure has none.
        space_group: international numbers, 0 unknown; None: all unknown.
    """
    if not structures:
        raise ValueError("cannot collate 0 structures: give at least one")
    missing = np.full((3, 3), np.nan)
    return collate_raw(
        RawBatch(
            np.concatenate([structure.numbers for structure in structures]),
            np.concatenate([structure.positions for structure in structures]),
            np.array([len(structure.numbers) for structure in structures], dtype=np.int64),
            np.stack([missing if structure.cell is None else structure.cell for structure in structures]),
            np.zeros(len(structures), dtype=np.int64) if space_group is None else np.asarray(space_group),
            {name: np.array([s.labels.get(name, np.nan) for s in structures]) for name in properties},
            np.arange(len(structures)),
        )
    )


def collate_raw(raw: RawBatch) -> AtomBatch:
    """Padded batch of flat arrays, as `polydit.data.chemistry.store.StructureStore.read` gives them."""
    size, width = len(raw.counts), int(raw.counts.max())
    mask = np.arange(width) < raw.counts[:, None]
    periodic = ~np.isnan(raw.cells[:, 0, 0])
    cells = np.where(periodic[:, None, None], raw.cells, 0.0)
    positions = np.zeros((size, width, 3))
    positions[mask] = raw.positions
    numbers = np.zeros((size, width), dtype=np.int64)
    numbers[mask] = raw.numbers
    lengths, angles = cell_parameters(cells)
    return AtomBatch(
        numbers=torch.from_numpy(numbers),
        positions=_to_float32(positions),
        fractional=_to_float32(_fractional(positions, cells, periodic, mask)),
        cell=_to_float32(cells),
        lengths=_to_float32(lengths),
        angles=_to_float32(angles),
        mask=torch.from_numpy(mask),
        periodic=torch.from_numpy(periodic),
        num_atoms=torch.from_numpy(raw.counts.astype(np.int64)),
        space_group=torch.from_numpy(raw.space_group.astype(np.int64)),
        properties={name: _to_float32(values) for name, values in raw.labels.items()},
        index=torch.from_numpy(raw.index.astype(np.int64)),
    )


def _fractional(
    positions: NDArray[np.float64], cells: NDArray[np.float64], periodic: NDArray[np.bool_], mask: NDArray[np.bool_]
) -> NDArray[np.float64]:
    fractional = np.zeros_like(positions)
    if periodic.any():
        # Rounding first keeps atoms that stand on a cell face at 0, not at 1 - 1e-16; float32 would make that 1.
        inside = np.round(positions[periodic] @ np.linalg.inv(cells[periodic]), 7) % 1.0
        fractional[periodic] = inside * mask[periodic, :, None]
    return fractional


def _to_float32(values: NDArray[Any]) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))
