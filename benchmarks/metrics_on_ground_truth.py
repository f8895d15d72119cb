"""The metrics of chemistry on real molecules and crystals: the ceiling that samples are read against.

    python benchmarks/metrics_on_ground_truth.py --data ../shared/data --molecules 5000

Molecules are drawn at random (seeded) from QM9; crystals from the sample of MP-20, Niggli-reduced as MP-20 is used. The
training set of novelty is the rest of what was read, so real molecules, which do not repeat, come out as novel.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from polydit.data.chemistry.lattice import niggli_reduce
from polydit.data.chemistry.structure import AtomicStructure
from polydit.domains.chemistry.evaluation.crystals import CrystalEvaluator
from polydit.domains.chemistry.evaluation.molecules import MoleculeEvaluator
from polydit.platform.evaluation.evaluator import Evaluator
from polydit.platform.requests import Request, Sample


class GroundTruth:
    """Stands for a data module: some structures by split."""

    def __init__(self, **splits: Sequence[AtomicStructure]) -> None:
        self.splits = splits

    def structures(self, split: str, domain: str | None = None, limit: int | None = None) -> Sequence[AtomicStructure]:
        """The structures of a split, all of one domain."""
        return self.splits.get(split, [])[:limit]


def read_qm9(folder: Path, count: int, seed: int) -> list[AtomicStructure]:
    """`count` molecules at random from all files."""
    found: list[AtomicStructure] = []
    for path in sorted(folder.glob("qm9_[0-9]*.npz")):
        with np.load(path) as file:
            counts, numbers, positions = file["num_atoms"], file["atomic_numbers"], file["positions_1e10"]
        ends = np.cumsum(counts.astype(np.int64))
        for start, end in zip(ends - counts, ends, strict=True):
            found.append(AtomicStructure(numbers[start:end].astype(np.int64), positions[start:end] / 1e10))
    chosen = np.random.default_rng(seed).permutation(len(found))[:count]
    return [found[index] for index in chosen.tolist()]


def read_mp20(path: Path) -> list[AtomicStructure]:
    """Crystals of a CDVAE table in their Niggli-reduced cells."""
    from pymatgen.core import Structure

    with gzip.open(path, "rt") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = list(csv.DictReader(file))
        structures = [Structure.from_str(row["cif"], fmt="cif") for row in rows]
    return [niggli_reduce(AtomicStructure.from_pymatgen(structure)) for structure in structures]


def report(title: str, evaluator: Evaluator, items: Sequence[AtomicStructure], truth: GroundTruth) -> dict[str, object]:
    evaluator.prepare(truth)
    start = time.perf_counter()
    evaluator.update([Sample(Request(seed), item) for seed, item in enumerate(items)])
    found = evaluator.compute()
    seconds = time.perf_counter() - start
    print(f"\n{title}: {len(items)} items, {seconds:.1f} s")
    for name, estimate in found.items():
        print(f"  {name:48s} {estimate.value:8.4f}  [{estimate.low:.4f}, {estimate.high:.4f}]  n={estimate.count}")
    return {"items": len(items), "seconds": seconds, **{name: value.to_dict() for name, value in found.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="holds molecules/ and crystals/")
    parser.add_argument("--molecules", type=int, default=5000, help="number of QM9 molecules")
    parser.add_argument("--posebusters", type=int, default=200, help="number of these that PoseBusters sees, 1 s each")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of molecules")
    parser.add_argument("--output", type=Path, help="JSON file for the numbers")
    arguments = parser.parse_args()

    molecules = read_qm9(arguments.data / "molecules" / "qm9", 2 * arguments.molecules, arguments.seed)
    chosen, training = molecules[: arguments.molecules], molecules[arguments.molecules :]
    crystals = {
        split: read_mp20(arguments.data / "crystals" / "mp20_sample" / f"{split}.csv.gz")
        for split in ("train", "val", "test")
    }
    held_out = crystals["val"] + crystals["test"]
    results = {
        "QM9, bonds by length": report(
            "QM9, bonds by length", MoleculeEvaluator(posebusters=False), chosen, GroundTruth(train=training)
        ),
        "QM9, PDB convention": report(
            "QM9, PDB convention", MoleculeEvaluator("pdb", novelty=False, posebusters=False), chosen, GroundTruth()
        ),
        "MP-20 train as samples": report(
            "MP-20 train as samples", CrystalEvaluator(novelty=False), crystals["train"], GroundTruth(test=held_out)
        ),
        "MP-20 val and test as samples": report(
            "MP-20 val and test as samples", CrystalEvaluator(), held_out,
            GroundTruth(train=crystals["train"], test=crystals["train"]),
        ),
    }
    few = chosen[: arguments.posebusters]
    for convention in ("lengths", "pdb") if few else ():
        title = f"QM9, PoseBusters, bonds by {convention}"
        results[title] = report(title, MoleculeEvaluator(convention, novelty=False), few, GroundTruth())
    if arguments.output:
        arguments.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
