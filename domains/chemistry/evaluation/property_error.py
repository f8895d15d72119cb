"""Whether samples have the property that they were asked for, judged by an independently trained predictor.

The protocol is EDM's (Hoogeboom et al. 2022, arXiv 2203.17003, section 5.2): the predictor learns on one half of the
training molecules, the generator on the other; baselines are taken on the generator's half, which the predictor has
never seen.

Shape legend: n samples, k labelled molecules of the generator's training split.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polydit.data.chemistry.structure import AtomicStructure
from polydit.platform.errors import ConfigurationError, DataError
from polydit.platform.evaluation.evaluator import Evaluator, Histograms, Row
from polydit.platform.evaluation.statistics import Estimate, estimate_mean, estimate_share
from polydit.platform.requests import Sample

from ..property_prediction import PropertyPredictionSystem, load_predictor
from .molecules import judge_molecule
from .rdkit_conversion import Convention

Values = NDArray[np.float64]

MEANINGS = {
    "samples": "Wanted against predicted, mean absolute error over all samples.",
    "valid": "The same over those that RDKit accepts.",
    "predicted": "Samples that the predictor could judge.",
    "naive": "Upper bound: real molecules against the property of another one.",
    "within_size": "Real molecules against another of as many atoms: no better than ignoring the wish.",
    "within_formula": "The same against another of its formula: for requests that name elements.",
    "atoms_only": "Real molecules' property, guessed from their number of atoms alone.",
    "bound": "Lower bound: the predictor's own error on real molecules it never saw.",
}
"""Metric -> what it means."""


class PropertyErrorEvaluator(Evaluator):
    """Judges molecules that were asked for a property: its error, beside naive and bound baselines.

    Args:
        predictor: checkpoint or run folder of a `PropertyPredictionSystem`; its target is the property that is judged.
        convention: how bonds are found for the numbers over valid samples, see `MoleculeEvaluator`.
        reference_limit: baselines on at most this many labelled training molecules, drawn by `seed`; None: on all.
        require_unseen: refuse a predictor whose part of the training split overlaps the generator's. False is for one
            that was trained on other data altogether, since parts only tell within one set.
        seed: of the shuffles of the baselines, and of the reference molecules where they are limited.
    """

    def __init__(
        self,
        predictor: str,
        convention: Convention = "lengths",
        reference_limit: int | None = None,
        require_unseen: bool = True,
        seed: int = 0,
    ) -> None:
        self.predictor = predictor
        self.convention = convention
        self.reference_limit = reference_limit
        self.require_unseen = require_unseen
        self.seed = seed
        self._system: PropertyPredictionSystem | None = None
        self._reference: list[AtomicStructure] = []
        self.reset()

    @property
    def system(self) -> PropertyPredictionSystem:
        """The predictor, loaded when it is first needed."""
        if self._system is None:
            self._system = load_predictor(self.predictor)
        return self._system

    def accepts(self, output: Any) -> bool:
        """Samples that are molecules and were asked for the predictor's property."""
        item = output.item if isinstance(output, Sample) else None
        if not isinstance(item, AtomicStructure) or item.is_periodic:
            return False
        return self.system.target in (output.request.wishes.get("properties") or {})

    def prepare(self, datamodule: Any) -> None:
        """Load the predictor, check that it can judge what is asked, and take the labelled training molecules.

        Raises:
            ConfigurationError: if the requests ask for another property, the data's unit is another, the predictor was
                trained on molecules of the generator, or it does not know their elements.
            CheckpointError: if the checkpoint holds no predictor.
            DataError: if the data are not there; the baselines are then left out.
        """
        self._check_requests(datamodule)
        target = self.system.target
        unit = datamodule.property_unit(target)
        if unit and unit != self.system.unit:
            raise ConfigurationError(
                f"the predictor {self.predictor} gives {target} in {self.system.unit or 'no unit'}, but the "
                f"generator's data hold it in {unit}: use one source for both"
            )
        self._check_part(datamodule)
        labelled = [s for s in datamodule.structures("train", "molecule") if target in s.labels]
        if not labelled:
            raise DataError(f"no training molecule has the label {target}")
        order = np.random.default_rng(self.seed).permutation(len(labelled))[: self.reference_limit]
        self._reference = [labelled[place] for place in np.sort(order)]
        self._check_elements()

    def reset(self) -> None:
        """Forget all samples."""
        self._structures: list[AtomicStructure] = []
        self._wanted: list[float] = []
        self._valid: list[bool] = []
        self._problems: list[str] = []
        self._predicted: Values = np.zeros(0)

    def update(self, outputs: Sequence[Sample]) -> None:
        """Take samples with what was asked of them, and judge their validity; milliseconds each."""
        for sample in outputs:
            self._structures.append(sample.item)
            self._wanted.append(float(sample.request.wishes["properties"][self.system.target]))
            self._valid.append(judge_molecule(sample.item, self.convention).smiles is not None)
            self._problems.append(self._find_problem(sample.item))

    def compute(self) -> dict[str, Estimate]:
        """Mean absolute errors in the unit of the property, named ``property_error/<property>/...``."""
        known = np.array([not problem for problem in self._problems], dtype=bool)
        chosen = [structure for structure, ok in zip(self._structures, known, strict=True) if ok]
        self._predicted = np.full(len(known), np.nan)
        self._predicted[known] = self.system.predict(chosen)
        errors = np.abs(self._predicted - np.array(self._wanted))
        found = {
            "samples": estimate_mean(errors[known]),
            "valid": estimate_mean(errors[known & np.array(self._valid, dtype=bool)]),
            "predicted": estimate_share(int(known.sum()), len(known)),
        }
        if self._reference:
            found |= self._measure_baselines()
        return {f"property_error/{self.system.target}/{name}": estimate for name, estimate in found.items()}

    def rows(self) -> list[Row]:
        """One row per sample: wanted, predicted, and why there is no prediction where there is none."""
        rows: list[Row] = []
        for index, structure in enumerate(self._structures):
            judged = not self._problems[index]
            predicted = float(self._predicted[index])
            rows.append({
                "kind": "molecule property", "num_atoms": len(structure.numbers), "property": self.system.target,
                "wanted": self._wanted[index], "predicted": predicted if judged else None,
                "absolute_error": abs(predicted - self._wanted[index]) if judged else None,
                "valid": self._valid[index], "problem": self._problems[index] or None,
            })  # fmt: skip
        return rows

    def histograms(self) -> Histograms:
        """Predicted property of the samples beside labels of training molecules."""
        name = f"{self.system.target} ({self.system.unit})" if self.system.unit else self.system.target
        labels = np.array([structure.labels[self.system.target] for structure in self._reference])
        return {f"Predicted {name}": (self._predicted[np.isfinite(self._predicted)], labels)}

    def descriptions(self) -> dict[str, str]:
        """What each metric means."""
        return {f"property_error/{self.system.target}/{name}": text for name, text in MEANINGS.items()}

    def _measure_baselines(self) -> dict[str, Estimate]:
        target, generator = self.system.target, np.random.default_rng((self.seed, 1))
        labels = np.array([structure.labels[target] for structure in self._reference])
        sizes = np.array([len(structure.numbers) for structure in self._reference])
        predicted = self.system.predict(self._reference)
        amounts = [np.bincount(structure.numbers, minlength=128) for structure in self._reference]
        formulas = np.unique(amounts, axis=0, return_inverse=True)[1].ravel()
        within = {
            "within_size": _shuffle_within(sizes, generator), "within_formula": _shuffle_within(formulas, generator)
        }
        return {
            "naive": estimate_mean(np.abs(predicted - generator.permutation(labels))),
            **{name: estimate_mean(np.abs(predicted[one] - labels[other])) for name, (one, other) in within.items()},
            "atoms_only": estimate_mean(np.abs(self.system.predict_by_size(sizes) - labels)),
            "bound": estimate_mean(np.abs(predicted - labels)),
        }

    def _find_problem(self, structure: AtomicStructure) -> str:
        unknown = self.system.unknown_elements(structure)
        if unknown:
            return f"elements unknown to the predictor: {', '.join(map(str, unknown))}"
        return "" if np.isfinite(structure.positions).all() else "coordinates are not finite"

    def _check_requests(self, datamodule: Any) -> None:
        requests = getattr(datamodule, "requests", [])
        asked = sorted({name for request in requests for name in request.wishes.get("properties") or {}})
        if requests and self.system.target not in asked:
            raise ConfigurationError(
                f"the predictor {self.predictor} judges {self.system.target}, but the requests ask for "
                f"{', '.join(asked) or 'no property'}: ask for properties: {{{self.system.target}: drawn}}, or name "
                "the predictor of what is asked"
            )

    def _check_part(self, datamodule: Any) -> None:
        low, high, seed = self.system.train_part.tolist()
        part, part_seed = getattr(datamodule, "train_part", (0.0, 1.0)), getattr(datamodule, "part_seed", 0)
        apart = seed == part_seed and (high <= part[0] or part[1] <= low)
        if self.require_unseen and not apart:
            raise ConfigurationError(
                f"the predictor {self.predictor} was trained on train_part [{low:g}, {high:g}] with part_seed "
                f"{seed:g}, the generator's is [{part[0]:g}, {part[1]:g}] with part_seed {part_seed}: it may know the "
                "generator's molecules by heart. Train it on another part with the same part_seed, or say "
                "require_unseen: false if its data were others"
            )

    def _check_elements(self) -> None:
        unknown = sorted({z for structure in self._reference for z in self.system.unknown_elements(structure)})
        if unknown:
            raise ConfigurationError(
                f"the predictor {self.predictor} does not know the elements with atomic numbers "
                f"{', '.join(map(str, unknown))}, which the generator's training molecules hold: train it on molecules "
                "with them, or the generator on molecules without"
            )


def _shuffle_within(groups: NDArray[np.int64], generator: np.random.Generator) -> tuple[NDArray[np.int64], ...]:
    """Places of pairs of one group: in a random order sorted by group, everyone is paired with the next."""
    order = generator.permutation(len(groups))
    order = order[np.argsort(groups[order], kind="stable")]
    following = np.roll(order, -1)
    same = (groups[order] == groups[following]) & (order != following)
    return order[same], following[same]
