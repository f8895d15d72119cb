"""The callback that runs evaluators over what `test` and `predict` put out, and writes their numbers."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_warn
from rich.console import Console
from rich.table import Table

from ..errors import ConfigurationError, DataError
from ..requests import Sample
from .evaluator import Evaluator, Row
from .statistics import Estimate
from .writer import open_staging, publish, write_atomically


class Evaluation(Callback):
    """Judges the outputs of `test` and `predict`.

    Writes ``<run>/metrics.json``, adding to the numbers that are there, and ``<run>/rows.csv``, one row per item; logs
    the numbers and prints them as a table. The run folder is the trainer's ``default_root_dir``.

    What evaluators make themselves (see `Evaluator.write`) goes into ``<run>/<samples>/<their folder>/`` with a
    manifest, once the samples are in their place.

    Args:
        evaluators: each takes the outputs it accepts; an output may go to several.
        samples: folder of the run that holds the samples, as given to `SampleWriter`.

    Raises:
        ConfigurationError: if two evaluators would write into one folder.
    """

    def __init__(self, evaluators: list[Evaluator], samples: str = "samples") -> None:
        folders = [evaluator.folder for evaluator in evaluators if evaluator.folder]
        for folder in folders:
            if Path(folder).is_absolute() or ".." in Path(folder).parts:
                raise ConfigurationError(f"folder {folder!r} of an evaluator leads out of the samples: give a name")
            if folders.count(folder) > 1:
                raise ConfigurationError(
                    f"{folders.count(folder)} evaluators write into the folder {folder!r}: give each one of its own"
                )
        self.evaluators = evaluators
        self.samples = samples
        self.estimates: dict[str, Estimate] = {}
        self._count = 0
        self._heads: list[list[Row]] = [[] for _ in evaluators]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse to judge parts of the samples in several processes."""
        if stage in ("test", "predict") and trainer.world_size > 1:
            raise ConfigurationError(
                f"samples are evaluated in 1 process, but the trainer has {trainer.world_size}: "
                f"run {stage} with --trainer.devices 1 --trainer.num_nodes 1"
            )

    def on_predict_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start anew, with the reference data of this data module."""
        self.estimates, self._count = {}, 0
        self._heads = [[] for _ in self.evaluators]
        datamodule = getattr(trainer, "datamodule", None)
        for evaluator in self.evaluators:
            evaluator.reset()
            if datamodule is not None:
                _prepare(evaluator, datamodule)

    on_test_epoch_start = on_predict_epoch_start

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Hand the outputs of a batch to the evaluators that accept them."""
        heads = [self._describe(output) for output in outputs or ()]
        for evaluator, known in zip(self.evaluators, self._heads, strict=True):
            chosen = [i for i, output in enumerate(outputs or ()) if evaluator.accepts(output)]
            if chosen:
                evaluator.update([outputs[i] for i in chosen])
                known += [heads[i] for i in chosen]

    on_test_batch_end = on_predict_batch_end

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute, write, log and print."""
        rows: list[Row] = []
        for evaluator, heads in zip(self.evaluators, self._heads, strict=True):
            if heads:
                self.estimates |= evaluator.compute()
                rows += [head | row for head, row in zip(heads, evaluator.rows(), strict=True)]
        if not rows:
            return
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        write_metrics(folder / "metrics.json", self.estimates)
        write_rows(folder / "rows.csv", rows)
        numbers = {name: entry.value for name, entry in self.estimates.items() if not math.isnan(entry.value)}
        for logger in trainer.loggers:
            logger.log_metrics(numbers, step=trainer.global_step)
        Console().print(make_table(self.estimates))

    on_test_epoch_end = on_predict_epoch_end

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what the evaluators made, now that the samples themselves are in their place."""
        root = Path(trainer.default_root_dir)
        for evaluator, heads in zip(self.evaluators, self._heads, strict=True):
            if heads and evaluator.folder:
                # Not within samples/, so that a run that stops here leaves no half of it among finished files.
                staging = open_staging(root, f"{self.samples}.{evaluator.folder.replace('/', '.')}")
                files = [path.relative_to(staging) for path in evaluator.write(staging, heads)]
                publish(staging, root / self.samples / evaluator.folder, list(dict.fromkeys(files)), len(heads))

    on_test_end = on_predict_end

    def _describe(self, output: Any) -> Row:
        """First columns of an output's row; samples are counted as `SampleWriter` counts them."""
        if not isinstance(output, Sample):
            return {"output": type(output).__name__.lower()}
        head: Row = {"output": "sample", "index": self._count, "seed": output.request.seed}
        self._count += 1
        return head | {f"request/{wish}": _plain(value) for wish, value in output.request.wishes.items()}


def _prepare(evaluator: Evaluator, datamodule: Any) -> None:
    """Samples can be judged where the training data are not at hand; what needs them is then left out, and said."""
    try:
        evaluator.prepare(datamodule)
    except DataError as error:
        rank_zero_warn(f"{type(evaluator).__name__} leaves out what needs reference data: {error}")


def write_metrics(path: Path, estimates: Mapping[str, Estimate]) -> None:
    """Add numbers to the JSON file at `path`, in one step; numbers of the same name are replaced."""
    known = read_metrics(path) if path.exists() else {}
    entries = {name: entry.to_dict() for name, entry in sorted({**known, **estimates}.items())}
    lines = [f"  {json.dumps(name)}: {json.dumps(entry, allow_nan=False)}" for name, entry in entries.items()]
    write_atomically(path, "{\n" + ",\n".join(lines) + "\n}\n")


def read_metrics(path: Path) -> dict[str, Estimate]:
    """The numbers of a ``metrics.json``.

    Raises:
        ConfigurationError: if the file is not one.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        return {name: Estimate.from_dict(entry) for name, entry in entries.items()}
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise ConfigurationError(
            f"{path} does not hold metrics ({type(error).__name__}: {error}): move it away, and a new one is written"
        ) from error


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write rows as CSV with the union of their columns, in one step; what a row lacks stays empty."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_atomically(path, text.getvalue())


def make_table(estimates: Mapping[str, Estimate]) -> Table:
    """The numbers as a table for the terminal."""
    table = Table("metric", "value", "95 % interval", "count")
    for name, entry in sorted(estimates.items()):
        interval = "" if math.isnan(entry.low) else f"{entry.low:.4g} – {entry.high:.4g}"
        value = "none counted" if math.isnan(entry.value) else f"{entry.value:.4g}"
        table.add_row(name, value, interval, str(entry.count))
    return table


def _plain(value: Any) -> str | int | float | bool | None:
    return value if isinstance(value, str | int | float | bool | None) else str(value)
