"""Metrics of generated crystals: validity, uniqueness, novelty, distances to held-out ones, coverage, stability.

Definitions and sources stand in ``docs/reference/metrics.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polydit.data.chemistry.structure import AtomicStructure
from polydit.platform.evaluation.evaluator import Evaluator, Histograms, Row
from polydit.platform.evaluation.pool import Outcome, map_items
from polydit.platform.evaluation.statistics import Estimate, estimate_share
from polydit.platform.requests import Sample

from .crystal_distributions import (
    count_elements,
    estimate_coverage,
    estimate_wasserstein,
    fingerprint,
    measure_density,
    measure_volume,
)
from .crystal_matching import Comparison, compare_crystals
from .crystal_validity import (
    CrystalGeometry,
    Formula,
    check_composition,
    measure_geometry,
    reduce_formula,
    write_formula,
)
from .descriptions import describe_metrics
from .energy import EnergyModel, measure_hull_distances

METASTABLE = 0.1
"""eV/atom above the hull up to which a crystal counts as metastable."""
FEW_ELEMENTS = 5
"""Compositions of up to so many elements are checked in milliseconds, and need no worker process."""
ROUNDING = 1e-6
"""eV/atom; what is nearer to a bound than this lies on it."""


@dataclass
class CrystalRecord:
    """What is known of one crystal; ``None`` until it is computed, or where it does not apply.

    Args:
        structure: the sample.
        geometry: its measures.
        formula: reduced.
        composition: whether its charges can balance, or why that was not found out.
        comparison: with the other samples and the training crystals.
        hull_distance: energy above the hull in eV/atom, or why there is none.
    """

    structure: AtomicStructure
    geometry: CrystalGeometry
    formula: Formula
    composition: Outcome[bool] | None = None
    comparison: Comparison | None = None
    hull_distance: Outcome[float] | None = None

    @property
    def valid(self) -> bool:
        """Structurally and compositionally valid."""
        return self.geometry.is_valid and self.composition is not None and bool(self.composition.value)

    @property
    def unique(self) -> bool:
        """Not matched by an earlier sample."""
        return self.comparison is not None and self.comparison.unique

    @property
    def novel(self) -> bool:
        """Known not to be matched by a training crystal."""
        return self.comparison is not None and bool(self.comparison.novel)

    def below(self, limit: float) -> bool:
        """Whether the energy above the hull is known and at most `limit` eV/atom."""
        distance = None if self.hull_distance is None else self.hull_distance.value
        return distance is not None and distance <= limit + ROUNDING


class CrystalEvaluator(Evaluator):
    """Judges samples that are crystals.

    Args:
        novelty: compare with the training crystals of equal formula.
        training_limit: use at most this many training crystals for novelty; None: all. Fewer raise the novelty.
        reference_limit: at most this many held-out crystals (test split, else validation) for distances and coverage.
        energy: how the energy above the hull is found; None: no stability and no S.U.N.
        time_limit: seconds for one composition, formula or crystal in the slow tests; beyond it, it counts as failed.
            None: no limit.
        processes: worker processes; None: one per available core. 0, which needs no limit: this process.
    """

    def __init__(
        self,
        novelty: bool = True,
        training_limit: int | None = None,
        reference_limit: int = 1000,
        energy: EnergyModel | None = None,
        time_limit: float | None = 120.0,
        processes: int | None = None,
    ) -> None:
        self.novelty = novelty
        self.training_limit = training_limit
        self.reference_limit = reference_limit
        self.energy = energy
        self.time_limit = time_limit
        self.processes = processes
        self._training: Sequence[AtomicStructure] = ()
        self._reference: list[AtomicStructure] = []
        self.reset()

    def accepts(self, output: Any) -> bool:
        """Samples whose item is a crystal."""
        item = output.item if isinstance(output, Sample) else None
        return isinstance(item, AtomicStructure) and item.is_periodic

    def prepare(self, datamodule: Any) -> None:
        """Take the training crystals and the held-out ones."""
        self._training = datamodule.structures("train", domain="crystal", limit=self.training_limit)
        for split in ("test", "val"):
            self._reference = list(datamodule.structures(split, domain="crystal", limit=self.reference_limit))
            if self._reference:
                break

    def reset(self) -> None:
        """Forget all samples."""
        self._records: list[CrystalRecord] = []

    def update(self, outputs: Sequence[Sample]) -> None:
        """Measure each cell; about a millisecond each."""
        for sample in outputs:
            item: AtomicStructure = sample.item
            self._records.append(CrystalRecord(item, measure_geometry(item), reduce_formula(item)))

    def compute(self) -> dict[str, Estimate]:
        """All metrics, named ``crystals/...``."""
        self._check_compositions()
        self._compare()
        records, count = self._records, len(self._records)
        valid = [record for record in records if record.valid]
        unique = [record for record in valid if record.unique]
        found = {
            "structural_validity": estimate_share(sum(r.geometry.is_valid for r in records), count),
            "compositional_validity": estimate_share(sum(_holds(r.composition) for r in records), count),
            "validity": estimate_share(len(valid), count),
            "uniqueness": estimate_share(len(unique), len(valid)),
            "timed_out": estimate_share(sum(_timed_out(r) for r in records), count),
        }
        if self.novelty and len(self._training):
            found["novelty"] = estimate_share(sum(r.novel for r in unique), len(unique))
        if self._reference and valid:
            found |= self._compare_distributions([record.structure for record in valid])
        if self.energy is not None:
            found |= self._measure_stability(self.energy)
        return {f"crystals/{name}": estimate for name, estimate in found.items()}

    def descriptions(self) -> dict[str, str]:
        """What each metric means."""
        return describe_metrics()

    def rows(self) -> list[Row]:
        """One row per sample; ``unique`` is False where an earlier sample matches."""
        return [_describe(record) for record in self._records]

    def histograms(self) -> Histograms:
        """Sizes, densities, volumes and element counts of structurally valid samples and of held-out crystals."""
        samples = [record.structure for record in self._sound()]
        quantities: dict[str, Callable[[AtomicStructure], float]] = {
            "Atoms per cell": lambda structure: len(structure.numbers),
            "Density (g/cm³)": measure_density,
            "Volume per atom (Å³)": lambda structure: measure_volume(structure) / len(structure.numbers),
            "Elements per crystal": count_elements,
        }
        return {
            name: (_collect(quantity, samples), _collect(quantity, self._reference))
            for name, quantity in quantities.items()
        }

    def _sound(self) -> list[CrystalRecord]:
        return [record for record in self._records if record.geometry.is_valid]

    def _check_compositions(self) -> None:
        formulas = sorted({record.formula for record in self._records})
        quick = [formula for formula in formulas if len(formula) <= FEW_ELEMENTS]
        slow = [formula for formula in formulas if len(formula) > FEW_ELEMENTS]
        outcomes = map_items(check_composition, quick, description="Compositions", processes=0)
        outcomes += map_items(
            check_composition, slow, description="Compositions of many elements", time_limit=self.time_limit,
            processes=self.processes,
        )
        known = dict(zip(quick + slow, outcomes, strict=True))
        for record in self._records:
            record.composition = known[record.formula]

    def _compare(self) -> None:
        sound = self._sound()
        known = self._training if self.novelty and len(self._training) else None
        structures = [record.structure for record in sound]
        comparisons = compare_crystals(structures, known, self.time_limit, self.processes)
        for record, comparison in zip(sound, comparisons, strict=True):
            record.comparison = comparison

    def _compare_distributions(self, samples: list[AtomicStructure]) -> dict[str, Estimate]:
        pairs = {"density_distance": measure_density, "element_count_distance": count_elements}
        distances = {
            name: estimate_wasserstein(_collect(quantity, samples), _collect(quantity, self._reference))
            for name, quantity in pairs.items()
        }
        return distances | estimate_coverage(fingerprint(samples), fingerprint(self._reference))

    def _measure_stability(self, energy: EnergyModel) -> dict[str, Estimate]:
        sound, count = self._sound(), len(self._records)
        structures = [record.structure for record in sound]
        distances = measure_hull_distances(structures, energy, self.time_limit, self.processes)
        for record, distance in zip(sound, distances, strict=True):
            record.hull_distance = distance
        found = {
            "stable": estimate_share(sum(r.below(0.0) for r in sound), count),
            "metastable": estimate_share(sum(r.below(METASTABLE) for r in sound), count),
            "energy_known": estimate_share(sum(distance.value is not None for distance in distances), count),
        }
        if self.novelty and len(self._training):
            fresh = [record for record in sound if record.unique and record.novel]
            found["sun"] = estimate_share(sum(r.below(0.0) for r in fresh), count)
            found["msun"] = estimate_share(sum(r.below(METASTABLE) for r in fresh), count)
        return found


def _holds(outcome: Outcome[bool] | None) -> bool:
    return outcome is not None and bool(outcome.value)


def _timed_out(record: CrystalRecord) -> bool:
    found = (record.composition, record.comparison, record.hull_distance)
    return any(outcome is not None and outcome.timed_out for outcome in found)


def _collect(
    quantity: Callable[[AtomicStructure], float], structures: Sequence[AtomicStructure]
) -> NDArray[np.float64]:
    return np.array([quantity(structure) for structure in structures], dtype=np.float64)


def _describe(record: CrystalRecord) -> Row:
    geometry, distance, comparison = record.geometry, record.hull_distance, record.comparison
    found = (record.composition, comparison, distance)
    problems = [outcome.problem for outcome in found if outcome is not None and outcome.problem]
    return {
        "kind": "crystal",
        "num_atoms": len(record.structure.numbers),
        "formula": write_formula(record.formula),
        "volume": geometry.volume,
        "min_distance": geometry.min_distance,
        "alpha": geometry.angles[0],
        "beta": geometry.angles[1],
        "gamma": geometry.angles[2],
        "structurally_valid": geometry.is_valid,
        "compositionally_valid": _holds(record.composition),
        "valid": record.valid,
        "unique": None if comparison is None else comparison.unique,
        "novel": None if comparison is None else comparison.novel,
        "hull_distance": None if distance is None else distance.value,
        "problem": "; ".join(problems) or None,
    }
