"""The report: one self-contained page about a run, written at the end of `predict` and `test`."""

from __future__ import annotations

import base64
import csv
import json
import math
import shlex
import sys
import time
from collections import Counter
from datetime import datetime
from importlib import metadata
from pathlib import Path
from platform import python_version
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_info

from polydit import __version__

from ..errors import require
from ..module import describe_parameters
from ..requests import Sample
from .callback import Evaluation, read_metrics
from .curves import find_losses
from .evaluator import Evaluator
from .figures import draw_interval, encode_figure, plot_histogram, plot_losses
from .gallery import Gallery, GalleryItem, SampleSelection
from .page import Card, Chart, Flag, GallerySection, MetricGroup, MetricLine, Page, render_page
from .statistics import Estimate
from .writer import write_atomically

PACKAGES = ("torch", "pytorch-lightning", "numpy")
"""Distributions whose versions every report states."""

MAX_REQUESTS = 6
"""Different requests that the facts list by themselves."""


class Report(Callback):
    """Writes ``<run>/report.html`` at the end of `predict` and `test`, over an earlier one only when it is complete.

    Needs no network, neither to write nor to read: plotly's own script stands in the page (4.8 MB). Metrics are those
    of ``<run>/metrics.json``, flags of samples those of ``<run>/rows.csv``, histograms those of the `Evaluation`
    callback of the same trainer; loss curves are looked for in the run folder and in that of the checkpoint.

    Args:
        galleries: what to show of the samples, one per kind.
        title: heading; empty: the name of the run folder.
    """

    def __init__(self, galleries: list[Gallery] | None = None, title: str = "") -> None:
        self.galleries = galleries or []
        self.title = title
        self._selections: list[SampleSelection] = []
        self._requests: Counter[str] = Counter()
        self._seeds: set[int] = set()
        self._count = 0
        self._start = 0.0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Miss a library before the work, not after it."""
        if stage in ("test", "predict"):
            require("plotly", "report")
            require("jinja2", "report")

    def on_predict_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start anew."""
        self._selections = [SampleSelection(gallery.limit) for gallery in self.galleries]
        self._requests, self._seeds, self._count, self._start = Counter(), set(), 0, time.monotonic()

    on_test_epoch_start = on_predict_epoch_start

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Offer the samples of a batch to the galleries."""
        for sample in outputs or ():
            if not isinstance(sample, Sample):
                continue
            for gallery, selection in zip(self.galleries, self._selections, strict=True):
                if gallery.accepts(sample):
                    selection.offer(self._count, sample)
            self._requests[describe_wishes(sample)] += 1
            self._seeds.add(sample.request.seed)
            self._count += 1

    on_test_batch_end = on_predict_batch_end

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the page, after every callback has written what it shows."""
        if not trainer.is_global_zero:
            return
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        page = self._gather(trainer, pl_module, folder)
        write_atomically(folder / "report.html", render_page(page))
        rank_zero_info(f"report in {folder / 'report.html'}")

    on_test_end = on_predict_end

    def _gather(self, trainer: Trainer, module: LightningModule, folder: Path) -> Page:
        evaluators = [
            evaluator for callback in trainer.callbacks  # type: ignore[attr-defined]
            if isinstance(callback, Evaluation) and callback.estimates for evaluator in callback.evaluators
        ]
        stage = str(trainer.state.fn.value) if trainer.state.fn else ""
        saved = [folder / "config.yaml", folder / f"config-{stage}.yaml"]
        return Page(
            title=self.title or folder.resolve().name,
            stage=stage,
            summary=self._summarise(),
            version=__version__,
            date=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
            facts=self._state_facts(trainer, module),
            configurations=[(path.name, path.read_text(encoding="utf-8")) for path in saved if path.exists()],
            metrics=tabulate_metrics(folder / "metrics.json", evaluators),
            galleries=self._show_samples(read_flags(folder / "rows.csv") if evaluators else {}),
            histograms=draw_histograms(evaluators),
            losses=draw_losses(folder, trainer.ckpt_path),
            gallery_note="No gallery shows these samples." if self._count else "The run gave no samples.",
        )

    def _summarise(self) -> str:
        kinds = [
            f"{selection.count:,} {gallery.title.lower()}"
            for gallery, selection in zip(self.galleries, self._selections, strict=True) if selection.count
        ]
        return f"{self._count:,} sample{'' if self._count == 1 else 's'}" + (f": {', '.join(kinds)}." if kinds else ".")

    def _state_facts(self, trainer: Trainer, module: LightningModule) -> list[tuple[str, str]]:
        requests = [f"{count:,} × {wishes}" for wishes, count in self._requests.most_common(MAX_REQUESTS)]
        if len(self._requests) > MAX_REQUESTS:
            requests.append(f"{len(self._requests) - MAX_REQUESTS:,} other requests")
        packages = dict.fromkeys([*PACKAGES, *(name for gallery in self.galleries for name in gallery.packages)])
        facts = {
            "Command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
            "Checkpoint": str(trainer.ckpt_path or "none: the weights as they were in memory"),
            "Parameters": describe_parameters(module),
            "Requests": "; ".join(requests),
            "Seeds": describe_seeds(self._seeds),
            "Time": f"{time.monotonic() - self._start:,.1f} s with evaluation, on {trainer.strategy.root_device}",
            "Precision": str(trainer.precision),
            "Versions": ", ".join([f"polydit {__version__}", f"Python {python_version()}", *list_versions(packages)]),
        }
        return [(name, value) for name, value in facts.items() if value]

    def _show_samples(self, flags: dict[int, list[Flag]]) -> list[GallerySection]:
        sections = []
        for gallery, selection in zip(self.galleries, self._selections, strict=True):
            chosen = selection.chosen()
            if not chosen:
                continue
            overview = gallery.overview([sample for _, sample in chosen])
            single = chosen[: gallery.alone]
            items = gallery.figures([sample for _, sample in single])
            cards = [make_card(item, index, sample.request.seed, flags.get(index, []))
                     for item, (index, sample) in zip(items, single, strict=True)]
            note = f"{len(chosen)} of {selection.count:,}, drawn at random and not picked."
            if len(chosen) == selection.count:
                note = f"All {len(chosen)}."
            if single and len(single) < len(chosen):
                note += f" The first {len(single)} also one by one."
            if any(card.figure for card in cards):
                note += " Drag to turn."
            picture = (encode_picture(overview[0]), overview[1]) if overview is not None else ("", "")
            sections.append(GallerySection(gallery.title, note, cards, *picture))
        return sections


def describe_wishes(sample: Sample) -> str:
    """The wishes of a sample's request on one line."""
    wishes = {name: value for name, value in sample.request.wishes.items() if value is not None}
    return ", ".join(f"{name} = {json.dumps(value, default=str)}" for name, value in wishes.items()) or "anything"


def describe_seeds(seeds: set[int]) -> str:
    """A range of consecutive seeds, or how many there are and where they lie."""
    if not seeds:
        return ""
    low, high = min(seeds), max(seeds)
    text = str(low) if low == high else f"{low} to {high}"
    return text if high - low + 1 == len(seeds) else f"{len(seeds):,} between {low} and {high}"


def list_versions(packages: Any) -> list[str]:
    """Name and version of those distributions that are installed."""
    versions = []
    for name in packages:
        try:
            versions.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return versions


def make_card(item: GalleryItem, index: int, seed: int, flags: list[Flag]) -> Card:
    """Card of an item, its figure as text of the page."""
    content: dict[str, str]
    if isinstance(item.figure, bytes):
        content = {"image": encode_picture(item.figure)}
    elif isinstance(item.figure, str):
        content = {"poster": item.figure}
    else:
        content = {"figure": encode_figure(item.figure), "poster": item.poster}
    return Card(item.title, item.caption, index, seed, flags, **content)


def encode_picture(png: bytes) -> str:
    """Data address of a PNG."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def read_flags(path: Path) -> dict[int, list[Flag]]:
    """Yes-or-no columns of each sample in ``rows.csv``, by position in the run; a sample may have several rows.

    Columns with a slash are details (single tests of a battery, wishes) and left out.
    """
    flags: dict[int, list[Flag]] = {}
    if not path.exists():
        return flags
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if (row.get("index") or "").isdigit():
                found = [Flag(name.replace("_", " "), value == "True") for name, value in row.items()
                         if value in ("True", "False") and "/" not in name]
                flags.setdefault(int(row["index"]), []).extend(found)
    return flags


def tabulate_metrics(path: Path, evaluators: list[Evaluator]) -> list[MetricGroup]:
    """The numbers of ``metrics.json`` as text, grouped by what stands before their first slash."""
    if not path.exists():
        return []
    meanings: dict[str, str] = {}
    for evaluator in evaluators:
        meanings |= evaluator.descriptions()
    groups: dict[str, list[MetricLine]] = {}
    for name, estimate in read_metrics(path).items():
        group, _, short = name.partition("/") if "/" in name else ("", "", name)
        groups.setdefault(group.replace("_", " "), []).append(
            format_metric(short.replace("_", " "), estimate, meanings.get(name, ""))
        )
    return [MetricGroup(name, metrics) for name, metrics in groups.items()]


def format_metric(name: str, estimate: Estimate, meaning: str) -> MetricLine:
    """One number as text, to four decimals or four digits."""
    interval = "–" if math.isnan(estimate.low) else f"{format_number(estimate.low)} – {format_number(estimate.high)}"
    return MetricLine(
        name, "none" if math.isnan(estimate.value) else format_number(estimate.value), interval, f"{estimate.count:,}",
        draw_interval(estimate), meaning,
    )


def format_number(value: float) -> str:
    """Three decimals up to a hundred in size, so that columns align; fewer digits would hide, more would pretend."""
    return f"{value:.3f}" if 5e-4 <= abs(value) < 100 or value == 0 else f"{value:.4g}"


def draw_histograms(evaluators: list[Evaluator]) -> list[Chart]:
    """Charts of all distributions that evaluators give."""
    charts = []
    for evaluator in evaluators:
        for name, (samples, reference) in evaluator.histograms().items():
            figure = plot_histogram(samples, reference)
            if figure is not None:
                charts.append(Chart(name, encode_figure(figure)))
    return charts


def draw_losses(folder: Path, checkpoint: Any) -> list[Chart]:
    """Charts of the trainings found in the run folder and in the run folder of the checkpoint."""
    folders = [folder]
    if checkpoint:
        home = Path(checkpoint).parent
        folders.append(home.parent if home.name == "checkpoints" else home)
    charts = []
    for losses in find_losses(folders):
        for heading, figure in plot_losses(losses):
            charts.append(Chart(f"{heading} ({losses.title})" if losses.title else heading, encode_figure(figure)))
    return charts
