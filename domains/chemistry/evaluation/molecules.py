"""Metrics of generated molecules: stability, validity, connectedness, uniqueness, novelty, PoseBusters.

Definitions and sources stand in ``docs/reference/metrics.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from polydit.data.chemistry.structure import AtomicStructure
from polydit.platform.evaluation.evaluator import Evaluator, Histograms, Row
from polydit.platform.evaluation.pool import Outcome, map_items
from polydit.platform.evaluation.statistics import Estimate, estimate_grouped_share, estimate_share
from polydit.platform.requests import Sample

from .descriptions import describe_metrics
from .posebusters import ENERGY_TEST, QUICK_TESTS, TESTS, check_energy, check_geometry
from .rdkit_conversion import Convention, find_largest_fragment, perceive, to_rdkit, write_smiles
from .stability import check_stability, infer_bond_orders
from .training_smiles import collect_training_smiles

__all__ = ["MoleculeEvaluator", "MoleculeRecord", "judge_molecule", "to_rdkit"]

Value = TypeVar("Value")

REFERENCE_COUNT = 2000
"""Training molecules drawn in the report's histograms."""


@dataclass(frozen=True)
class MoleculeRecord:
    """What is known of one molecule without the others.

    Args:
        num_atoms: atoms.
        stable_atoms: atoms with an allowed valence.
        smiles: of the largest fragment; None where RDKit refuses the molecule.
        fragments: number of unconnected parts; 0 where RDKit refuses it.
    """

    num_atoms: int
    stable_atoms: int
    smiles: str | None
    fragments: int


def judge_molecule(structure: AtomicStructure, convention: Convention = "lengths") -> MoleculeRecord:
    """Stability by bond lengths, and validity by either convention."""
    stable = int(check_stability(structure).sum())
    molecule = perceive(structure, convention)
    if molecule is None:
        return MoleculeRecord(len(structure.numbers), stable, None, 0)
    return MoleculeRecord(len(structure.numbers), stable, write_smiles(molecule), find_largest_fragment(molecule)[1])


@dataclass(frozen=True)
class Pose:
    """What PoseBusters says of one molecule.

    Args:
        tests: test -> passed; None where it could not be run.
        problem: why a test could not be run; empty if all could.
        timed_out: whether it was the time limit.
    """

    tests: dict[str, bool | None]
    problem: str
    timed_out: bool

    @property
    def passes(self) -> bool:
        """Whether no test that could be run fails."""
        return False not in self.tests.values()


class MoleculeEvaluator(Evaluator):
    """Judges samples that are molecules.

    Args:
        convention: how bonds are found for validity, SMILES and PoseBusters: ``"lengths"`` by the EDM bond table,
            ``"pdb"`` by way of a PDB file as in ADiT's published numbers. Stability is by bond lengths in either case.
        novelty: compare with the SMILES of the training molecules, which takes minutes once for a set like QM9.
        training_limit: use at most this many training molecules for novelty; None: all. Fewer raise the novelty.
        posebusters: run PoseBusters on valid molecules, about a second each and core.
        posebusters_limit: at most on this many of them, the first ones; None: all.
        time_limit: seconds for one molecule in PoseBusters; a test beyond it counts as not run. None: no limit.
        processes: worker processes; None: one per available core. 0, which needs no limit: this process.
    """

    def __init__(
        self,
        convention: Convention = "lengths",
        novelty: bool = True,
        training_limit: int | None = None,
        posebusters: bool = True,
        posebusters_limit: int | None = None,
        time_limit: float | None = 30.0,
        processes: int | None = None,
    ) -> None:
        self.convention = convention
        self.novelty = novelty
        self.training_limit = training_limit
        self.posebusters = posebusters
        self.posebusters_limit = posebusters_limit
        self.time_limit = time_limit
        self.processes = processes
        self._training: Sequence[AtomicStructure] = ()
        self._cache_folder: Path | None = None
        self.reset()

    def accepts(self, output: Any) -> bool:
        """Samples whose item is a molecule."""
        item = output.item if isinstance(output, Sample) else None
        return isinstance(item, AtomicStructure) and not item.is_periodic

    def prepare(self, datamodule: Any) -> None:
        """Take the training molecules; their SMILES are kept in the data module's cache."""
        cache = getattr(datamodule, "cache_dir", None)
        self._cache_folder = None if cache is None else Path(cache) / "smiles"
        self._training = datamodule.structures("train", domain="molecule", limit=self.training_limit)

    def reset(self) -> None:
        """Forget all samples."""
        self._structures: list[AtomicStructure] = []
        self._records: list[MoleculeRecord] = []
        self._known: frozenset[str] = frozenset()
        self._poses: dict[int, Pose] = {}

    def update(self, outputs: Sequence[Sample]) -> None:
        """Judge each molecule by itself; milliseconds each."""
        for sample in outputs:
            self._structures.append(sample.item)
            self._records.append(judge_molecule(sample.item, self.convention))

    def compute(self) -> dict[str, Estimate]:
        """All metrics, named ``molecules/...``."""
        records, count = self._records, len(self._records)
        valid = [record for record in records if record.smiles is not None]
        distinct = {record.smiles for record in valid}
        found = {
            "atom_stability": estimate_grouped_share([r.stable_atoms for r in records], [r.num_atoms for r in records]),
            "molecule_stability": estimate_share(sum(r.stable_atoms == r.num_atoms for r in records), count),
            "validity": estimate_share(len(valid), count),
            "connectedness": estimate_share(sum(r.fragments == 1 for r in valid), len(valid)),
            "valid_and_connected": estimate_share(sum(r.fragments == 1 for r in valid), count),
            "uniqueness": estimate_share(len(distinct), len(valid)),
            "valid_and_unique": estimate_share(len(distinct), count),
        }
        if self.novelty and len(self._training):
            self._known = collect_training_smiles(self._training, self.convention, self._cache_folder, self.processes)
            found["novelty"] = estimate_share(len(distinct - self._known), len(distinct))
        if self.posebusters:
            found |= self._run_posebusters()
        return {f"molecules/{name}": estimate for name, estimate in found.items()}

    def descriptions(self) -> dict[str, str]:
        """What each metric means."""
        return describe_metrics()

    def rows(self) -> list[Row]:
        """One row per sample; ``unique`` is False where an earlier sample has the same SMILES."""
        seen: set[str] = set()
        rows = []
        for index, record in enumerate(self._records):
            rows.append(self._describe(index, record, seen))
            seen.add(record.smiles or "")
        return rows

    def histograms(self) -> Histograms:
        """Sizes and bond lengths of the samples and of training molecules."""
        reference = list(islice(self._training, REFERENCE_COUNT))
        return {
            "Atoms per molecule": (_count_atoms(self._structures), _count_atoms(reference)),
            "Bond length (Å)": (_measure_bonds(self._structures), _measure_bonds(reference)),
        }

    def _run_posebusters(self) -> dict[str, Estimate]:
        chosen = [index for index, record in enumerate(self._records) if record.smiles is not None]
        chosen = chosen[: self.posebusters_limit]
        structures = [self._structures[index] for index in chosen]
        geometries = self._map(check_geometry, structures, "PoseBusters: geometry")
        energies = self._map(check_energy, structures, "PoseBusters: energy")
        poses = [_join_tests(geometry, energy) for geometry, energy in zip(geometries, energies, strict=True)]
        self._poses = dict(zip(chosen, poses, strict=True))
        found = {
            "posebusters": estimate_share(sum(pose.passes for pose in poses), len(poses)),
            "posebusters/timed_out": estimate_share(sum(pose.timed_out for pose in poses), len(poses)),
        }
        for name in TESTS:
            results = [pose.tests[name] for pose in poses if pose.tests[name] is not None]
            found[f"posebusters/{name}"] = estimate_share(sum(map(bool, results)), len(results))
        return found

    def _map(
        self, check: Callable[..., Value], structures: list[AtomicStructure], description: str
    ) -> list[Outcome[Value]]:
        return map_items(
            partial(check, convention=self.convention), structures, description=description,
            time_limit=self.time_limit, processes=self.processes,
        )

    def _describe(self, index: int, record: MoleculeRecord, seen: set[str]) -> Row:
        valid = record.smiles is not None
        row: Row = {
            "kind": "molecule",
            "num_atoms": record.num_atoms,
            "stable_atoms": record.stable_atoms,
            "stable": record.stable_atoms == record.num_atoms,
            "valid": valid,
            "smiles": record.smiles,
            "fragments": record.fragments if valid else None,
            "unique": record.smiles not in seen if valid else None,
            "novel": record.smiles not in self._known if valid and self._known else None,
        }
        if index in self._poses:
            pose = self._poses[index]
            row |= {"posebusters": pose.passes, "posebusters_problem": pose.problem or None}
            row |= {f"posebusters/{name}": passed for name, passed in pose.tests.items()}
        return row


def _join_tests(geometry: Outcome[dict[str, bool | None]], energy: Outcome[bool | None]) -> Pose:
    tests = {name: None if geometry.value is None else geometry.value[name] for name in QUICK_TESTS}
    problems = [outcome.problem for outcome in (geometry, energy) if outcome.problem]
    return Pose(
        {**tests, ENERGY_TEST: energy.value}, "; ".join(problems), geometry.timed_out or energy.timed_out
    )


def _count_atoms(structures: Sequence[AtomicStructure]) -> NDArray[np.float64]:
    return np.array([len(structure.numbers) for structure in structures], dtype=np.float64)


def _measure_bonds(structures: Sequence[AtomicStructure]) -> NDArray[np.float64]:
    lengths = [np.zeros(0)]
    for structure in structures:
        i, j = np.nonzero(np.triu(infer_bond_orders(structure.numbers, structure.positions)))
        lengths.append(np.linalg.norm(structure.positions[i] - structure.positions[j], axis=1))
    return np.concatenate(lengths)
