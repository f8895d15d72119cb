"""The commands over Lightning: fit, validate, test, predict by one configuration, and export."""

from __future__ import annotations

import argparse
import json
import logging
import signal
import threading
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError
from pytorch_lightning import LightningDataModule, Trainer
from pytorch_lightning.cli import ArgsType, LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import CSVLogger, Logger
from pytorch_lightning.plugins import CheckpointIO
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from . import checkpoints
from .callbacks import AveragedStatistics, RunCheckpoint, StepSeeds, StopOnNaN, StopOnSignal, StoppedError
from .errors import CheckpointError, ConfigurationError, UserError, missing_extra
from .explanations import explain
from .module import GenerativeModule
from .runs import CHECKPOINTS, LAST, choose_folder, config_path, find_checkpoint, set_aside
from .storage import AtomicCheckpointIO, as_disk_error, atomic_path, read_checkpoint

EXPECTED_WARNINGS = (
    ".*does not have many workers.*",  # small data is faster without
    ".*loading a checkpoint outside the 'fit' stage.*",  # the averaged weights are what we want there
    ".*smaller than the logging interval.*",
    r"(?s).*JsonargparseDeprecationWarning",
    r"(?s).*instantiate_classes.* was deprecated",  # Lightning 2.6 under jsonargparse 4.49
    ".*isinstance.treespec, LeafSpec.*",  # Lightning 2.6 about itself under torch 2.13
    ".*Total length of `.*` across ranks is zero.*",  # a set without a validation split
    ".*in eval mode at the start of training.*",  # a frozen first stage is meant to be
)


class PolyditCLI(LightningCLI):
    """One parser for every stage, so that the same configuration serves fit, validate, test and predict.

    Args:
        stage: ``fit``, ``validate``, ``test`` or ``predict``.
        arguments: words after ``polydit <stage>``.
    """

    def __init__(self, stage: str, arguments: list[str]) -> None:
        self.stage = stage
        self.files: list[Path] = []
        super().__init__(
            GenerativeModule,
            LightningDataModule,
            subclass_mode_data=True,
            save_config_callback=None,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            parser_kwargs={
                "prog": f"polydit {stage}",
                "description": "Options may also be written in YAML files, given by --config; later ones win.",
                "exit_on_error": False,
                "allow_abbrev": False,  # else --trainer.max_epoch would be taken, unseen, for max_epochs
            },
            args=arguments,
            run=False,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Options beside those of the model, the data and the trainer."""
        parser.add_argument(
            "--run",
            type=str | None,
            default=None,
            help="Name (demo is runs/demo) or path of the run folder; default: runs/<name of the configuration>.",
        )
        parser.add_argument(
            "--ckpt_path",
            type=str | None,
            default=None,
            help="Checkpoint to continue or to evaluate: a path, or 'last' or 'best' of the run folder.",
        )
        parser.add_lightning_class_args(RunCheckpoint, "checkpoint")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse, and settle where the run lives; nothing has been built or read yet.

        Raises:
            ConfigurationError: for anything the parser refuses.
            CheckpointError: if the checkpoint cannot be read or is not ours.
        """
        words = args if isinstance(args, list) else []
        self.files = [Path(value) for value in _values_of(words, ("--config", "-c"))]
        try:
            self.config = parser.parse_args(words)
        except (ArgumentError, argparse.ArgumentError) as error:
            raise explain(error, parser, self.files) from error
        self.folder = choose_folder(self.config.run, self.files, self.config.ckpt_path)
        self.config.run = str(self.folder)
        self.ckpt_path = find_checkpoint(self.config.ckpt_path, self.folder)
        self.checkpoint: dict[str, Any] = {}
        if self.ckpt_path is not None:
            self.checkpoint = read_checkpoint(self.ckpt_path, mmap=True)
            checkpoints.read_metadata(self.checkpoint, self.ckpt_path)
            if self.stage == "fit" and "optimizer_states" not in self.checkpoint:
                raise CheckpointError(f"{self.ckpt_path} holds weights only: training continues from a full checkpoint")

    def instantiate_classes(self) -> None:
        """Build model, data and trainer.

        Raises:
            ConfigurationError: if a constructor refuses a value.
            CheckpointError: if the checkpoint is of another model.
        """
        try:
            super().instantiate_classes()
        except UserError:
            raise
        except (ValueError, OSError, ImportError, MisconfigurationException) as error:
            missing = missing_extra(error.name or "") if isinstance(error, ImportError) else None
            hint = " (POLYDIT_TRACEBACK=1 in the environment shows where this was noticed)"
            raise missing or ConfigurationError(f"{error}{hint}") from error
        self.model.config = json.loads(self.parser.dump(self.config, format="json", skip_unset=False))["model"]
        if self.ckpt_path is not None:
            checkpoints.check_weights(self.model, self.checkpoint["state_dict"], self.ckpt_path)
            self.checkpoint = {}

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The configured trainer, with what watches over every run."""
        config = {**self.config_init.get("trainer"), **kwargs}
        chosen = config.get("callbacks") or []
        callbacks = [*chosen] if isinstance(chosen, list) else [chosen]
        callbacks += [StepSeeds(int(self.config.get("seed_everything") or 0)), AveragedStatistics(), StopOnNaN()]
        if config.get("enable_checkpointing") is not False and not config.get("fast_dev_run"):
            callbacks += [StopOnSignal(), self.config_init.checkpoint]
        plugins = config.get("plugins") or []
        plugins = [*plugins] if isinstance(plugins, list) else [plugins]
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            plugins.append(AtomicCheckpointIO())
        config.update(callbacks=callbacks, plugins=plugins, default_root_dir=str(self.folder))
        config["logger"] = self._loggers(config.get("logger"), bool(config.get("fast_dev_run")))
        return Trainer(**config)

    def _loggers(self, chosen: Any, dry: bool) -> Any:
        """Loss curves go to logs/version_*/metrics.csv, a new one each time; configured loggers come on top."""
        if chosen is False or dry:
            return False
        extra = [chosen] if isinstance(chosen, Logger) else chosen if isinstance(chosen, list) else []
        return [CSVLogger(str(self.folder), name="logs"), *extra]

    def execute(self) -> None:
        """Run the stage."""
        dry = bool(self.trainer.fast_dev_run)  # type: ignore[attr-defined]
        if not dry:
            self._open_folder()
        run = getattr(self.trainer, self.stage)
        options: dict[str, Any] = {"datamodule": self.datamodule, "ckpt_path": self.ckpt_path and str(self.ckpt_path)}
        if self.stage == "predict":
            options["return_predictions"] = False  # callbacks write them batch by batch; all at once may not fit
        handler = signal.getsignal(signal.SIGINT)
        try:
            run(self.model, weights_only=True, **options)
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGINT, handler)  # Lightning leaves Ctrl-C ignored after one
        if not dry:
            self._say_where()

    @rank_zero_only
    def _open_folder(self) -> None:
        inside = self.ckpt_path is not None and self.folder.resolve() in self.ckpt_path.resolve().parents
        if self.stage == "fit" and not inside:
            moved = set_aside(self.folder)
            if moved is not None:
                print(f"The earlier run in {self.folder} is kept in {moved}")
        path = config_path(self.folder, self.stage)
        with atomic_path(path) as partial:
            partial.write_text(self.parser.dump(self.config, skip_unset=False), encoding="utf-8")
        print(f"Run folder: {self.folder} (this run again: polydit {self.stage} --config {path})", flush=True)

    @rank_zero_only
    def _say_where(self) -> None:
        last = self.folder / CHECKPOINTS / LAST
        if self.stage == "fit" and last.is_file():
            print(f"Checkpoint: {last} after step {self.trainer.global_step}; continue with --ckpt_path last")


def fit(arguments: list[str]) -> int:
    """``polydit fit``: train a model."""
    return _run("fit", arguments)


def validate(arguments: list[str]) -> int:
    """``polydit validate``: losses on the validation split."""
    return _run("validate", arguments)


def test(arguments: list[str]) -> int:
    """``polydit test``: losses and metrics on the test split."""
    return _run("test", arguments)


def predict(arguments: list[str]) -> int:
    """``polydit predict``: sample what the data module asks for."""
    return _run("predict", arguments)


def export(arguments: list[str]) -> int:
    """``polydit export``: write a checkpoint as safetensors and JSON."""
    parser = argparse.ArgumentParser("polydit export", description="Write a checkpoint as safetensors and JSON.")
    parser.add_argument("checkpoint", type=Path, help="a .ckpt file or a run folder")
    parser.add_argument("folder", type=Path, help="the folder to make; must not exist")
    options = parser.parse_args(arguments)
    folder = checkpoints.export(checkpoints.load(options.checkpoint), options.folder)
    print(f"Wrote {folder}: polydit.load('{folder}') reads it")
    return 0


def _run(stage: str, arguments: list[str]) -> int:
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(_is_no_advertisement)
    with warnings.catch_warnings():
        for pattern in EXPECTED_WARNINGS:
            warnings.filterwarnings("ignore", pattern)
        try:
            PolyditCLI(stage, arguments).execute()
        except SystemExit as error:
            # Lightning turns Ctrl-C into exit code 1; shells and schedulers expect 130.
            if isinstance(error.__context__, KeyboardInterrupt):
                raise StoppedError("stopped at once; an earlier checkpoint, if there is one, stands") from error
            raise
        except MisconfigurationException as error:
            raise ConfigurationError(str(error)) from error
        except FileNotFoundError as error:
            raise ConfigurationError(f"{error.filename or error} does not exist: check the path") from error
        except (OSError, RuntimeError) as error:
            full = as_disk_error(error)
            if full is None:
                raise
            raise full from error
    return 0


def _is_no_advertisement(record: logging.LogRecord) -> bool:
    return "litlogger" not in record.getMessage()


def _values_of(words: list[str], options: tuple[str, ...]) -> list[str]:
    """Values of an option that may come several times, as ``--config a`` or ``--config=a``."""
    values = [following for word, following in pairwise(words) if word in options]
    values += [word.partition("=")[2] for word in words if word.partition("=")[0] in options and "=" in word]
    return values
