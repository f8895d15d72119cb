"""Chemistry's inputs for the battery.

Shape legend: B structures, N atoms.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from polydit.data.chemistry.batch import AtomBatch
from polydit.data.chemistry.collate import collate
from polydit.data.chemistry.structure import AtomicStructure
from polydit.domains.chemistry.adit import AtomAutoencoder

from .entry import Outputs


def atom_case(padding: int) -> AtomBatch:
    """A molecule of five atoms and a crystal of three; what stands in the padding is large and random."""
    rng = np.random.default_rng(7)
    cell = np.diag([4.0, 5.0, 6.0]) + 0.2 * rng.normal(size=(3, 3))
    batch = collate(
        [
            AtomicStructure(np.array([6, 8, 1, 1, 7]), 2 * rng.normal(size=(5, 3))),
            AtomicStructure(np.array([22, 8, 8]), rng.uniform(size=(3, 3)) @ cell, cell),
        ]
    )
    garbage = torch.Generator().manual_seed(padding)

    def widen(values: Tensor) -> Tensor:
        longer = pad(values, (0, 0) * (values.ndim - 2) + (0, padding))
        if not values.is_floating_point():
            return longer
        noise = 9 * torch.randn(longer.shape, generator=garbage)
        return torch.where(pad(batch.mask, (0, padding))[..., None], longer, noise)

    return replace(
        batch,
        mask=pad(batch.mask, (0, padding)),
        **{name: widen(getattr(batch, name)) for name in ("numbers", "positions", "fractional")},
    )


def run_autoencoder(model: nn.Module, batch: AtomBatch) -> Outputs:
    """Posterior and decoding of its mean, at real atoms."""
    assert isinstance(model, AtomAutoencoder)
    posterior = model.encode(batch)
    prediction = model.decode(posterior.mean, batch.mask)
    per_atom = {
        "mean": posterior.mean,
        "log_variance": posterior.log_variance,
        "types": prediction.types,
        "positions": prediction.positions,
        "fractional": prediction.fractional,
    }
    return {
        "lattice": prediction.lattice,
        **{name: value * batch.mask[..., None].to(value.dtype) for name, value in per_atom.items()},
    }


def unpad_atoms(outputs: Outputs, padding: int) -> Outputs:
    """Outputs of the atoms there are without the added padding."""
    return {
        name: value if name == "lattice" else value[:, : value.shape[1] - padding] for name, value in outputs.items()
    }
