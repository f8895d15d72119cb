"""Structure prediction by templates: what a learnt model of crystals must beat, and how much of the answer leaks.

    python benchmarks/structure_prediction_baseline.py --data ../shared/data --limit 500 --guesses 20

A guess is a training crystal of the same anonymised formula (TiO2 and MgF2 are both AB2) with the same number of atoms
in its cell, its elements replaced by the wanted ones. Nearest first: by the mean difference over the atoms of Pettifor
numbers (Pettifor 1984, doi 10.1016/0038-1098(84)90765-8, as pymatgen has them), at the best assignment of elements of
equal amount. Its volume is the sum of atomic volumes fitted to the training crystals, which the match rate does not
feel. Where too few crystals have the number of atoms, those of other cells follow, then the last guess again.

Training crystals are those of the Materials Project shards that are in neither held-out part of MP-20 (`mp20_role` 0);
references are the public test part's crystals of two and three elements, as its table has them.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import permutations, product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from polydit.data.chemistry.datamodule import ChemistryDataModule
from polydit.data.chemistry.dataset import StructureView
from polydit.data.chemistry.sources import CDVAECsvSource, MaterialsProjectSource
from polydit.data.chemistry.structure import AtomicStructure
from polydit.domains.chemistry.evaluation.crystal_distributions import element_properties, measure_volume
from polydit.domains.chemistry.evaluation.crystal_matching import compare_crystals
from polydit.domains.chemistry.evaluation.structure_prediction import StructurePredictionEvaluator
from polydit.platform.evaluation.statistics import Estimate, estimate_share
from polydit.platform.requests import Sample

PETTIFOR = 4
"""Where pymatgen's Mendeleev number, which is Pettifor's, stands among `element_properties`."""


@cache
def pettifor_number(number: int) -> float:
    """Place of an element on Pettifor's chemical scale."""
    return element_properties(number)[PETTIFOR]


@dataclass(frozen=True)
class Composition:
    """Elements of a cell by ascending amount.

    Args:
        amounts: atoms of each, ascending.
        numbers: atomic numbers in the order of the amounts.
    """

    amounts: tuple[int, ...]
    numbers: tuple[int, ...]

    @staticmethod
    def of(numbers: NDArray[np.int64]) -> Composition:
        """The composition of atoms."""
        found, counts = np.unique(numbers, return_counts=True)
        pairs = sorted(zip(counts.tolist(), found.tolist(), strict=True))
        return Composition(tuple(count for count, _ in pairs), tuple(number for _, number in pairs))

    @property
    def reduced(self) -> tuple[int, ...]:
        """Amounts without their common divisor: the anonymised formula."""
        divisor = int(np.gcd.reduce(self.amounts))
        return tuple(amount // divisor for amount in self.amounts)

    def assignments(self) -> Iterator[tuple[int, ...]]:
        """The elements in every order that keeps the amounts."""
        groups: dict[int, list[int]] = defaultdict(list)
        for amount, number in zip(self.amounts, self.numbers, strict=True):
            groups[amount].append(number)
        for parts in product(*(permutations(group) for group in groups.values())):
            yield tuple(number for part in parts for number in part)


class TemplateBook:
    """Training crystals by anonymised formula.

    Args:
        structures: the training crystals.
    """

    def __init__(self, structures: StructureView) -> None:
        self.structures = structures
        self.compositions: list[Composition] = []
        self.index: dict[tuple[int, ...], list[int]] = defaultdict(list)
        self.formulas: set[tuple[tuple[int, ...], tuple[int, ...]]] = set()
        counts, volumes = np.zeros((len(structures), 100)), np.zeros(len(structures))
        for position, structure in enumerate(structures):
            composition = Composition.of(structure.numbers)
            self.compositions.append(composition)
            self.index[composition.reduced].append(position)
            self.formulas.add((composition.reduced, composition.numbers))
            counts[position] = np.bincount(structure.numbers, minlength=100)
            volumes[position] = measure_volume(structure)
        self.atomic_volumes = nnls(counts / volumes[:, None], np.ones(len(volumes)))[0]

    def predict(self, wanted: Composition, count: int) -> list[AtomicStructure]:
        """The `count` nearest templates with their elements replaced; fewer where there are no more."""
        positions = np.array(self.index.get(wanted.reduced, []), dtype=np.int64)
        if not len(positions):
            return []
        scale = np.array([[pettifor_number(z) for z in self.compositions[i].numbers] for i in positions.tolist()])
        weights = np.array(wanted.amounts) / sum(wanted.amounts)
        assignments = list(wanted.assignments())
        targets = np.array([[pettifor_number(z) for z in numbers] for numbers in assignments])
        distances = (np.abs(scale[:, None] - targets[None]) * weights).sum(axis=-1)
        other_cell = np.array([self.compositions[i].amounts != wanted.amounts for i in positions.tolist()])
        order = np.lexsort((distances.min(axis=1), other_cell))[:count]
        return [
            self._substitute(int(positions[row]), assignments[int(distances[row].argmin())]) for row in order.tolist()
        ]

    def _substitute(self, position: int, numbers: Sequence[int]) -> AtomicStructure:
        template = self.structures[position]
        assert template.cell is not None
        exchange = dict(zip(self.compositions[position].numbers, numbers, strict=True))
        changed = np.array([exchange[number] for number in template.numbers.tolist()])
        factor = (self.atomic_volumes[changed].sum() / measure_volume(template)) ** (1 / 3)
        return replace(
            template, numbers=changed, positions=template.positions * factor, cell=template.cell * factor
        )


def lay_in_a_row(numbers: NDArray[np.int64]) -> AtomicStructure:
    """Atoms 2.5 Å apart along a line: what is guessed where no template is known."""
    positions = 2.5 * np.arange(len(numbers))[:, None] * np.array([[1.0, 0.0, 0.0]])
    return AtomicStructure(numbers, positions, np.diag([2.5 * len(numbers), 2.5, 2.5]))


def guess_all(module: ChemistryDataModule, book: TemplateBook, count: int) -> tuple[list[Sample], int]:
    """An answer to every request, and how many crystals had no template."""
    samples, without = [], 0
    for first in range(0, len(module.requests), count):
        requests = module.requests[first : first + count]
        reference = module.structure(requests[0].wishes["reference"])
        guesses = book.predict(Composition.of(reference.numbers), count)
        without += not guesses
        guesses = guesses or [lay_in_a_row(reference.numbers)]
        guesses += [guesses[-1]] * (count - len(guesses))
        samples += [Sample(request, guess) for request, guess in zip(requests, guesses, strict=True)]
    return samples, without


def measure_leakage(
    references: Sequence[AtomicStructure], training: StructureView, book: TemplateBook, processes: int | None
) -> dict[str, Estimate]:
    """Shares of references whose composition, and whose structure, a training crystal has."""
    formulas = [Composition.of(reference.numbers) for reference in references]
    known = sum((formula.reduced, formula.numbers) in book.formulas for formula in formulas)
    wanted = {(formula.reduced, formula.numbers) for formula in formulas}
    alike = [
        training[i] for i, other in enumerate(book.compositions) if (other.reduced, other.numbers) in wanted
    ]
    compared = compare_crystals(references, alike, time_limit=120.0, processes=processes)
    return {
        "composition is a training crystal's": estimate_share(known, len(references)),
        "matches a training crystal (default tolerances)": estimate_share(
            sum(not comparison.novel for comparison in compared), len(references)
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="holds crystals/")
    parser.add_argument("--cache", default="cache", help="folder of the binary stores")
    parser.add_argument("--limit", type=int, help="number of test crystals; all if not given")
    parser.add_argument("--training", type=int, help="number of training crystals, at random; all if not given")
    parser.add_argument("--guesses", type=int, default=20, help="for each of them")
    parser.add_argument("--processes", type=int, help="that match; every core if not given")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of crystals")
    parser.add_argument("--output", type=Path, help="JSON file for the numbers")
    arguments = parser.parse_args()

    crystals = arguments.data / "crystals"
    entry = {"domain": "crystal", "elements_of": "test", "source": "cdvae-csv", "count": arguments.guesses}
    module = ChemistryDataModule(
        [
            MaterialsProjectSource(str(crystals / "mp_le20"), niggli=True, find_space_groups=False),
            CDVAECsvSource(str(crystals / "mp20_biternary" / "test.csv.gz"), find_space_groups=False),
        ],
        arguments.cache, requests=[{**entry, "limit": arguments.limit} if arguments.limit else entry],
        seed=arguments.seed,
    )  # fmt: skip
    start = time.perf_counter()
    training = module.structures("train", "crystal", arguments.training)
    book = TemplateBook(training)
    samples, without = guess_all(module, book, arguments.guesses)
    print(f"{len(training)} training crystals, {len(samples)} guesses in {time.perf_counter() - start:.0f} s")
    places = dict.fromkeys(request.wishes["reference"] for request in module.requests)
    references = [module.structure(place) for place in places]
    found = {"no template": estimate_share(without, len(references))}
    found |= measure_leakage(references, training, book, arguments.processes)
    evaluator = StructurePredictionEvaluator(training_limit=arguments.training, processes=arguments.processes)
    evaluator.prepare(module)
    evaluator.update(samples)
    found |= evaluator.compute()
    print(f"all of it took {time.perf_counter() - start:.0f} s")
    for name, estimate in found.items():
        print(f"  {name:50s} {estimate.value:8.4f}  [{estimate.low:.4f}, {estimate.high:.4f}]  n={estimate.count}")
    if arguments.output:
        numbers = {name: estimate.to_dict() for name, estimate in found.items()}
        arguments.output.write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    main()
