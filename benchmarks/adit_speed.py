"""Speed of ADiT's training step and sampling loop against the same architecture from stock torch modules.

    python benchmarks/adit_speed.py --qm9 FOLDER --size small --batch 64 [--threads 1] [--repeats 5] \
        [--precision bf16] [--peer-precision fp32] [--activation silu] [--compile]

Both sides see the same real QM9 molecules in the same run, alternating. The peer pads each batch as it comes, as public
code does; ours is bucketed by length. In bf16 training runs under autocast, and our sampling keeps the denoiser's
weights in bf16. Reported: molecules per second (median and range over repeats), ratio, and the share of the time that
the bare matrix products of the valid tokens would need in our precision (the ceiling).

Shape legend: T valid tokens of a batch, D width.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from stock_adit import StockDenoiser, StockEncoder
from stock_adit import sample as stock_sample
from torch import Tensor
from torch.nn.functional import linear

from polydit.data.chemistry.batch import AtomBatch
from polydit.data.chemistry.collate import collate_raw
from polydit.data.chemistry.sources import QM9Source
from polydit.domains.chemistry.adit import AtomAutoencoder, LatentAtomCodec
from polydit.domains.chemistry.adit.sizes import SIZES
from polydit.platform.acceleration import cast_denoiser
from polydit.platform.conditioning import CategoricalAxis, Conditioner
from polydit.platform.denoisers import DiT, SinCosPosition, TokenEmbedding, TokenHead
from polydit.platform.feedforwards import MLP
from polydit.platform.feedforwards.dense import ACTIVATIONS, Activation
from polydit.platform.mixers import Attention
from polydit.platform.processes import ClippedWeighting, LinearFlowSchedule, Process, UniformTime, X0Prediction
from polydit.platform.requests import Request
from polydit.platform.samplers import Euler, UniformGrid
from polydit.platform.samplers.guidance import ClassifierFreeGuidance
from polydit.platform.systems.diffusion import DiffusionSystem

CHANNELS = 8
CONFIGURATIONS = {
    # name: denoiser depth, width, heads; autoencoder depth, width, heads
    "small": ((6, 192, 6), (2, 128, 4)),
    **{name: (shape, (8, 512, 8)) for name, shape in SIZES.items()},
}


def build_ours(name: str, compile_denoiser: bool, activation: Activation) -> DiffusionSystem:
    """The system as the library builds it."""
    (depth, width, heads), (inner_depth, inner_width, inner_heads) = CONFIGURATIONS[name]
    denoiser = DiT(
        partial(
            TokenEmbedding,
            fields={"latent": CHANNELS},
            channels={"self_condition": CHANNELS},
            position=partial(SinCosPosition, base=2048.0, scale=math.pi),
        ),
        partial(TokenHead, fields={"latent": CHANNELS}),
        width=width,
        depth=depth,
        mixer=partial(Attention, heads=heads),
        feedforward=partial(MLP, activation=activation),
    )
    if compile_denoiser:
        denoiser.compile(dynamic=True)
    axes = {"domain": partial(CategoricalAxis, num_classes=2), "space_group": partial(CategoricalAxis, num_classes=230)}
    autoencoder = AtomAutoencoder(inner_width, inner_depth, inner_heads, CHANNELS)
    process = Process(LinearFlowSchedule(), X0Prediction(), ClippedWeighting(), UniformTime(low=0.01, high=0.99))
    system = DiffusionSystem(
        LatentAtomCodec(autoencoder),
        denoiser,
        process,
        Euler(1, UniformGrid(t_max=0.99, include_end=True)),
        Conditioner(width, axes),
        ClassifierFreeGuidance({"domain": 2.0}),
        self_conditioning=0.5,
    )
    system.codec.counts[1, 1] = 1
    return system


def autocast(precision: str) -> torch.autocast:
    """Autocast to bf16, or nothing."""
    return torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")


def train_ours(
    system: DiffusionSystem, optimizer: torch.optim.Optimizer, batches: list[AtomBatch], precision: str
) -> None:
    """One step per batch."""
    generator = torch.Generator().manual_seed(0)
    for batch in batches:
        optimizer.zero_grad()
        with autocast(precision):
            loss = system.losses(batch, generator)["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for p in system.parameters() if p.requires_grad], 10.0)
        optimizer.step()


def train_stock(
    encoder: StockEncoder, model: StockDenoiser, optimizer: torch.optim.Optimizer, batches: list[AtomBatch],
    precision: str,
) -> None:
    """One step per batch, the same operations."""
    rng = np.random.default_rng(0)
    for batch in batches:
        with autocast(precision):
            loss = stock_loss(encoder, model, batch, rng)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()


def stock_loss(encoder: StockEncoder, model: StockDenoiser, batch: AtomBatch, rng: np.random.Generator) -> Tensor:
    """The peer's loss of a batch."""
    size, mask = len(batch.numbers), batch.mask
    with torch.no_grad():
        clean = encoder(batch.numbers, batch.positions, batch.fractional, mask)
    t = torch.rand(size) * 0.98 + 0.01
    x = (1 - t)[:, None, None] * torch.randn_like(clean) + t[:, None, None] * clean
    labels = torch.full((size,), 2), torch.zeros(size, dtype=torch.long)
    previous = torch.zeros_like(x)
    if rng.random() < 0.5:
        with torch.no_grad():
            previous = model(x, previous, t, *labels, mask)
    error = (model(x, previous, t, *labels, mask) - clean) / (1 - t.clamp(max=0.9))[:, None, None]
    return (error.square() * mask[..., None]).sum() / (mask.sum() * CHANNELS)


def matrix_products(tokens: int, depth: int, width: int, precision: str) -> float:
    """Seconds of the bare products of one forward pass of `depth` blocks on `tokens` tokens."""
    shapes = [(width, 3 * width), (width, width), (width, 4 * width), (4 * width, width)]
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    pairs = [(torch.randn(tokens, k, dtype=dtype), torch.randn(n, k, dtype=dtype)) for k, n in shapes]
    for a, b in pairs:
        linear(a, b)
    start = time.perf_counter()
    for _ in range(3):
        for a, b in pairs:
            linear(a, b)
    return (time.perf_counter() - start) / 3 * depth


def compare(name: str, molecules: int, ours: Callable[[], object], stock: Callable[[], object], repeats: int) -> float:
    """Print both speeds and their ratio; returns our median seconds."""
    times: dict[str, list[float]] = {"ours": [], "stock": []}
    for run in (ours, stock):
        run()
    for _ in range(repeats):
        for key, run in (("ours", ours), ("stock", stock)):
            start = time.perf_counter()
            run()
            times[key].append(time.perf_counter() - start)
    rates = {key: [molecules / value for value in values] for key, values in times.items()}
    for key, values in rates.items():
        print(f"{name:9s} {key:6s} {statistics.median(values):8.2f} /s, {min(values):.2f} to {max(values):.2f}")
    ratios = [a / b for a, b in zip(times["stock"], times["ours"], strict=True)]
    print(f"{name:9s} ratio  {statistics.median(ratios):8.2f} ({min(ratios):.2f} to {max(ratios):.2f})", flush=True)
    return statistics.median(times["ours"])


def make_batches(store: QM9Source, batch: int, count: int) -> tuple[list[AtomBatch], list[AtomBatch], Tensor]:
    """The same random molecules as bucketed batches, as batches in random order, and their atom counts."""
    opened = store.load("cache")
    # Buckets of sixteen batches' worth; what is timed is every k-th of them, so that all lengths take part.
    pool = np.random.default_rng(0).choice(len(opened), batch * 16, replace=False)
    by_length = pool[np.argsort(opened.num_atoms[pool], kind="stable")].reshape(16, batch)
    chosen = by_length[:: 16 // count][:count]
    mixed = np.random.default_rng(1).permutation(chosen.reshape(-1)).reshape(count, batch)
    read = [[collate_raw(opened.read(np.sort(row))) for row in rows] for rows in (chosen, mixed)]
    return read[0], read[1], torch.from_numpy(opened.num_atoms[mixed.reshape(-1)])


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--qm9", required=True, help="folder of QM9 shards")
    parser.add_argument("--size", default="small", choices=list(CONFIGURATIONS))
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--batches", type=int, default=4, help="batches per timed run")
    parser.add_argument("--steps", type=int, default=8, help="sampling steps")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"), help="ours")
    parser.add_argument("--peer-precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--activation", default="gelu_tanh", choices=list(ACTIVATIONS), help="ours")
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)

    bucketed, mixed, counts = make_batches(QM9Source(options.qm9), options.batch, options.batches)
    valid = sum(int(batch.mask.sum()) for batch in bucketed)
    for key, batches in (("bucketed", bucketed), ("as they come", mixed)):
        print(f"padding, {key}: {1 - valid / sum(batch.mask.numel() for batch in batches):.1%} of the tokens")
    (depth, width, heads), inner = CONFIGURATIONS[options.size]
    ours = build_ours(options.size, options.compile, options.activation)
    encoder = StockEncoder(inner[1], inner[0], inner[2], CHANNELS).eval()
    stock = StockDenoiser(width, depth, heads, CHANNELS)
    fused = torch.optim.AdamW([p for p in ours.parameters() if p.requires_grad], 1e-4, weight_decay=0.0, fused=True)
    plain = torch.optim.AdamW(stock.parameters(), 1e-4, weight_decay=0.0)
    molecules = options.batch * options.batches
    seconds = compare(
        "training", molecules, lambda: train_ours(ours, fused, bucketed, options.precision),
        lambda: train_stock(encoder, stock, plain, mixed, options.peer_precision), options.repeats,
    )
    # forward, backward, and a self-conditioning pass every other step
    products = 3.5 * matrix_products(valid, depth, width, options.precision)
    products += matrix_products(valid, inner[0], inner[1], options.precision)
    print(f"training  matrix products of valid tokens alone: {products / seconds:.0%} of our time")

    ours.eval()
    stock.eval()
    ours.sampler.steps = options.steps
    ours.sample_batch_size = options.batch
    requests = [Request(i, {"domain": "molecule", "num_atoms": int(n)}) for i, n in enumerate(counts)]

    if options.precision == "bf16":
        cast_denoiser(ours)

    @torch.no_grad()
    def sample_stock() -> None:
        for part in counts.split(options.batch):
            with autocast(options.peer_precision):
                stock_sample(stock, part, options.steps, CHANNELS)

    seconds = compare("sampling", molecules, lambda: ours.generate(requests), sample_stock, options.repeats)
    products = 2 * options.steps * matrix_products(valid, depth, width, options.precision)
    print(f"sampling  matrix products of valid tokens alone: {products / seconds:.0%} of our time")


if __name__ == "__main__":
    main()
