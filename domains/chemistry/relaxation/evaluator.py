"""Relaxes samples after they were judged and written as they are, and says before and after what that did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pytorch_lightning.utilities import rank_zero_info

from polydit.data.chemistry.structure import AtomicStructure
from polydit.platform.errors import ConfigurationError
from polydit.platform.evaluation.evaluator import Evaluator, Histograms, Row
from polydit.platform.evaluation.pool import Outcome, map_items
from polydit.platform.evaluation.statistics import Estimate, estimate_by_bootstrap, estimate_mean, estimate_share
from polydit.platform.evaluation.writer import Writer
from polydit.platform.requests import Sample

from ..evaluation.crystal_validity import measure_geometry
from ..evaluation.rdkit_conversion import to_rdkit
from ..evaluation.stability import check_stability
from ..writers import CIFWriter, ExtxyzWriter, SDFWriter
from .relaxation import Relaxation, Relaxed


@dataclass(frozen=True)
class Judgement:
    """What is known of a structure without its energy.

    Args:
        valid: molecules: RDKit accepts the bonds that lengths imply; crystals: structural validity.
        stable: molecules: every atom has an allowed valence by bond lengths; None of crystals.
    """

    valid: bool
    stable: bool | None


class RelaxationEvaluator(Evaluator):
    """Relaxes the samples of one kind and compares before and after.

    The samples stay as they are, in their files and in every other metric. Relaxed ones are written below them, into
    ``samples/relaxed/molecules/`` or ``.../crystals/``, by the same index, seed and request and with the labels
    ``energy_before``, ``energy_after``, ``moved`` (Å), ``steps`` and ``converged``. What could not be relaxed is not
    there; ``rows.csv`` says why.

    Args:
        relaxation: what relaxes, by class path.
        writers: formats of the relaxed structures; None: SDF of molecules, CIF and extended XYZ of crystals.
        name: first part of the metrics' names; another than ``"relaxation"`` is also the folder's, so that two ways
            of relaxing can stand beside each other.
        limit: relax at most this many samples, the first ones; None: all.
        time_limit: seconds for one sample, after which it counts as not relaxed. None: no limit.
        processes: worker processes; None: one per available core. 0, which needs no limit: this process.
    """

    def __init__(
        self,
        relaxation: Relaxation,
        writers: list[Writer] | None = None,
        name: str = "relaxation",
        limit: int | None = None,
        time_limit: float | None = 60.0,
        processes: int | None = None,
    ) -> None:
        if not name or "/" in name or (limit is not None and limit < 1):
            raise ConfigurationError(
                f"name is {name!r} and limit is {limit}: give a plain name, and 1 sample or more (or no limit)"
            )
        self.relaxation = relaxation
        crystals: list[Writer] = [CIFWriter(), ExtxyzWriter()]
        self.writers = writers or ([SDFWriter()] if relaxation.kind == "molecules" else crystals)
        self.name = name
        self.folder = f"{'relaxed' if name == 'relaxation' else name}/{relaxation.kind}"
        self.limit = limit
        self.time_limit = time_limit
        self.processes = processes
        self.reset()

    def accepts(self, output: Any) -> bool:
        """Samples of the kind that is relaxed."""
        item = output.item if isinstance(output, Sample) else None
        return isinstance(item, AtomicStructure) and self.relaxation.accepts(item)

    def prepare(self, datamodule: Any) -> None:
        """Fail before anything is sampled if the relaxation cannot work."""
        self.relaxation.check()

    def reset(self) -> None:
        """Forget all samples."""
        self._samples: list[Sample] = []
        self._outcomes: list[Outcome[Relaxed]] = []
        self._before: list[Judgement] = []
        self._after: list[Judgement] = []

    def update(self, outputs: Sequence[Sample]) -> None:
        """Keep the samples."""
        self._samples += outputs

    def compute(self) -> dict[str, Estimate]:
        """Relax, and compare; metrics are named ``<name>/<kind>/...``."""
        self.relaxation.check()
        chosen: list[AtomicStructure] = [sample.item for sample in self._samples[: self.limit]]
        self._outcomes = map_items(
            self.relaxation.relax, chosen, description=f"Relaxation by {self.relaxation.method}",
            time_limit=self.time_limit, processes=self.processes,
        )
        self._before = [judge(structure) for structure in chosen]
        self._after = [
            before if outcome.value is None else judge(outcome.value.structure)
            for before, outcome in zip(self._before, self._outcomes, strict=True)
        ]
        found = [outcome.value for outcome in self._outcomes if outcome.value is not None]
        rank_zero_info(
            f"{len(found)} of {len(chosen)} {self.relaxation.kind} relaxed by {self.relaxation.method}; the samples "
            f"stay as they were generated, the relaxed ones are in {self.folder} below them"
        )
        return {f"{self._prefix}/{name}": estimate for name, estimate in self._summarise(found).items()}

    def descriptions(self) -> dict[str, str]:
        """What each metric means."""
        unit = f"{self.relaxation.unit}{'/atom' if self.relaxation.per_atom else ''}"
        method, valid = self.relaxation.method, "Structurally valid"
        if self.relaxation.kind == "molecules":
            valid = "Accepted by RDKit"
        meanings = {
            "relaxed": f"Could be relaxed by {method}; the samples themselves stay as generated.",
            "converged": "Of the relaxed: the optimiser met its criterion.",
            "timed_out": "Not relaxed within the time limit.",
            "energy_before": f"Of the relaxed: mean energy as generated, {unit}.",
            "energy_after": f"Of the relaxed: mean energy after relaxation, {unit}.",
            "energy_drop": f"Mean drop of energy, {unit}; a few broken samples can rule it.",
            "energy_drop_median": f"Median drop of energy, {unit}.",
            "rmsd": "How far relaxation moved the atoms, Å.",
            "validity_before": f"{valid}, as generated.",
            "validity_after": f"{valid} after relaxation; what was not relaxed counts as it is.",
            "stability_before": "Every atom has an allowed valence, as generated.",
            "stability_after": "The same after relaxation; what was not relaxed counts as it is.",
            "volume_change": "Of the relaxed: mean change of the cell's volume, as a share.",
        }
        return {f"{self._prefix}/{name}": text for name, text in meanings.items()}

    def rows(self) -> list[Row]:
        """One row per sample; those beyond the limit say so."""
        rows = [self._describe(index) for index in range(len(self._outcomes))]
        rest: Row = {"kind": self.relaxation.kind[:-1], f"{self.name}/problem": f"beyond the limit of {self.limit}"}
        return rows + [dict(rest) for _ in range(len(self._samples) - len(rows))]

    def histograms(self) -> Histograms:
        """How far relaxation moved the atoms."""
        moved = [outcome.value.moved for outcome in self._outcomes if outcome.value is not None]
        return {f"Moved by {self.relaxation.method} (Å, RMSD)": (np.array(moved), np.zeros(0))} if moved else {}

    def write(self, folder: Path, heads: Sequence[Row]) -> list[Path]:
        """Write the relaxed structures, each under the index of its sample."""
        paths: dict[Path, None] = {}
        for head, sample, outcome in zip(heads, self._samples, self._outcomes, strict=False):
            if outcome.value is not None:
                relaxed = Sample(sample.request, label(outcome.value))
                for writer in self.writers:
                    paths |= dict.fromkeys(writer.write([relaxed], folder, int(head["index"] or 0)))
        return list(paths)

    @property
    def _prefix(self) -> str:
        return f"{self.name}/{self.relaxation.kind}"

    def _summarise(self, found: list[Relaxed]) -> dict[str, Estimate]:
        count = len(self._outcomes)
        before, after = (np.array([self._scale(r, energy) for r in found]) for energy in ("before", "after"))
        summary = {
            "relaxed": estimate_share(len(found), count),
            "converged": estimate_share(sum(relaxed.converged for relaxed in found), len(found)),
            "timed_out": estimate_share(sum(outcome.timed_out for outcome in self._outcomes), count),
            "energy_before": estimate_mean(before),
            "energy_after": estimate_mean(after),
            "energy_drop": estimate_mean(before - after),
            "energy_drop_median": estimate_by_bootstrap(before - after, lambda drops: float(np.median(drops))),
            "rmsd": estimate_mean([relaxed.moved for relaxed in found]),
            "validity_before": estimate_share(sum(judgement.valid for judgement in self._before), count),
            "validity_after": estimate_share(sum(judgement.valid for judgement in self._after), count),
        }
        if self.relaxation.kind == "molecules":
            return summary | {
                "stability_before": estimate_share(sum(bool(judgement.stable) for judgement in self._before), count),
                "stability_after": estimate_share(sum(bool(judgement.stable) for judgement in self._after), count),
            }
        changes = [
            measure_volume(outcome.value.structure) / measure_volume(sample.item) - 1
            for sample, outcome in zip(self._samples, self._outcomes, strict=False) if outcome.value is not None
        ]
        return summary | {"volume_change": estimate_mean(changes)}

    def _scale(self, relaxed: Relaxed, energy: str) -> float:
        value: float = getattr(relaxed, f"energy_{energy}")
        return value / len(relaxed.structure.numbers) if self.relaxation.per_atom else value

    def _describe(self, index: int) -> Row:
        outcome, before, after = self._outcomes[index], self._before[index], self._after[index]
        row: Row = {
            "kind": self.relaxation.kind[:-1], "method": self.relaxation.method, "relaxed": outcome.value is not None,
            "problem": outcome.problem or None,
            "valid_before": before.valid, "valid_after": after.valid,
            "stable_before": before.stable, "stable_after": after.stable,
        }
        if outcome.value is not None:
            relaxed = outcome.value
            row |= {
                "energy_before": self._scale(relaxed, "before"), "energy_after": self._scale(relaxed, "after"),
                "rmsd": relaxed.moved, "steps": relaxed.steps, "converged": relaxed.converged,
                "message": relaxed.message or None,
            }
        # With a slash these are details, which the report does not show as properties of the sample itself.
        return {column if column == "kind" else f"{self.name}/{column}": value for column, value in row.items()}


def judge(structure: AtomicStructure) -> Judgement:
    """Validity and stability of a structure by the geometry alone."""
    if structure.is_periodic:
        return Judgement(measure_geometry(structure).is_valid, None)
    return Judgement(to_rdkit(structure) is not None, bool(check_stability(structure).all()))


def label(relaxed: Relaxed) -> AtomicStructure:
    """The relaxed structure with what relaxing it took as labels, energies in the relaxation's unit for the whole."""
    numbers = {
        "energy_before": relaxed.energy_before, "energy_after": relaxed.energy_after, "moved": relaxed.moved,
        "steps": float(relaxed.steps), "converged": float(relaxed.converged),
    }  # fmt: skip
    return replace(relaxed.structure, labels={**relaxed.structure.labels, **numbers})


def measure_volume(structure: AtomicStructure) -> float:
    """Volume of a crystal's cell, Å³."""
    assert structure.cell is not None
    return abs(float(np.linalg.det(structure.cell)))
