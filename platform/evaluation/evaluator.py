"""The contract of an evaluator: samples to numbers with counts and intervals, one row per item."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .statistics import Estimate

Row = dict[str, str | int | float | bool | None]
"""What is known of one item, by column; None where a property does not apply or was not computed."""

Histograms = dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]
"""Quantity with its unit -> (values of the samples, values of the reference, empty where there is none)."""


class Evaluator(ABC):
    """Judges the outputs of one kind.

    `polydit.platform.evaluation.callback.Evaluation` calls `reset`, `prepare`, `update` once per batch, then the rest.
    """

    folder: str = ""
    """Folder below that of the samples for what `write` writes, of this evaluator alone; empty: it writes nothing."""

    @abstractmethod
    def accepts(self, output: Any) -> bool:
        """Whether an output of `test` or `predict` (a `Sample`, a `Reconstruction`) is of the kind judged here."""

    def prepare(self, datamodule: Any) -> None:
        """Take reference data from the data module, such as the training set for novelty; nothing by default.

        Raises:
            DataError: if the data are not there; the metrics that need them are then left out.
        """
        return None

    @abstractmethod
    def reset(self) -> None:
        """Forget all items; what `prepare` took may stay."""

    @abstractmethod
    def update(self, outputs: Sequence[Any]) -> None:
        """Add outputs, all of them accepted; cheap, since it runs between batches."""

    @abstractmethod
    def compute(self) -> dict[str, Estimate]:
        """Metric name -> number; may be slow. A metric that lacks its reference data is left out."""

    @abstractmethod
    def rows(self) -> list[Row]:
        """One row per item, in the order of `update`; called after `compute`."""

    def histograms(self) -> Histograms:
        """Distributions to draw in the report; none by default. Called after `compute`."""
        return {}

    def descriptions(self) -> dict[str, str]:
        """Metric name -> what it means, in a short sentence for the report; none by default."""
        return {}

    def write(self, folder: Path, heads: Sequence[Row]) -> list[Path]:
        """Write items that judging made, such as relaxed structures; nothing by default. Called after `rows`.

        They stand beside the samples and never in their place.

        Args:
            folder: where to write; exists, and is empty.
            heads: first columns of the rows, in their order: position of the sample in the run (``index``), its seed.

        Returns:
            The files written.
        """
        return []
