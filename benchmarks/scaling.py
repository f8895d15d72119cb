"""Training throughput and peak memory against number of atoms and model, and what share of a batch is padding.

    python benchmarks/scaling.py [--models ADiT-S ...] [--atoms 8 16 ...] [--tokens 1024] [--seconds 10] [--threads 1]
    python benchmarks/scaling.py --waste --data ../shared/data

The first prints a row for each model and number of atoms: structures per second of whole training steps (forward,
backward, AdamW) on batches of `--tokens` atoms, and the peak memory of such a step. Every row is a process of its own,
so that its peak is its own, and may take no more than `--memory`; beyond the first that does not fit, larger ones are
left out. On a CPU the rate per second of processor time stands beside it, which other work on the machine does not
change. Structures are random, all of the same size. The second prints the share of padded tokens in batches of real QM9
molecules and Materials Project crystals, bucketed by length and as they come.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from polydit.data.batching import BucketBatchSampler
from polydit.data.chemistry.batch import AtomBatch
from polydit.data.chemistry.collate import collate
from polydit.data.chemistry.structure import AtomicStructure
from polydit.domains.chemistry.adit import AtomAutoencoder, LatentAtomCodec
from polydit.domains.chemistry.adit.sizes import published_conditioner, published_denoiser
from polydit.domains.chemistry.gfmdiff.codec import AtomPointCodec
from polydit.domains.chemistry.gfmdiff.dtn import DualTrackTransformer
from polydit.platform.module import adamw, count_parameters
from polydit.platform.optimizers import group_parameters
from polydit.platform.processes import CentredGaussianPrior, EpsPrediction, LinearFlowSchedule, Process
from polydit.platform.samplers import Euler
from polydit.platform.systems.diffusion import DiffusionSystem

GIGABYTE = 1e9
ELEMENTS = (1, 6, 7, 8)
VOLUME = 8.0
"""Å^3 an atom takes, about as in an organic molecule."""


def build_adit(size: str) -> DiffusionSystem:
    """ADiT's second stage in a published size over the published autoencoder, untrained."""
    codec = LatentAtomCodec(AtomAutoencoder(), normalise=False)
    return DiffusionSystem(
        codec, published_denoiser(size), Process.flow_matching(), Euler(1), published_conditioner(size),
        self_conditioning=0.5,
    )


def build_gfmdiff(denoiser: Callable[[], DualTrackTransformer]) -> DiffusionSystem:
    """GFMDiff; no schedule costs more than another."""
    process, prior = partial(Process, LinearFlowSchedule(), EpsPrediction()), CentredGaussianPrior()
    return DiffusionSystem(
        AtomPointCodec(), denoiser(), process(), Euler(1), processes={"position": process(prior=prior)}
    )


MODELS: dict[str, Callable[[], DiffusionSystem]] = {
    "ADiT-S": partial(build_adit, "S"),
    "ADiT-B": partial(build_adit, "B"),
    "GFMDiff-outer": partial(build_gfmdiff, partial(DualTrackTransformer, lift="outer")),
    "GFMDiff-gated": partial(build_gfmdiff, partial(DualTrackTransformer, lift="gated")),
    "GFMDiff-chunked": partial(
        build_gfmdiff, partial(DualTrackTransformer, lift="gated", angles="gaussian", chunk=8)
    ),
}


def make_batch(structures: int, atoms: int) -> AtomBatch:
    """Random molecules."""
    rng = np.random.default_rng(0)
    side = (atoms * VOLUME) ** (1 / 3)
    return collate([
        AtomicStructure(rng.choice(ELEMENTS, atoms), rng.uniform(0, side, (atoms, 3))) for _ in range(structures)
    ])


def peak_memory(device: str) -> float:
    """Largest memory so far, bytes: of the device, or resident of this process."""
    if device != "cpu":
        return float(torch.cuda.max_memory_allocated())
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


def measure(model: str, atoms: int, tokens: int, seconds: float, device: str) -> dict[str, float]:
    """One row, in this process: structures per second and per processor second, peak bytes, batch, parameters."""
    torch.manual_seed(0)
    system = MODELS[model]().to(device).train()
    optimizer = adamw(group_parameters(system))
    structures = max(1, tokens // atoms)
    batch = make_batch(structures, atoms).to(device)
    times: list[float] = []
    busy: list[float] = []
    start, step = time.perf_counter(), 0
    while step < 3 or time.perf_counter() - start < seconds:
        begun, begun_busy = time.perf_counter(), time.process_time()
        generator = torch.Generator(device).manual_seed(step)
        system.losses(batch, generator)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        if device != "cpu":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begun)
        busy.append(time.process_time() - begun_busy)
        step += 1
    # The mean, because every second step of ADiT, by chance, has a pass more; the first one sets up.
    timed = structures * (len(times) - 1)
    return {
        "structures": structures, "rate": timed / sum(times[1:]), "busy_rate": timed / sum(busy[1:]),
        "peak": peak_memory(device),
        "parameters": count_parameters(system), "steps": len(times) - 1,
    }


def measure_apart(options: argparse.Namespace, model: str, atoms: int) -> dict[str, float] | None:
    """`measure` in a fresh process; None if that died, as for lack of memory."""
    command = [
        sys.executable, __file__, "--row", model, "--atoms", str(atoms), "--tokens", str(options.tokens), "--seconds",
        str(options.seconds), "--threads", str(options.threads), "--device", options.device, "--memory",
        str(options.memory),
    ]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        lines = ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"]
        print(f"{model:16} {atoms:5}  ends at {options.memory:g} GB: {lines[-1][:150]}", flush=True)
        return None
    row: dict[str, float] = json.loads(ended.stdout.splitlines()[-1])
    return row


def print_scaling(options: argparse.Namespace) -> None:
    print(f"{'model':16} {'atoms':>5} {'batch':>5} {'structures/s':>13} {'/busy s':>9} {'peak GB':>8}  parameters")
    for model in options.models:
        for atoms in options.atoms:
            row = measure_apart(options, model, atoms)
            if row is None:
                break
            print(
                f"{model:16} {atoms:5} {row['structures']:5.0f} {row['rate']:13.2f} {row['busy_rate']:9.2f} "
                f"{row['peak'] / GIGABYTE:8.2f}  {row['parameters'] / 1e6:.1f} M",
                flush=True,
            )


def read_lengths(folder: Path) -> np.ndarray:
    """Numbers of atoms of all structures in a folder of shards."""
    return np.concatenate([np.load(path)["num_atoms"] for path in sorted(folder.glob("*_[0-9][0-9].npz"))])


def print_waste(folder: Path) -> None:
    """Padding of the batches of one epoch, averaged over three."""
    qm9, crystals = read_lengths(folder / "molecules/qm9"), read_lengths(folder / "crystals/mp_le20")
    print(f"{'data':18} {'batches':26} padded tokens")
    for name, lengths in (("QM9", qm9), ("Materials Project", crystals), ("both", np.concatenate([qm9, crystals]))):
        for label, sampler in (
            ("64, bucketed", BucketBatchSampler(lengths, 64)),
            ("256, bucketed", BucketBatchSampler(lengths, 256)),
            ("2048 atoms, bucketed", BucketBatchSampler(lengths, max_tokens=2048)),
            ("256, bucketed, rank 1 of 2", BucketBatchSampler(lengths, 256, num_replicas=2, rank=1)),
            ("256, as they come", BucketBatchSampler(lengths, 256, bucket=False)),
        ):
            shares = []
            for epoch in range(3):
                sampler.set_epoch(epoch)
                shares.append(sampler.padding_fraction())
            print(f"{name:18} {label:26} {np.mean(shares):.1%}", flush=True)


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--atoms", nargs="+", type=int, default=[8, 16, 32, 64, 128, 256])
    parser.add_argument("--tokens", type=int, default=1024, help="atoms in a batch, at least one structure")
    parser.add_argument("--seconds", type=float, default=10.0, help="shortest time of a row; at least three steps")
    parser.add_argument("--memory", type=float, default=8.0, help="GB that a step may take")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--waste", action="store_true", help="measure padding instead")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="for --waste: the real data sets")
    parser.add_argument("--row", choices=list(MODELS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.waste:
        print_waste(options.data)
    elif options.row:
        if options.device == "cpu":
            limit = int(options.memory * GIGABYTE)
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        else:
            torch.cuda.set_per_process_memory_fraction(
                min(1.0, options.memory * GIGABYTE / torch.cuda.get_device_properties(0).total_memory)
            )
        row = measure(options.row, options.atoms[0], options.tokens, options.seconds, options.device)
        print(json.dumps(row))
    else:
        print_scaling(options)


if __name__ == "__main__":
    main()
