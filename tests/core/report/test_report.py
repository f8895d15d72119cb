"""The page says what was run and what came of it, whatever is missing, and is written only when it is complete."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import CSVLogger
from torch.utils.data import DataLoader

from polydit.platform.evaluation.callback import Evaluation
from polydit.platform.evaluation.evaluator import Evaluator, Histograms, Row
from polydit.platform.evaluation.gallery import Gallery, GalleryItem, SampleSelection
from polydit.platform.evaluation.report import Report, describe_seeds, format_metric, read_flags
from polydit.platform.evaluation.statistics import Estimate, estimate_share
from polydit.platform.requests import Request, Sample

from .pages import PageReader, assert_loads_nothing

pytestmark = [pytest.mark.filterwarnings("ignore:.*num_workers.*"), pytest.mark.filterwarnings("ignore:.*LeafSpec.*")]
PIXEL = bytes.fromhex("89504e470d0a1a0a0000000d4948445200000001000000010806000000")
NASTY = "<script>alert('x')</script> & \"ü\" ${7*7} {{ 7*7 }}"


class Words(Evaluator):
    """Judges words by their length."""

    def __init__(self) -> None:
        self.reset()

    def accepts(self, output: Any) -> bool:
        return isinstance(output, Sample)

    def reset(self) -> None:
        self.words: list[str] = []

    def update(self, outputs: Any) -> None:
        self.words += [output.item for output in outputs]

    def compute(self) -> dict[str, Estimate]:
        long = estimate_share(sum(len(word) > 1 for word in self.words), len(self.words))
        distance = Estimate(0.1234567, len(self.words))
        return {"words/long_enough": long, "words/distance": distance, "alone": Estimate(12345.6, 2)}

    def rows(self) -> list[Row]:
        return [{"long": len(word) > 1, "detail/x": True, "length": len(word)} for word in self.words]

    def histograms(self) -> Histograms:
        return {"Letters <b>": (np.array([len(word) for word in self.words], float), np.array([1.0, 2.0]))}

    def descriptions(self) -> dict[str, str]:
        return {"words/long_enough": "Share of words with two letters & more."}


class WordGallery(Gallery):
    """Shows words as a chart, an image or a drawing in turn."""

    title = "Words"
    packages = ("jinja2", "no-such-distribution")

    def accepts(self, sample: Sample) -> bool:
        return len(sample.item) != 3

    def figures(self, samples: list[Sample]) -> list[GalleryItem]:
        from plotly.graph_objects import Figure

        contents = (Figure({"data": [{"y": [1, 2]}]}), PIXEL, '<svg viewBox="0 0 1 1"><path d="M0 0"/></svg>')
        words = [sample.item for sample in samples]
        return [GalleryItem(word, f"caption of\n{word}", contents[i % 3]) for i, word in enumerate(words)]


class Echo(LightningModule):
    """Gives each request back as a sample, and nothing for an empty word."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Linear(10, 10)
        self.weight.bias.requires_grad_(False)

    def predict_step(self, batch: list[Request], batch_idx: int) -> list[Sample]:
        return [Sample(request, request.wishes["word"]) for request in batch if request.wishes["word"]]

    test_step = predict_step


def run(folder: Path, words: list[str], callbacks: list[Callback], stage: str = "predict") -> str:
    requests = [Request(seed, {"word": word}) for seed, word in enumerate(words, 5)]
    trainer = Trainer(
        default_root_dir=folder, logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu",
        callbacks=callbacks, enable_model_summary=False,
    )
    loader = DataLoader(requests, batch_size=2, collate_fn=list)  # type: ignore[arg-type]
    getattr(trainer, stage)(Echo(), loader)
    return (folder / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("stage", ["predict", "test"])
def test_full_page(tmp_path: Path, stage: str) -> None:
    (tmp_path / "config.yaml").write_text(f"seed_everything: 3 # {NASTY}\n")
    logger = CSVLogger(str(tmp_path), name="logs")
    logger.log_metrics({"train/loss": 0.5, "val/loss": 0.7}, 1)
    logger.save()
    words = ["a", NASTY, "bb", "ccc"]
    text = run(tmp_path, words, [Evaluation([Words()]), Report([WordGallery()], title=f"My {NASTY}")], stage)
    assert_loads_nothing(text)
    page = PageReader(text)
    for expected in (
        f"My {NASTY}", stage, "4 samples: 3 words.", "110 (100 trainable)", "5 to 8", "seed_everything: 3", "words",
        "long enough", "0.750", "0.301 – 0.954", "Share of words with two letters & more.", "1.235e+04", "0.123",
        f"caption of {NASTY}", "✓ long", "✗ long", "sample 2 · seed 7", "All 3.", "Letters <b>", "jinja2 3",
    ):
        assert expected in page.text, expected
    assert "no-such-distribution" not in page.text and "detail" not in page.text
    assert page.text.count(NASTY) >= 4 and "alert('x')" not in "".join(page.scripts[1:]).replace(NASTY, "")
    figures = [json.loads(script) for script in page.scripts if script.startswith("{")]
    assert len(figures) == 3  # one turning figure, one histogram, one loss
    assert {"train/loss", "val/loss"} <= {trace.get("name") for figure in figures for trace in figure["data"]}
    assert any(address.startswith("data:image/png;base64,iVBOR") for address in page.addresses)
    assert text.count("plotly.js v") >= 1 and len(text) < 6e6


def test_page_of_a_run_that_left_nothing_says_so(tmp_path: Path) -> None:
    page = PageReader(run(tmp_path, [""], [Report()]))
    for expected in (
        tmp_path.name, "0 samples.", "No config.yaml", "No metrics.json", "The run gave no samples", "No distributions",
        "No loss curve found", "none: the weights as they were in memory",
    ):
        assert expected in page.text, expected


def test_samples_without_a_gallery_are_counted(tmp_path: Path) -> None:
    assert "No gallery shows these samples." in PageReader(run(tmp_path, ["a"], [Report()])).text


def test_a_gallery_may_show_all_at_once_and_few_alone(tmp_path: Path) -> None:
    class Sheet(WordGallery):
        alone = 1

        def overview(self, samples: list[Sample]) -> tuple[bytes, str]:
            return PIXEL, f"all {len(samples)} & {NASTY}"

    text = run(tmp_path, ["a", "b", "dd"], [Report([Sheet()])])
    assert_loads_nothing(text)
    page = PageReader(text)
    for expected in (f"all 3 & {NASTY}", "All 3. The first 1 also one by one.", "sample 0 · seed 5"):
        assert expected in page.text, expected
    assert "sample 1" not in page.text
    assert any(address.startswith("data:image/png;base64,iVBOR") for address in page.addresses)


def test_earlier_page_stays_until_the_new_one_is_complete(tmp_path: Path) -> None:
    class Broken(WordGallery):
        def figures(self, samples: list[Sample]) -> list[GalleryItem]:
            raise ArithmeticError("cannot draw")

    first = run(tmp_path, ["a"], [Report()])
    with pytest.raises(ArithmeticError):
        run(tmp_path, ["b"], [Report([Broken()])])
    assert (tmp_path / "report.html").read_text() == first
    second = run(tmp_path, ["b", "bb"], [Report()])
    assert "2 samples." in PageReader(second).text
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_selection_is_uniform_and_repeats() -> None:
    counts = np.zeros(20)
    for seed in range(2000):
        selection = SampleSelection(5, seed)
        for index in range(20):
            selection.offer(index, Sample(Request(index), index))
        chosen = [index for index, _ in selection.chosen()]
        assert chosen == sorted(set(chosen)) and len(chosen) == 5 and selection.count == 20
        counts[chosen] += 1
    # Binomial(2000, 1/4): standard deviation 19.4; five of them for 20 positions.
    assert np.abs(counts - 500).max() < 97


def test_gallery_refuses_a_limit_that_shows_nothing() -> None:
    with pytest.raises(ValueError, match="at least 1, not 0"):
        WordGallery(limit=0)


def test_flags_come_from_the_rows_of_a_sample(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    assert read_flags(path) == {}
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([["output", "index", "valid_one", "n", "x/y"], ["sample", 3, True, 1, True],
                          ["sample", 3, "", 2, False], ["reconstruction", "", False, 3, True]])
    (flag,) = read_flags(path)[3]
    assert (flag.name, flag.value) == ("valid one", True)
    assert list(read_flags(path)) == [3]


@pytest.mark.parametrize(
    ("seeds", "text"), [(set(), ""), ({4}, "4"), ({4, 5, 6}, "4 to 6"), ({4, 9}, "2 between 4 and 9")]
)
def test_seeds_are_told_as_a_range(seeds: set[int], text: str) -> None:
    assert describe_seeds(seeds) == text


def test_number_that_was_not_counted_is_told_in_words() -> None:
    line = format_metric("novelty", Estimate(float("nan"), 0), "")
    assert (line.value, line.interval, line.count, line.bar) == ("none", "–", "0", "")
