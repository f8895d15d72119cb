"""Checkpoints of a run folder: the last, and the best by a metric."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.trainer.states import TrainerFn

from ..errors import ConfigurationError
from ..explanations import suggest
from ..runs import BEST, CHECKPOINTS, LAST


class RunCheckpoint(Checkpoint):
    """Keep ``checkpoints/last.ckpt`` of the run folder up to date and, of a watched metric, ``best.ckpt``.

    Beside the regular saves, the last step of a fit is saved while its loop still stands at that step, so that a fit
    with more steps continues from it exactly; Lightning's own callback misses that step.

    Args:
        every_n_steps: optimizer steps between saves.
        monitor: a validation metric, such as ``val/loss``; its best checkpoint is kept too. None: only the last.
        mode: whether the smallest or the largest value of `monitor` is best.
    """

    def __init__(
        self, every_n_steps: int = 500, monitor: str | None = None, mode: Literal["min", "max"] = "min"
    ) -> None:
        if every_n_steps < 1:
            raise ConfigurationError(f"checkpoint.every_n_steps must be at least 1, not {every_n_steps}")
        self.every_n_steps = every_n_steps
        self.monitor = monitor
        self.mode = mode
        self.best: float | None = None
        self._step = 0
        self._saved_step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember where training starts: there is nothing to save yet."""
        self._step = self._saved_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save on a round step, and on the last one."""
        complete, self._step = trainer.global_step != self._step, trainer.global_step
        due = self._step % self.every_n_steps == 0 or self._step == trainer.max_steps or trainer.should_stop
        if complete and due:
            self._save(trainer, LAST)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save after the last epoch, if its last step was not."""
        if trainer.current_epoch + 1 == trainer.max_epochs and self._saved_step != trainer.global_step:
            self._save(trainer, LAST)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the best checkpoint."""
        if self.monitor is None or trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        if self.monitor not in trainer.callback_metrics:
            raise ConfigurationError(
                f"checkpoint.monitor {self.monitor!r} is not among the validation metrics. "
                f"{suggest(self.monitor, trainer.callback_metrics)}"
            )
        value = float(trainer.callback_metrics[self.monitor])
        if self.best is None or (value < self.best if self.mode == "min" else value > self.best):
            self.best = value
            self._save(trainer, BEST)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Before averaging has begun, the weights are their own average."""
        if checkpoint.get("averaging_state", {}).get("n_averaged") == 0:
            checkpoint["state_dict"] = checkpoint["current_model_state"]

    def state_dict(self) -> dict[str, Any]:
        """The best value so far."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from the best value so far."""
        self.best = state_dict["best"]

    def _save(self, trainer: Trainer, name: str) -> None:
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            trainer.save_checkpoint(Path(trainer.default_root_dir) / CHECKPOINTS / name, weights_only=False)
            if name == LAST:
                self._saved_step = trainer.global_step
