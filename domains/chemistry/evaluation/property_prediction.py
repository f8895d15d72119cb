"""How far a predictor of a property is off on held-out molecules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from polydit.platform.evaluation.evaluator import Evaluator, Row
from polydit.platform.evaluation.statistics import Estimate, estimate_mean

from ..property_prediction import Prediction


class PropertyPredictionEvaluator(Evaluator):
    """Judges a predictor in `test`: its error on held-out molecules, beside what their number of atoms alone tells."""

    def __init__(self) -> None:
        self.reset()

    def accepts(self, output: Any) -> bool:
        """Predictions."""
        return isinstance(output, Prediction)

    def reset(self) -> None:
        """Forget all predictions."""
        self._predictions: list[Prediction] = []

    def update(self, outputs: Sequence[Prediction]) -> None:
        """Take predictions."""
        self._predictions.extend(outputs)

    def compute(self) -> dict[str, Estimate]:
        """Mean absolute errors in the unit of the property, named ``property_prediction/<property>/...``."""
        found: dict[str, Estimate] = {}
        for target in sorted({entry.target for entry in self._predictions}):
            chosen = [entry for entry in self._predictions if entry.target == target]
            errors = estimate_mean([abs(entry.predicted - entry.actual) for entry in chosen])
            by_size = estimate_mean([abs(entry.by_size - entry.actual) for entry in chosen])
            found |= {f"property_prediction/{target}/mae": errors, f"property_prediction/{target}/atoms_only": by_size}
        return found

    def rows(self) -> list[Row]:
        """One row per molecule."""
        return [
            {
                "kind": "prediction", "num_atoms": entry.num_atoms, "property": entry.target, "actual": entry.actual,
                "predicted": entry.predicted, "absolute_error": abs(entry.predicted - entry.actual),
            }
            for entry in self._predictions
        ]

    def descriptions(self) -> dict[str, str]:
        """What each metric means."""
        meanings = {
            "mae": "Mean absolute error of the predictor on held-out molecules.",
            "atoms_only": "The same of the training median for the number of atoms.",
        }
        targets = {entry.target for entry in self._predictions}
        return {f"property_prediction/{t}/{name}": text for t in targets for name, text in meanings.items()}
