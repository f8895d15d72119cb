"""How often a crystal is found from its composition alone: match rate and RMSE, of one guess and of several.

Source: Xie et al. 2022 (CDVAE, arXiv 2110.06197) for the tolerances and the test of validity, Jiao et al. 2023
(DiffCSP, arXiv 2309.04475) for several guesses: a reference is found if any matches, at the smallest distance.

Shape legend: k guesses of one reference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from polydit.data.chemistry.structure import AtomicStructure
from polydit.platform.errors import DataError
from polydit.platform.evaluation.evaluator import Evaluator, Histograms, Row
from polydit.platform.evaluation.pool import Outcome, map_items
from polydit.platform.evaluation.statistics import (
    Estimate,
    estimate_by_bootstrap,
    estimate_grouped_share,
    estimate_share,
)
from polydit.platform.requests import Sample

from .crystal_matching import index_by_formula
from .crystal_validity import MIN_DISTANCE, MIN_VOLUME, Formula, check_composition, reduce_formula, write_formula
from .descriptions import describe_metrics
from .reconstruction import match_crystals

PREFIX = "structure_prediction"


@dataclass(frozen=True)
class Match:
    """What became of one guess.

    Args:
        distance: of matched atoms, root-mean-square, over (V/n)^(1/3); None if the guess does not match.
        plausible: whether no two atoms are nearer than 0.5 Å, and the cell is larger than 0.1 Å^3.
    """

    distance: float | None
    plausible: bool


@dataclass(frozen=True)
class Guess:
    """One guess, judged.

    Args:
        outcome: its match, or why it was not found out; then the guess does not match.
        valid: plausible, of a composition whose charges can balance.
    """

    outcome: Outcome[Match]
    valid: bool

    def distance(self, valid_only: bool = False) -> float | None:
        """Distance from the reference; None if it does not match, or is not valid though that is asked."""
        match = self.outcome.value
        return None if match is None or (valid_only and not self.valid) else match.distance


@dataclass(frozen=True)
class Prediction:
    """A reference and its guesses, in the order of their requests.

    Args:
        reference: the crystal that was to be found.
        formula: reduced.
        guesses: [k].
        seen: whether a training crystal has this reduced formula.
    """

    reference: AtomicStructure
    formula: Formula
    guesses: list[Guess]
    seen: bool

    def best(self, count: int, valid_only: bool = False) -> float | None:
        """Smallest distance among the first `count` guesses; None if none matches."""
        found = [guess.distance(valid_only) for guess in self.guesses[:count]]
        return min((distance for distance in found if distance is not None), default=None)


def judge_guess(pair: tuple[AtomicStructure, AtomicStructure]) -> Match:
    """Compare a guess with its reference; takes (reference, guess)."""
    structure = pair[1].to_pymatgen()
    plausible = structure.volume >= MIN_VOLUME and structure.is_valid(MIN_DISTANCE)
    return Match(match_crystals(pair), bool(plausible))


class StructurePredictionEvaluator(Evaluator):
    """Judges samples of requests made from held-out crystals (``elements_of``) against these.

    Guesses of a reference count in the order of their requests: with twenty, the first is the one of ``@1``.

    Args:
        seen: find out which references have the reduced formula of a training crystal, for a rate without these.
        training_limit: take at most this many training crystals for that, those of the data module's seed; None: all.
        time_limit: seconds for matching one guess; beyond it, the guess counts as not matched. None: no limit. Crystals
            take some ten milliseconds, but the flat or endless cells of an untrained model would take for ever.
        processes: worker processes; None: one per available core. 0, which needs no limit: this process.
    """

    def __init__(
        self,
        seen: bool = True,
        training_limit: int | None = None,
        time_limit: float | None = 10.0,
        processes: int | None = None,
    ) -> None:
        self.seen = seen
        self.training_limit = training_limit
        self.time_limit = time_limit
        self.processes = processes
        self._structure: Callable[[int], AtomicStructure] | None = None
        self._training: set[Formula] | None = None
        self.reset()

    def accepts(self, output: Any) -> bool:
        """Crystals whose request names a reference."""
        if not isinstance(output, Sample) or output.request.wishes.get("reference") is None:
            return False
        return isinstance(output.item, AtomicStructure) and output.item.is_periodic

    def prepare(self, datamodule: Any) -> None:
        """Take the way to references, and the formulas of the training crystals."""
        self._structure = datamodule.structure
        self._training = None
        if self.seen:
            training = datamodule.structures("train", domain="crystal", limit=self.training_limit)
            self._training = set(index_by_formula(training))

    def reset(self) -> None:
        """Forget all guesses."""
        self._samples: list[Sample] = []
        self._predictions: dict[int, Prediction] = {}

    def update(self, outputs: Sequence[Sample]) -> None:
        """Keep the guesses."""
        self._samples += outputs

    def compute(self) -> dict[str, Estimate]:
        """All metrics, named ``structure_prediction/...``.

        Raises:
            DataError: if there was no data module to take the references from.
        """
        self._judge()
        predictions = list(self._predictions.values())
        guesses = [guess for prediction in predictions for guess in prediction.guesses]
        hits = [sum(g.distance() is not None for g in prediction.guesses) for prediction in predictions]
        found = {
            "guesses_matched": estimate_grouped_share(hits, [len(prediction.guesses) for prediction in predictions]),
            "timed_out": estimate_share(sum(guess.outcome.timed_out for guess in guesses), len(guesses)),
        }
        unseen = [prediction for prediction in predictions if not prediction.seen]
        for count in self._counts():
            found |= _summarise(predictions, count)
            found |= {f"valid/{name}": value for name, value in _summarise(predictions, count, True).items()}
            if self._training is not None:
                found |= {f"unseen/{name}": value for name, value in _summarise(unseen, count).items()}
        return {f"{PREFIX}/{name}": value for name, value in found.items()}

    def rows(self) -> list[Row]:
        """One row per guess; those with ``guess`` 1 are one per reference, and say what became of all its guesses."""
        seen: dict[int, int] = {}
        rows = []
        for sample in self._samples:
            place = sample.request.wishes["reference"]
            seen[place] = seen.get(place, 0) + 1
            rows.append(_describe(self._predictions[place], seen[place] - 1))
        return rows

    def histograms(self) -> Histograms:
        """The distances of the best guesses."""
        best = [prediction.best(len(prediction.guesses)) for prediction in self._predictions.values()]
        values = np.array([value for value in best if value is not None])
        return {"Distance of the best guess ((V/n)^(1/3))": (values, np.array([]))}

    def descriptions(self) -> dict[str, str]:
        """What each metric means, for the number of guesses that was made."""
        meanings = describe_metrics()
        several = {name: text for name, text in meanings.items() if name.startswith(PREFIX) and name.endswith("@20")}
        count = self._counts()[-1]
        return meanings | ({} if count == 1 else {f"{name[:-3]}@{count}": text for name, text in several.items()})

    def _counts(self) -> tuple[int, ...]:
        """1, and the number of guesses that every reference has."""
        fewest = min((len(prediction.guesses) for prediction in self._predictions.values()), default=1)
        return (1,) if fewest == 1 else (1, fewest)

    def _judge(self) -> None:
        places = [int(sample.request.wishes["reference"]) for sample in self._samples]
        if self._structure is None:
            raise DataError("structure prediction is judged against held-out crystals: evaluate with their data module")
        references = {place: self._structure(place) for place in dict.fromkeys(places)}
        pairs = [(references[place], sample.item) for place, sample in zip(places, self._samples, strict=True)]
        outcomes = map_items(
            judge_guess, pairs, description="Matching guesses", time_limit=self.time_limit, processes=self.processes
        )
        balanced = self._check_compositions([sample.item for sample in self._samples])
        for place, reference in references.items():
            formula = reduce_formula(reference)
            seen = self._training is not None and formula in self._training
            self._predictions[place] = Prediction(reference, formula, [], seen)
        for place, outcome, sample in zip(places, outcomes, self._samples, strict=True):
            plausible = outcome.value is not None and outcome.value.plausible
            valid = plausible and balanced[reduce_formula(sample.item)]
            self._predictions[place].guesses.append(Guess(outcome, valid))

    def _check_compositions(self, structures: Sequence[AtomicStructure]) -> dict[Formula, bool]:
        formulas = sorted({reduce_formula(structure) for structure in structures})
        outcomes = map_items(
            check_composition, formulas, description="Compositions", time_limit=self.time_limit,
            processes=self.processes,
        )
        return {formula: bool(outcome.value) for formula, outcome in zip(formulas, outcomes, strict=True)}


def _summarise(predictions: Sequence[Prediction], count: int, valid_only: bool = False) -> dict[str, Estimate]:
    best = [prediction.best(count, valid_only) for prediction in predictions]
    distances = [distance for distance in best if distance is not None]
    return {
        f"match_rate@{count}": estimate_share(len(distances), len(best)),
        f"rmse@{count}": estimate_by_bootstrap(distances, lambda sample: float(sample.mean())),
    }


def _describe(prediction: Prediction, position: int) -> Row:
    guess = prediction.guesses[position]
    return {
        "name": prediction.reference.name,
        "formula": write_formula(prediction.formula),
        "num_atoms": len(prediction.reference.numbers),
        "guess": position + 1,
        "match": guess.distance() is not None,
        "rms": guess.distance(),
        "valid": guess.valid,
        "problem": guess.outcome.problem or None,
        "seen": prediction.seen,
        "guesses_matched": sum(other.distance() is not None for other in prediction.guesses),
        "best_rms": prediction.best(len(prediction.guesses)),
    }
