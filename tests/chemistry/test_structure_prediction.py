"""Structure prediction end to end: requests from held-out crystals, samples, and their judgement in the run folder."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pytorch_lightning import LightningModule, Trainer

from polydit.data.chemistry.datamodule import ChemistryDataModule
from polydit.data.chemistry.sources import Source
from polydit.data.chemistry.structure import AtomicStructure
from polydit.data.chemistry.wishes import Wishes
from polydit.data.chemistry.writer import StoreWriter
from polydit.domains.chemistry.evaluation.structure_prediction import StructurePredictionEvaluator
from polydit.platform.evaluation.callback import Evaluation
from polydit.platform.requests import Request, Sample
from polydit.platform.systems.diffusion import DiffusionSystem

from .conftest import random_structures


class RandomSource(Source):
    """Random structures, all of them held out but the first ones."""

    name = "random"

    def fingerprint(self) -> dict[str, Any]:
        return {}

    def read(self, writer: StoreWriter) -> None:
        for seed in range(4):
            for structure in random_structures(seed):
                writer.add(structure, split=2 if seed else 0)


class Grid(LightningModule):
    """Answers requests with the wanted atoms on a grid, which is a crystal that is compared in milliseconds."""

    def predict_step(self, batch: list[Request], index: int) -> list[Sample]:
        return [Sample(request, lay_out(request)) for request in batch]


def lay_out(request: Request) -> AtomicStructure:
    numbers = np.array(Wishes.parse(request.wishes).elements or [6])
    places = np.random.default_rng(request.seed).permutation(27)[: len(numbers)]
    fractional = np.stack(np.unravel_index(places, (3, 3, 3)), axis=1) / 3
    crystal = request.wishes["domain"] == "crystal"
    return AtomicStructure(numbers, 6.0 * fractional, 6.0 * np.eye(3) if crystal else None)


def test_samples_of_held_out_compositions_are_judged(tmp_path: Path) -> None:
    module = ChemistryDataModule(
        [RandomSource()], str(tmp_path / "cache"),
        requests=[{"domain": "crystal", "elements_of": "test", "count": 3}, {"domain": "molecule", "num_atoms": 4}],
    )  # fmt: skip
    evaluation = Evaluation([StructurePredictionEvaluator(time_limit=None, processes=0)])
    trainer = Trainer(
        default_root_dir=tmp_path, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[evaluation],
    )  # fmt: skip
    outputs = trainer.predict(Grid(), datamodule=module)
    assert outputs is not None
    samples: list[Sample] = [sample for batch in outputs for sample in batch]  # type: ignore[union-attr]
    for sample in samples[:-1]:
        reference = module.structure(sample.request.wishes["reference"])
        assert sorted(sample.item.numbers.tolist()) == sorted(reference.numbers.tolist())
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["structure_prediction/match_rate@1"]["count"] == 9
    assert metrics["structure_prediction/match_rate@3"]["count"] == 9
    assert metrics["structure_prediction/guesses_matched"]["count"] == 27
    # A crystal of one atom has no place to get wrong, and these have nearly cubic cells.
    assert metrics["structure_prediction/match_rate@1"]["value"] > 0
    rows = list(csv.DictReader((tmp_path / "rows.csv").read_text().splitlines()))
    assert [row["guess"] for row in rows] == ["1", "2", "3"] * 9
    assert [int(row["request/reference"]) for row in rows] == [s.request.wishes["reference"] for s in samples[:-1]]


def test_the_model_is_not_told_the_reference(system: DiffusionSystem) -> None:
    wishes = {"domain": "crystal", "elements": "Na2 Cl2"}
    told, untold = (
        system.generate([Request(3, {**wishes, **extra})])[0].item for extra in ({"reference": 7}, {})
    )
    assert told.positions == pytest.approx(untold.positions, abs=0)
    assert told.cell == pytest.approx(untold.cell, abs=0)
