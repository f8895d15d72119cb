"""How soon a small transformer learns to remove a little noise from molecules, with and without geometric attention.

    python benchmarks/geometric_attention.py --qm9 FOLDER [--noise 0.15] [--minutes 1.2] [--threads 1]

Coordinates of QM9 molecules in their principal axes get Gaussian noise; the network sees them, the elements and the
order of the atoms, and predicts the noise. Reported for each mixer after equal time, on held-out molecules: the mean
squared error in units of the noise; 1 is no better than nothing.

Shape legend: B molecules, N atoms, D width.
"""

from __future__ import annotations

import argparse
import math
import time
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from polydit.data.batching import BucketBatchSampler
from polydit.data.chemistry.batch import AtomBatch
from polydit.data.chemistry.datamodule import ChemistryDataModule
from polydit.data.chemistry.dataset import AtomDataset
from polydit.data.chemistry.sources import QM9Source
from polydit.domains.chemistry.augmentation import CanonicalPose
from polydit.platform.context import Context
from polydit.platform.denoisers import LearntPosition, TransformerStack
from polydit.platform.feedforwards import MLP
from polydit.platform.mixers import Attention, GeometricAttention
from polydit.platform.optimizers import MuonAdamW, group_parameters
from polydit.platform.state import MaskSpec

WIDTH, DEPTH, HEADS = 128, 4, 8
RATES = (4e-3, 2e-3)
WARM_UP = 50
HELD_OUT = 20


class NoisePredictor(nn.Module):
    """Elements and noised places to noise."""

    def __init__(self, mixer: type[Attention] | type[GeometricAttention]) -> None:
        super().__init__()
        self.types = nn.Embedding(100, WIDTH)
        self.places = nn.Linear(3, WIDTH)
        self.index = LearntPosition(WIDTH, 64)
        self.stack = TransformerStack(WIDTH, DEPTH, partial(mixer, heads=HEADS), partial(MLP, activation="silu"))
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, numbers: Tensor, places: Tensor, mask: Tensor) -> Tensor:
        """Noise [B, N, 3] in its own unit, of noised places [B, N, 3] in Å."""
        h = self.types(numbers) + self.places(places)
        context = Context(masks={"x": MaskSpec(keys=mask)}, points={"x": places})
        return self.head(self.stack(h + self.index(h, None), context))


def measure_error(model: NoisePredictor, batch: AtomBatch, noise: float, generator: torch.Generator) -> Tensor:
    """Mean squared error of the predicted noise."""
    places = CanonicalPose().apply(batch, None).positions
    eps = torch.randn(places.shape, generator=generator) * batch.mask[..., None]
    with torch.autocast("cpu", torch.bfloat16):
        predicted = model(batch.numbers, places + noise * eps, batch.mask)
    return (predicted.float() - eps)[batch.mask].square().mean()


def train(
    mixer: type[Attention] | type[GeometricAttention], data: ChemistryDataModule, noise: float, minutes: float
) -> tuple[int, float]:
    """Molecules seen within the time, and the error on held-out ones."""
    torch.manual_seed(0)
    model, generator = NoisePredictor(mixer), torch.Generator().manual_seed(0)
    optimizer = MuonAdamW(group_parameters(model), RATES[1], RATES[0])
    start, step, seen = time.perf_counter(), 0, 0
    loader = data.train_dataloader()
    while (share := (time.perf_counter() - start) / (60 * minutes)) < 1:
        for batch in loader:
            share = (time.perf_counter() - start) / (60 * minutes)
            if share >= 1:
                break
            for group, rate in zip(optimizer.param_groups, RATES, strict=True):
                group["lr"] = rate * min(1.0, step / WARM_UP) * 0.5 * (1 + math.cos(math.pi * share))
            optimizer.zero_grad()
            measure_error(model, batch, noise, generator).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            step, seen = step + 1, seen + len(batch.num_atoms)
    generator.manual_seed(1)
    with torch.no_grad():
        errors = [
            measure_error(model, batch, noise, generator)
            for _, batch in zip(range(HELD_OUT), shuffled_validation(data), strict=False)
        ]
    return seen, float(torch.stack(errors).mean())


def shuffled_validation(data: ChemistryDataModule) -> DataLoader[Any]:
    """Held-out batches of all sizes, not the smallest molecules first."""
    dataset = AtomDataset(data.stores, data.places("val"), [])
    sampler = BucketBatchSampler(dataset.lengths, max_tokens=data.max_tokens)
    return DataLoader(dataset, sampler=sampler, batch_size=None)


def main() -> None:
    """Train both, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--qm9", required=True, help="folder of QM9 shards")
    parser.add_argument("--noise", type=float, default=0.15, help="standard deviation, Å")
    parser.add_argument("--minutes", type=float, default=1.2, help="of training, each")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    data = ChemistryDataModule([QM9Source(options.qm9)], max_tokens=1024, properties=[])
    for mixer in (Attention, GeometricAttention):
        seen, error = train(mixer, data, options.noise, options.minutes)
        print(f"{mixer.__name__:20s} {seen:7d} molecules, held-out error {error:.3f}", flush=True)


if __name__ == "__main__":
    main()
