"""Molecules before and after MMFF94: samples of a run, or real ones of QM9's test split as a floor.

    python benchmarks/relaxed_molecules.py --samples runs/gfmdiff_formula/samples/molecules.extxyz
    python benchmarks/relaxed_molecules.py --qm9 FOLDER --count 500
"""

from __future__ import annotations

import argparse
import json

import ase.io
import numpy as np

from polydit.data.chemistry.datamodule import ChemistryDataModule
from polydit.data.chemistry.sources import QM9Source
from polydit.data.chemistry.structure import AtomicStructure
from polydit.domains.chemistry.relaxation.evaluator import RelaxationEvaluator
from polydit.domains.chemistry.relaxation.force_field import MMFFRelaxation
from polydit.platform.requests import Request, Sample


def read_samples(path: str) -> list[AtomicStructure]:
    """All molecules of a file that ASE reads."""
    return [AtomicStructure.from_ase(atoms) for atoms in ase.io.read(path, ":")]


def read_real(folder: str, count: int) -> list[AtomicStructure]:
    """Molecules evenly spread over the test split."""
    data = ChemistryDataModule(sources=[QM9Source(folder=folder)], max_tokens=1152)
    data.prepare_data()
    data.setup("test")
    split = data.structures("test")
    return [split[int(place)] for place in np.linspace(0, len(split) - 1, count)]


def main() -> None:
    """Relax and judge, and print a line of JSON for each metric."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--samples")
    source.add_argument("--qm9")
    parser.add_argument("--count", type=int, default=500)
    arguments = parser.parse_args()
    found = read_samples(arguments.samples) if arguments.samples else read_real(arguments.qm9, arguments.count)
    evaluator = RelaxationEvaluator(MMFFRelaxation())
    evaluator.reset()
    evaluator.update([Sample(Request(seed, {"domain": "molecule"}), each) for seed, each in enumerate(found)])
    for name, estimate in evaluator.compute().items():
        print(json.dumps({"metric": name, **estimate.to_dict()}))


if __name__ == "__main__":
    main()
