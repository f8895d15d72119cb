"""Writing samples to files while they are generated, so that nothing that was generated is lost."""

from __future__ import annotations

import json
import os
import shutil
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_info

from ..errors import ConfigurationError
from ..requests import Sample

MANIFEST = "manifest.json"
"""File in the samples folder that lists what the last finished run wrote there."""


class Writer(ABC):
    """Writes samples of one kind in a format of their field."""

    @abstractmethod
    def write(self, samples: list[Sample], folder: Path, start: int = 0) -> list[Path]:
        """Add samples to what earlier batches of the same run wrote into `folder`.

        Samples of another kind are left to other writers. After every call the files must be complete and readable.

        Args:
            samples: samples of one batch.
            folder: where to write; exists.
            start: position of the first sample in the run, counted over all kinds.

        Returns:
            The files written or extended.
        """


class SampleWriter(Callback):
    """Writes the samples of `predict` and `test` into ``<run>/samples/`` or another folder, batch by batch.

    Batches go to ``<run>/samples.partial/``. When the run has finished, each file moves to ``samples/`` in one step and
    files of an earlier run that have no successor are removed; files that no run wrote stay. A run that stops midway
    leaves all it generated in ``samples.partial/`` and the earlier ``samples/`` as it was; the next run first moves
    such a folder aside to ``samples.interrupted-1/`` (or the next free number).

    Args:
        writers: one per format.
        folder: name of the folder within the run's.

    Raises:
        ConfigurationError: if the folder is a path, or the trainer runs on more than one device.
    """

    def __init__(self, writers: list[Writer], folder: str = "samples") -> None:
        if folder in ("", ".", "..") or Path(folder).name != folder:
            raise ConfigurationError(f"folder {folder!r} must be one plain name, for it lies in the run's folder")
        self.writers = writers
        self.folder = folder
        self._count = 0
        self._files: dict[Path, None] = {}
        self._staging: Path | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse to write from several processes into one folder."""
        if stage in ("test", "predict") and trainer.world_size > 1:
            raise ConfigurationError(
                f"samples are written from 1 process, but the trainer has {trainer.world_size}: "
                f"run {stage} with --trainer.devices 1 --trainer.num_nodes 1"
            )

    def on_predict_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start anew."""
        self._count, self._files, self._staging = 0, {}, None

    on_test_epoch_start = on_predict_epoch_start

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write the samples of a batch; other outputs, such as reconstructions, are not samples."""
        samples = [output for output in outputs or () if isinstance(output, Sample)]
        if not samples:
            return
        if self._staging is None:
            self._staging = open_staging(Path(trainer.default_root_dir), self.folder)
        for writer in self.writers:
            for path in writer.write(samples, self._staging, self._count):
                self._files[path.relative_to(self._staging)] = None
        self._count += len(samples)

    on_test_batch_end = on_predict_batch_end

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Move the finished files to their place."""
        if self._staging is None:
            return
        folder = Path(trainer.default_root_dir) / self.folder
        publish(self._staging, folder, list(self._files), self._count)
        self._staging = None
        rank_zero_info(f"{self._count} samples in {folder}")

    on_test_epoch_end = on_predict_epoch_end

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Say where the samples of an interrupted run are."""
        if self._staging is not None:
            rank_zero_info(f"interrupted: the {self._count} samples generated so far are in {self._staging}")


def open_staging(run_folder: Path, name: str = "samples") -> Path:
    """New empty folder ``<name>.partial`` in a run folder; what an interrupted run left there is moved aside."""
    staging = run_folder / f"{name}.partial"
    if staging.exists():
        number = 1
        while (aside := run_folder / f"{name}.interrupted-{number}").exists():
            number += 1
        staging.rename(aside)
        rank_zero_info(f"samples of an interrupted run are now in {aside}")
    staging.mkdir(parents=True)
    return staging


def publish(staging: Path, folder: Path, files: list[Path], count: int) -> None:
    """Move finished `files` (relative paths) from `staging` to `folder` and remove what only an earlier run wrote.

    Folders below that have a manifest of their own hold what was made of the samples that were here before (see
    `polydit.platform.evaluation.evaluator.Evaluator.write`), and go with them.

    Args:
        staging: folder that holds the files; removed at the end.
        folder: destination, made if missing.
        files: paths relative to both folders.
        count: number of samples, for the manifest.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stale = read_manifest(folder) - set(files)
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (staging / file).replace(folder / file)
    for file in stale:
        (folder / file).unlink(missing_ok=True)
    for manifest in list(folder.glob(f"*/**/{MANIFEST}")):
        _withdraw(manifest.parent, folder)
    write_atomically(
        folder / MANIFEST, json.dumps({"count": count, "files": sorted(file.as_posix() for file in files)}, indent=1)
    )
    shutil.rmtree(staging)


def _withdraw(folder: Path, root: Path) -> None:
    """Remove what a finished run published in `folder`, and the folders up to `root` that this leaves empty."""
    files = [folder / file for file in read_manifest(folder)]
    for file in [*files, folder / MANIFEST]:
        file.unlink(missing_ok=True)
        for parent in file.parents:
            if parent == root or (parent.is_dir() and any(parent.iterdir())):
                break
            if parent.is_dir():
                parent.rmdir()


def read_manifest(folder: Path) -> set[Path]:
    """Relative paths that the last finished run wrote into `folder`; none that lead outside it."""
    manifest = folder / MANIFEST
    if not manifest.exists():
        return set()
    paths = {Path(name) for name in json.loads(manifest.read_text(encoding="utf-8"))["files"]}
    return {path for path in paths if not path.is_absolute() and ".." not in path.parts}


def write_atomically(path: Path, text: str) -> None:
    """Replace the file at `path` by `text` in one step, so that no reader ever sees half of it."""
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
