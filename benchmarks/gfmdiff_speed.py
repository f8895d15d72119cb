"""A training step of GFMDiff beside its published network, in one run, on molecules of QM9's sizes.

    python benchmarks/gfmdiff_speed.py --qm9 FOLDER [--lift outer|gated] [--batch 8] [--threads 1] [--repeats 3]

Both compute the same numbers (tests/chemistry/test_published_gfmdiff.py). A step is a forward and a backward pass of
the squared error of all outputs; the peer is padded and in 32 bits, as published. Times are of the process, so that
what else the machine does counts little, and the steps of all contestants take turns.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from benchmarks.published.gfmdiff import PublishedGFMDiff, convert
from torch import Tensor

from polydit.domains.chemistry.gfmdiff.dtn import DualTrackTransformer
from polydit.platform.context import Context
from polydit.platform.state import Condition, MaskSpec

LIFTS = {"outer": "outer", "gated": "concatenate"}


def draw_batch(sizes: np.ndarray, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """State [B, N, 10], times [B] and mask [B, N] of molecules of sizes drawn from `sizes`."""
    chosen = torch.from_numpy(np.random.default_rng(0).choice(sizes, count))
    mask = torch.arange(int(chosen.max())) < chosen[:, None]
    generator = torch.Generator().manual_seed(0)
    state = torch.randn(*mask.shape, 10, generator=generator) * mask[..., None]
    return state, torch.rand(count, generator=generator), mask


def main() -> None:
    """Print milliseconds a molecule of every contestant, and ratios to the peer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--qm9", required=True, help="folder of QM9's shards")
    parser.add_argument("--lift", choices=list(LIFTS), default="outer")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    sizes = np.concatenate([np.load(path)["num_atoms"] for path in sorted(Path(options.qm9).glob("qm9_*.npz"))])
    state, t, mask = draw_batch(sizes, options.batch)

    torch.manual_seed(0)
    peer = PublishedGFMDiff(lift=LIFTS[options.lift], mask_triplets=True, dropout=0.0)
    ours = DualTrackTransformer(lift=options.lift, dropout=0.0)
    ours.load_state_dict(convert(peer.state_dict()))
    # what each gives by itself beside its published twin
    small = DualTrackTransformer(lift="gated", angles="harmonic", distances="plain", moves="last", dropout=0.0)
    position, element, number, valence = state.split([3, 5, 1, 1], dim=-1)
    fields = {"position": position, "element": element, "number": number, "valence": valence}

    def answer(model: DualTrackTransformer) -> Tensor:
        found = model(fields, t, Condition(), Context(masks={"node": MaskSpec(keys=mask)}))
        return torch.cat([found[name] for name in fields], dim=-1)

    def step(forward: Callable[[], Tensor], reduced: bool) -> float:
        start = time.process_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=reduced):
            loss = forward().float().square().mean()
        loss.backward()
        return time.process_time() - start

    with torch.no_grad():
        apart = float((answer(ours) - peer(state, t, mask)).abs().max())
    print(f"{options.batch} molecules of {mask.sum(1).float().mean():.1f} atoms, longest {mask.shape[1]}; "
          f"answers differ by at most {apart:.1e}")
    contestants: dict[str, Callable[[], float]] = {
        "published, 32 bits": lambda: step(lambda: peer(state, t, mask), False),
        "ours, 32 bits": lambda: step(lambda: answer(ours), False),
        "ours, bf16": lambda: step(lambda: answer(ours), True),
        "harmonic angles, gated lift, one move, bf16": lambda: step(lambda: answer(small), True),
    }
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for repeat in range(options.repeats + 1):
        for name, run in contestants.items():
            taken = run()
            if repeat:
                times[name].append(taken)
    peer_time = statistics.median(times["published, 32 bits"])
    for name, taken in times.items():
        ratios = sorted(p / o for p, o in zip(times["published, 32 bits"], taken, strict=True))
        print(f"{name:45} {1e3 * statistics.median(taken) / options.batch:8.1f} ms a molecule, "
              f"{peer_time / statistics.median(taken):5.2f}x ({ratios[0]:.2f} to {ratios[-1]:.2f})")
    print(f"peak memory of the run {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB")


if __name__ == "__main__":
    main()
