"""How well an autoencoder gives back held-out molecules and crystals.

Shape legend: n atoms of one structure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polydit.data.chemistry.structure import AtomicStructure
from polydit.platform.autoencoders import Reconstruction
from polydit.platform.evaluation.evaluator import Evaluator, Row
from polydit.platform.evaluation.pool import Outcome, map_items
from polydit.platform.evaluation.statistics import (
    Estimate,
    estimate_by_bootstrap,
    estimate_grouped_share,
    estimate_mean,
    estimate_share,
)

from ..superposition import superpose
from .crystal_matching import make_matcher
from .descriptions import describe_metrics
from .rdkit_conversion import to_rdkit
from .stability import check_stability

MATCH_DISTANCE = 0.3
"""Å; a molecule is given back if all types are right and no atom is farther than this from its place."""


@dataclass(frozen=True)
class ReconstructionRecord:
    """One structure beside its reconstruction; fields that do not apply to its kind are None.

    Args:
        periodic: whether it is a crystal.
        num_atoms: atoms.
        right_types: atoms with the right element.
        rmsd: molecules: root-mean-square distance of atoms after the best rigid motion, Å; None if not finite.
        max_distance: molecules: the greatest distance of an atom from its place after it, Å; None if not finite.
        stable: molecules: whether (the original, the reconstruction) is stable.
        stable_atoms: molecules: stable atoms of the reconstruction.
        valid: molecules: whether (the original, the reconstruction) is valid.
    """

    periodic: bool
    num_atoms: int
    right_types: int
    rmsd: float | None = None
    max_distance: float | None = None
    stable: tuple[bool, bool] | None = None
    stable_atoms: int = 0
    valid: tuple[bool, bool] | None = None

    @property
    def matches(self) -> bool:
        """Whether a molecule is given back."""
        right = self.right_types == self.num_atoms
        return right and self.max_distance is not None and self.max_distance < MATCH_DISTANCE


def judge_reconstruction(original: AtomicStructure, decoded: AtomicStructure) -> ReconstructionRecord:
    """Compare a structure with its reconstruction, atom by atom in their order.

    Raises:
        ValueError: if they do not have the same number of atoms.
    """
    count = len(original.numbers)
    if len(decoded.numbers) != count:
        raise ValueError(
            f"{original.name or 'a structure'} of {count} atoms was decoded to {len(decoded.numbers)}: an autoencoder "
            "keeps the number of atoms"
        )
    right = int((original.numbers == decoded.numbers).sum())
    if original.is_periodic:
        return ReconstructionRecord(True, count, right)
    distance = None
    if np.isfinite(decoded.positions).all():
        distance = np.linalg.norm(superpose(decoded.positions, original.positions) - original.positions, axis=1)
    atoms = check_stability(decoded)
    return ReconstructionRecord(
        False, count, right,
        rmsd=None if distance is None else float(np.sqrt((distance**2).mean())),
        max_distance=None if distance is None else float(distance.max()),
        stable=(bool(check_stability(original).all()), bool(atoms.all())),
        stable_atoms=int(atoms.sum()),
        valid=(to_rdkit(original) is not None, to_rdkit(decoded) is not None),
    )


def match_crystals(pair: tuple[AtomicStructure, AtomicStructure]) -> float | None:
    """Root-mean-square distance of matched atoms over (V/n)^(1/3), or None where two crystals do not match.

    Tolerances are those of published reconstruction rates: sites 0.5, angles 10 degrees, lengths 0.3.
    """
    matcher = make_matcher(length_tolerance=0.3, site_tolerance=0.5, angle_tolerance=10.0)
    found = matcher.get_rms_dist(pair[0].to_pymatgen(), pair[1].to_pymatgen())
    return None if found is None else float(found[0])


class ReconstructionEvaluator(Evaluator):
    """Judges reconstructions of molecules and crystals.

    Args:
        time_limit: seconds for matching one crystal; beyond it, the crystal counts as not matched. None: no limit.
        processes: worker processes; None: one per available core. 0, which needs no limit: this process.
    """

    def __init__(self, time_limit: float | None = 60.0, processes: int | None = None) -> None:
        self.time_limit = time_limit
        self.processes = processes
        self.reset()

    def accepts(self, output: Any) -> bool:
        """Reconstructions of molecules and crystals."""
        return isinstance(output, Reconstruction) and isinstance(output.original, AtomicStructure)

    def reset(self) -> None:
        """Forget all reconstructions."""
        self._outputs: list[Reconstruction] = []
        self._records: list[ReconstructionRecord] = []
        self._matches: dict[int, Outcome[float | None]] = {}

    def update(self, outputs: Sequence[Reconstruction]) -> None:
        """Compare each atom by atom; milliseconds each."""
        for output in outputs:
            self._outputs.append(output)
            self._records.append(judge_reconstruction(output.original, output.decoded))

    def compute(self) -> dict[str, Estimate]:
        """All metrics, named ``reconstruction/molecules/...`` and ``reconstruction/crystals/...``."""
        found: dict[str, Estimate] = {}
        molecules = [record for record in self._records if not record.periodic]
        if molecules:
            found |= {f"molecules/{name}": value for name, value in _summarise_molecules(molecules).items()}
        if len(molecules) < len(self._records):
            found |= {f"crystals/{name}": value for name, value in self._summarise_crystals().items()}
        return {f"reconstruction/{name}": value for name, value in found.items()}

    def descriptions(self) -> dict[str, str]:
        """What each metric means."""
        return describe_metrics()

    def rows(self) -> list[Row]:
        """One row per reconstruction."""
        return [self._describe(index) for index in range(len(self._records))]

    def _summarise_crystals(self) -> dict[str, Estimate]:
        chosen = [index for index, record in enumerate(self._records) if record.periodic]
        pairs = [(self._outputs[index].original, self._outputs[index].decoded) for index in chosen]
        outcomes = map_items(
            match_crystals, pairs, description="Matching crystals", time_limit=self.time_limit,
            processes=self.processes,
        )
        self._matches = dict(zip(chosen, outcomes, strict=True))
        distances = [outcome.value for outcome in outcomes if outcome.value is not None]
        records = [self._records[index] for index in chosen]
        return {
            "match_rate": estimate_share(len(distances), len(chosen)),
            "rms": estimate_mean(distances),
            "type_accuracy": _type_accuracy(records),
        }

    def _describe(self, index: int) -> Row:
        record, name = self._records[index], self._outputs[index].original.name
        row: Row = {
            "kind": "crystal" if record.periodic else "molecule",
            "name": name,
            "num_atoms": record.num_atoms,
            "right_types": record.right_types,
        }
        if record.periodic:
            outcome = self._matches[index]
            return row | {
                "match": outcome.value is not None, "rms": outcome.value, "problem": outcome.problem or None
            }
        stable, valid = record.stable or (None, None), record.valid or (None, None)
        return row | {
            "match": record.matches, "rmsd": record.rmsd, "max_distance": record.max_distance,
            "stable_atoms": record.stable_atoms, "stable": stable[1], "original_stable": stable[0],
            "valid": valid[1], "original_valid": valid[0],
        }


def _type_accuracy(records: Sequence[ReconstructionRecord]) -> Estimate:
    return estimate_grouped_share([r.right_types for r in records], [r.num_atoms for r in records])


def _summarise_molecules(records: Sequence[ReconstructionRecord]) -> dict[str, Estimate]:
    stable = np.array([record.stable for record in records], dtype=float)
    valid = np.array([record.valid for record in records], dtype=float)
    return {
        "type_accuracy": _type_accuracy(records),
        "rmsd": estimate_mean([record.rmsd for record in records if record.rmsd is not None]),
        "match_rate": estimate_share(sum(record.matches for record in records), len(records)),
        "atom_stability": estimate_grouped_share([r.stable_atoms for r in records], [r.num_atoms for r in records]),
        "molecule_stability": estimate_share(int(stable[:, 1].sum()), len(records)),
        "stability_kept": _estimate_ratio(stable),
        "validity": estimate_share(int(valid[:, 1].sum()), len(records)),
        "validity_kept": _estimate_ratio(valid),
    }


def _estimate_ratio(pairs: NDArray[np.float64]) -> Estimate:
    """Share of the reconstructions over share of the originals; NaN where no original has the property."""
    if not pairs[:, 0].any():
        return Estimate(math.nan, len(pairs))
    return estimate_by_bootstrap(pairs, lambda sample: float(sample[:, 1].sum() / max(sample[:, 0].sum(), 1.0)))
