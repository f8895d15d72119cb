"""Chemistry's inputs for the battery.

Shape legend: B structures, N atoms.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.utils.flop_counter import FlopCounterMode

from polydit.data.chemistry.batch import AtomBatch
from polydit.data.chemistry.collate import collate
from polydit.data.chemistry.structure import AtomicStructure
from polydit.domains.chemistry.adit import AtomAutoencoder
from polydit.domains.chemistry.gfmdiff.dtn import DualTrackTransformer
from polydit.platform.context import Context
from polydit.platform.denoisers import TimeEmbedding
from polydit.platform.state import Condition

from .entry import LENGTHS, WIDTH, Case, Entry, Outputs, denoiser_entry, token_case


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


def point_case(padding: int) -> Case:
    """Molecules of five, three and four atoms as points, with an estimate of themselves and a label."""
    sizes = {"position": 3, "element": 5, "number": 1, "valence": 1}
    case = token_case(padding, fields=sizes)
    estimate = torch.cat([0.9 * case.x_t[name] for name in sorted(sizes)], dim=-1)
    condition = Condition({"label": case.cond.vectors["label"]}, {}, {"self_condition": estimate})
    layout = replace(case.layout, masks=dict.fromkeys(sizes, case.layout.masks["position"]))
    return Case(case.x_t, case.t, condition, layout)


def of_points(name: str, parameters: int, **options: Any) -> Entry:
    """Entry of a tiny dual-track transformer; operations are those of one molecule, since weights are folded once."""
    settings: dict[str, Any] = {"width": WIDTH, "depth": 2, "heads": 2, "hidden": 48, "dropout": 0.0}
    build = partial(DualTrackTransformer, **{**settings, **options})

    def count(model: nn.Module) -> tuple[int, int]:
        case = point_case(0)
        one = {key: value[:1] for key, value in case.x_t.items()}
        condition = case.cond.map(lambda value: value[:1])
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(one, case.t[:1], condition, Context())
        return counter.get_total_flops(), model.cost(max(LENGTHS))

    entry = denoiser_entry(name, build, parameters, point_case, max(LENGTHS), start="free", compiler="eager")
    return replace(entry, operations=count)


GFMDIFF = [
    of_points("gfmdiff/released for QM9", 125_046),
    of_points("gfmdiff/released for GEOM", 63_606, lift="gated"),
    of_points("gfmdiff/chunks of triplets", 64_534, lift="gated", angles="gaussian", distances="plain", chunk=2),
    of_points(
        "gfmdiff/small budget", 46_260, lift="gated", angles="harmonic", distances="plain", moves="last", pair_width=16,
        pair_heads=1, estimate=True, time=TimeEmbedding,
    ),
]
