import csv
import json
from dataclasses import dataclass

import pytest
from pytorch_lightning import LightningDataModule, LightningModule, Trainer
from torch.utils.data import DataLoader

from polydit.platform.errors import ConfigurationError, DataError
from polydit.platform.evaluation.callback import Evaluation, read_metrics, write_metrics
from polydit.platform.evaluation.evaluator import Evaluator
from polydit.platform.evaluation.statistics import Estimate, estimate_mean, estimate_share
from polydit.platform.evaluation.writer import SampleWriter, Writer
from polydit.platform.requests import Request, Sample


class Numbers(LightningDataModule):
    """Numbers to hold out and numbers to ask for."""

    def __init__(self, missing=False):
        super().__init__()
        self.missing = missing

    def reference(self):
        if self.missing:
            raise DataError("no numbers here: give some")
        return 10

    def test_dataloader(self):
        return [DataLoader([1, 2], collate_fn=list), self.predict_dataloader()]

    def predict_dataloader(self):
        requests = [Request(seed, {"size": size}) for seed, size in ((5, 3), (6, 30), (7, 4))]
        return DataLoader(requests, batch_size=2, collate_fn=list)


@dataclass
class Held:
    """An output that is no sample."""

    number: int


class Echo(LightningModule):
    """Answers requests with the number that was asked for."""

    def test_step(self, batch, batch_idx, dataloader_idx=0):
        if isinstance(batch[0], Request):
            return self.predict_step(batch, batch_idx)
        return [Held(number) for number in batch]

    def predict_step(self, batch, batch_idx, dataloader_idx=0):
        return [Sample(request, request.wishes["size"]) for request in batch]


class Sizes(Evaluator):
    """Mean and share of small numbers, among the outputs of one kind."""

    def __init__(self, kind, name):
        self.kind, self.name, self.limit = kind, name, None
        self.reset()

    def accepts(self, output):
        return isinstance(output, self.kind)

    def prepare(self, datamodule):
        self.limit = datamodule.reference()

    def reset(self):
        self.values = []

    def update(self, outputs):
        self.values += [output.item if isinstance(output, Sample) else output.number for output in outputs]

    def compute(self):
        found = {f"{self.name}/mean": estimate_mean(self.values)}
        if self.limit is not None:
            small = sum(value < self.limit for value in self.values)
            found[f"{self.name}/small"] = estimate_share(small, len(self.values))
        return found

    def rows(self):
        return [{f"{self.name} value": value} for value in self.values]


def make_trainer(folder, evaluation):
    return Trainer(
        accelerator="cpu", default_root_dir=folder, callbacks=[evaluation], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )


def read_rows(folder):
    with (folder / "rows.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_outputs_go_to_the_evaluators_that_accept_them(tmp_path, capsys):
    evaluation = Evaluation([Sizes(Sample, "asked"), Sizes(Held, "held")])
    make_trainer(tmp_path, evaluation).test(Echo(), Numbers(), verbose=False)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert set(metrics) == {"asked/mean", "asked/small", "held/mean", "held/small"}
    assert metrics["asked/small"] == estimate_share(2, 3).to_dict()
    assert metrics["held/mean"]["value"] == 1.5
    rows = read_rows(tmp_path)
    assert [(r["output"], r["index"], r["seed"], r["request/size"], r["asked value"]) for r in rows[:3]] == [
        ("sample", "0", "5", "3", "3"), ("sample", "1", "6", "30", "30"), ("sample", "2", "7", "4", "4"),
    ]
    assert [(r["output"], r["held value"], r["seed"]) for r in rows[3:]] == [("held", "1", ""), ("held", "2", "")]
    assert "asked/small" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_a_second_run_starts_anew_and_keeps_other_numbers(tmp_path):
    write_metrics(tmp_path / "metrics.json", {"older/number": Estimate(0.5, 2), "asked/mean": Estimate(99.0, 1)})
    evaluation = Evaluation([Sizes(Sample, "asked")])
    for _ in range(2):
        make_trainer(tmp_path, evaluation).predict(Echo(), Numbers())
    metrics = read_metrics(tmp_path / "metrics.json")
    assert metrics["older/number"].value == 0.5
    assert metrics["asked/mean"].count == 3
    assert len(read_rows(tmp_path)) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.json", "rows.csv"]


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_without_reference_data_the_rest_is_still_measured(tmp_path):
    evaluation = Evaluation([Sizes(Sample, "asked")])
    with pytest.warns(UserWarning, match="Sizes leaves out .*no numbers here"):
        make_trainer(tmp_path, evaluation).predict(Echo(), Numbers(missing=True))
    assert set(read_metrics(tmp_path / "metrics.json")) == {"asked/mean"}


def test_a_file_that_holds_no_metrics_is_not_overwritten(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text("[1, 2]")
    with pytest.raises(ConfigurationError, match="move it away"):
        write_metrics(path, {"a": Estimate(1.0, 1)})
    assert path.read_text() == "[1, 2]"


class Doubler(Sizes):
    """Makes numbers of its own, a file each."""

    def __init__(self, folder="doubled/numbers", fails=False):
        super().__init__(Sample, "asked")
        self.folder, self.fails = folder, fails

    def write(self, folder, heads):
        assert list(folder.iterdir()) == []
        paths = []
        for head, value in zip(heads, self.values, strict=True):
            if self.fails and paths:
                raise OSError("disk full")
            paths.append(folder / "deep" / f"{head['index']}-{head['seed']}")
            paths[-1].parent.mkdir(exist_ok=True)
            paths[-1].write_text(str(2 * value))
        return paths


class TextWriter(Writer):
    """The samples themselves, in one file."""

    def write(self, samples, folder, start=0):
        with (folder / "numbers").open("a") as file:
            file.writelines(f"{sample.item}\n" for sample in samples)
        return [folder / "numbers"]


def list_files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def run_callbacks(folder, *callbacks, requests=Numbers):
    trainer = Trainer(
        accelerator="cpu", default_root_dir=folder, callbacks=list(callbacks), logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.predict(Echo(), requests())


OWN = ["samples/doubled/numbers/deep/0-5", "samples/doubled/numbers/deep/1-6", "samples/doubled/numbers/deep/2-7",
       "samples/doubled/numbers/manifest.json"]
SAMPLES = ["samples/manifest.json", "samples/numbers"]


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_what_evaluators_make_stands_beside_the_samples_and_goes_with_them(tmp_path):
    for first in (True, False):  # in whatever order the callbacks stand
        callbacks = [SampleWriter([TextWriter()]), Evaluation([Doubler()])]
        run_callbacks(tmp_path, *(callbacks if first else callbacks[::-1]))
        assert list_files(tmp_path) == ["metrics.json", "rows.csv", *sorted(OWN + SAMPLES)]
        assert (tmp_path / OWN[1]).read_text() == "60"
    (tmp_path / "samples" / "doubled" / "note").write_text("of the user's")
    run_callbacks(tmp_path, SampleWriter([TextWriter()]), Evaluation([Sizes(Sample, "asked")]))
    assert list_files(tmp_path / "samples") == ["doubled/note", "manifest.json", "numbers"]
    assert sorted(path.name for path in (tmp_path / "samples" / "doubled").iterdir()) == ["note"]


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_an_evaluator_that_stops_midway_leaves_no_half_among_the_samples(tmp_path):
    run_callbacks(tmp_path, SampleWriter([TextWriter()]), Evaluation([Doubler()]))
    with pytest.raises(OSError, match="disk full"):
        run_callbacks(tmp_path, SampleWriter([TextWriter()]), Evaluation([Doubler(fails=True)]))
    assert list_files(tmp_path / "samples") == ["manifest.json", "numbers"]
    assert list_files(tmp_path / "samples.doubled.numbers.partial") == ["deep/0-5"]
    run_callbacks(tmp_path, SampleWriter([TextWriter()]), Evaluation([Doubler()]))
    assert set(OWN) <= set(list_files(tmp_path))
    assert list_files(tmp_path / "samples.doubled.numbers.interrupted-1") == ["deep/0-5"]


def test_folders_of_evaluators_are_their_own_and_inside():
    with pytest.raises(ConfigurationError, match="2 evaluators write into the folder 'a'"):
        Evaluation([Doubler("a"), Doubler("b"), Doubler("a")])
    for folder in ("../a", "/a"):
        with pytest.raises(ConfigurationError, match="leads out of the samples"):
            Evaluation([Doubler(folder)])
