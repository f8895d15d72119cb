"""Samples are on disk batch by batch, and a run that fails leaves an earlier one's files alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from torch.utils.data import DataLoader

from polydit.platform.errors import ConfigurationError
from polydit.platform.evaluation.writer import SampleWriter, Writer, publish, write_atomically
from polydit.platform.requests import Request, Sample


class TextWriter(Writer):
    """One line per sample in one file, and one file per sample."""

    def write(self, samples: list[Sample], folder: Path, start: int = 0) -> list[Path]:
        with (folder / "all.txt").open("a") as file:
            file.writelines(f"{sample.item}\n" for sample in samples)
        paths = []
        for index, sample in enumerate(samples, start):
            path = folder / "single" / f"{index}_{sample.item}.txt"
            path.parent.mkdir(exist_ok=True)
            path.write_text(str(sample.request.seed))
            paths.append(path)
        return [folder / "all.txt", *paths]


class Echo(LightningModule):
    """Gives each request back as a sample; stops at batch `stop` if there is one."""

    def __init__(self, stop: int | None = None, error: type[BaseException] = RuntimeError) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.stop, self.error = stop, error

    def predict_step(self, batch: list[Request], batch_idx: int) -> list[Any]:
        if batch_idx == self.stop:
            raise self.error
        return [Sample(request, request.wishes["word"]) for request in batch] + ["not a sample"]

    test_step = predict_step


def run(
    folder: Path, words: list[str], module: Echo | None = None, stage: str = "predict",
    into: tuple[str, ...] = ("samples",),
) -> None:
    requests = [Request(seed, {"word": word}) for seed, word in enumerate(words)]
    trainer = Trainer(
        default_root_dir=folder, logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu",
        callbacks=[SampleWriter([TextWriter()], name) for name in into], enable_model_summary=False,
    )
    loader = DataLoader(requests, batch_size=2, collate_fn=list)  # type: ignore[arg-type]
    getattr(trainer, stage)(module or Echo(), loader)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Lightning: no worker processes for a loader, and a name in torch that it imports.
pytestmark = [pytest.mark.filterwarnings("ignore:.*num_workers.*"), pytest.mark.filterwarnings("ignore:.*LeafSpec.*")]


@pytest.mark.parametrize("stage", ["predict", "test"])
def test_all_batches_end_in_the_samples_folder_in_order(tmp_path: Path, stage: str) -> None:
    run(tmp_path, list("abcde"), stage=stage)
    samples = tmp_path / "samples"
    assert (samples / "all.txt").read_text().split() == list("abcde")
    assert names(samples / "single") == ["0_a.txt", "1_b.txt", "2_c.txt", "3_d.txt", "4_e.txt"]
    assert (samples / "single" / "3_d.txt").read_text() == "3"
    manifest = json.loads((samples / "manifest.json").read_text())
    assert manifest["count"] == 5 and len(manifest["files"]) == 6
    assert names(tmp_path) == ["samples"]


def test_next_run_replaces_its_predecessor_and_nothing_else(tmp_path: Path) -> None:
    run(tmp_path, list("abcde"))
    (tmp_path / "samples" / "notes.txt").write_text("mine")
    run(tmp_path, ["x"])
    samples = tmp_path / "samples"
    assert (samples / "all.txt").read_text() == "x\n"
    assert names(samples / "single") == ["0_x.txt"]
    assert (samples / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_interrupted_run_keeps_both_what_it_made_and_what_was_there(tmp_path: Path, error: type[BaseException]) -> None:
    run(tmp_path, list("abc"))
    with pytest.raises((RuntimeError, SystemExit)):
        run(tmp_path, list("vwxyz"), Echo(stop=1, error=error))
    assert (tmp_path / "samples" / "all.txt").read_text().split() == list("abc")
    assert (tmp_path / "samples.partial" / "all.txt").read_text().split() == list("vw")
    for number in (1, 2):  # the next runs leave the rest of the failed ones as it is
        with pytest.raises((RuntimeError, SystemExit)):
            run(tmp_path, list("pqr"), Echo(stop=1, error=error))
        assert (tmp_path / f"samples.interrupted-{number}").is_dir()
    run(tmp_path, list("new"))
    assert (tmp_path / "samples" / "all.txt").read_text().split() == list("new")
    assert (tmp_path / "samples.interrupted-1" / "all.txt").read_text().split() == list("vw")


def test_run_without_samples_touches_nothing(tmp_path: Path) -> None:
    run(tmp_path, list("abc"))
    run(tmp_path, [])
    assert (tmp_path / "samples" / "all.txt").read_text().split() == list("abc")


def test_manifest_cannot_lead_outside_the_folder(tmp_path: Path) -> None:
    outside = tmp_path / "precious.txt"
    outside.write_text("kept")
    folder, staging = tmp_path / "samples", tmp_path / "staging"
    folder.mkdir()
    staging.mkdir()
    (folder / "manifest.json").write_text(json.dumps({"count": 1, "files": ["../precious.txt", str(outside)]}))
    publish(staging, folder, [], 0)
    assert outside.read_text() == "kept"


def test_several_processes_are_refused(tmp_path: Path) -> None:
    trainer = Trainer(
        default_root_dir=tmp_path, accelerator="cpu", devices=2, strategy="ddp_spawn", logger=False,
        enable_checkpointing=False,
    )
    with pytest.raises(ConfigurationError, match=r"1 process, but the trainer has 2.*devices 1"):
        SampleWriter([]).setup(trainer, Echo(), "predict")


def test_atomic_write_leaves_the_old_file_when_it_fails(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    write_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "new \ud800")  # a lone surrogate has no UTF-8
    assert path.read_text() == "old"
    assert names(tmp_path) == ["page.html"]


def test_writers_may_have_folders_of_their_own(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        run(tmp_path, ["a", "b", "c"], Echo(stop=1), into=("samples", "videos"))
    run(tmp_path, ["d"], into=("videos",))
    assert (tmp_path / "videos" / "all.txt").read_text() == "d\n" and (tmp_path / "samples.partial").is_dir()
    assert (tmp_path / "videos.interrupted-1" / "all.txt").read_text() == "a\nb\n"
    for name in ("", "a/b", ".."):
        with pytest.raises(ConfigurationError, match="one plain name"):
            SampleWriter([], name)
