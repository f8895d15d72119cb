"""Stopping a run with nothing lost: on losses that are not finite, on Ctrl-C, at the end of a job."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from ..errors import RunError
from ..runs import CHECKPOINTS, LAST


class StoppedError(RunError):
    """The user or a scheduler stopped the run.

    Args:
        message: what stands, and how to go on.
        exit_code: the shell's code for the signal: 130 for Ctrl-C, 143 for termination.
    """

    def __init__(self, message: str, exit_code: int = 130) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class StopOnNaN(Callback):
    """Stop when the training loss is not finite, naming the step and the loss, and never save such weights.

    Args:
        every_n_steps: on an accelerator, steps between looks at the loss, since each look waits for the device; the
            step that is reported is exact all the same. On a CPU every step is looked at.
    """

    def __init__(self, every_n_steps: int = 25) -> None:
        self.every_n_steps = every_n_steps
        self._first: Tensor | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget an earlier run."""
        self._first = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note the first step whose loss is not finite, on the device."""
        # With several processes their mean, which the module has logged, so that all stop together.
        metrics = trainer.callback_metrics if trainer.world_size > 1 else {}
        loss = metrics.get("train/loss", outputs["loss"]).detach()
        if self._first is None:
            self._first = torch.full_like(loss, -1.0)
        newly_bad = ~torch.isfinite(loss) & (self._first < 0)
        self._first = torch.where(newly_bad, float(trainer.global_step), self._first)
        if loss.device.type == "cpu" or batch_idx % self.every_n_steps == 0:
            self._raise_if_bad(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Refuse to write weights that are not finite over the last good ones."""
        self._raise_if_bad(trainer)
        bad = [name for name, tensor in pl_module.named_parameters() if not torch.isfinite(tensor).all()]
        # Of sharded weights each process sees a part.
        if trainer.strategy.reduce_boolean_decision(bool(bad), all=False):
            self._stop(trainer, trainer.global_step, f"weight {(bad or ['of another process'])[0]}")

    def _raise_if_bad(self, trainer: Trainer) -> None:
        if self._first is not None and self._first >= 0:
            names = [
                name
                for name, value in sorted(trainer.callback_metrics.items())
                if "/" in name and not torch.isfinite(value)
            ]
            self._stop(trainer, int(self._first), f"loss {', '.join(names) or 'total'}")

    @staticmethod
    def _stop(trainer: Trainer, step: int, what: str) -> None:
        last = Path(trainer.default_root_dir) / CHECKPOINTS / LAST
        keeps = f"The last good checkpoint is {last}" if last.is_file() else "No checkpoint was written yet"
        raise RunError(
            f"training stopped at step {step}: {what} became NaN or infinite. {keeps}. Lower the learning rate "
            "(model.optimizer.init_args.lr), clip gradients (trainer.gradient_clip_val: 1.0) or use trainer.precision: "
            "32-true, then continue with --ckpt_path last"
        )


class StopOnSignal(Callback):
    """On Ctrl-C, or when a scheduler ends the job, finish the step, save ``last.ckpt`` and stop.

    An interrupt in the middle of an optimizer step would leave weights that belong to no step; waiting for its end
    keeps resuming exact. A second Ctrl-C stops at once and leaves the checkpoint that there is. Several processes stop
    after the same step, whichever of them the signal reached first.

    Args:
        every_n_steps: on an accelerator, steps between questions whether another process is to stop, since each waits
            for the device. On a CPU it is asked at every step.
    """

    def __init__(self, every_n_steps: int = 25) -> None:
        self.every_n_steps = every_n_steps
        self.requested = False
        self._terminated = False
        self._is_first = True
        self._previous: dict[int, Any] = {}
        self._step = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over Ctrl-C; before data workers start, so that they do not die of it."""
        self.requested = self._terminated = False
        self._is_first = trainer.is_global_zero
        if threading.current_thread() is threading.main_thread():
            self._previous = {signal.SIGINT: signal.signal(signal.SIGINT, self._request)}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember where training starts; with several processes, take over termination from Lightning too.

        Its handler, which it puts in place after `on_fit_start`, talks to the other processes from wherever the signal
        finds this one: in the middle of their exchange of gradients all would wait for one another.
        """
        self._step = trainer.global_step
        if trainer.world_size > 1 and threading.current_thread() is threading.main_thread():
            self._previous[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._terminate)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save and stop, once an optimizer step is complete."""
        complete, self._step = trainer.global_step != self._step, trainer.global_step
        if not complete or not self._is_due(trainer):
            return
        path = Path(trainer.default_root_dir) / CHECKPOINTS / LAST
        trainer.save_checkpoint(path, weights_only=False)
        raise StoppedError(
            f"stopped after step {trainer.global_step}, as asked. The checkpoint is {path}; continue with the same "
            "command and --ckpt_path last",
            exit_code=130 if self.requested else 143,
        )

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hand Ctrl-C back."""
        self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Hand Ctrl-C back; Lightning puts our handler in place once more, which from now on stops at once."""
        # Not the end of a job: the first of several processes is told of it when another has gone, and Lightning's own
        # handler would then wait for that one. Lightning takes ours away when it is done.
        self._previous.pop(signal.SIGTERM, None)
        self._restore()
        self.requested = True

    def _is_due(self, trainer: Trainer) -> bool:
        wanted = self.requested or self._terminated or trainer.received_sigterm
        if trainer.world_size == 1:
            return wanted
        asks = trainer.strategy.root_device.type == "cpu" or trainer.global_step % self.every_n_steps == 0
        return asks and trainer.strategy.reduce_boolean_decision(wanted, all=False)

    def _terminate(self, number: int, frame: Any) -> None:
        self._terminated = True

    def _request(self, number: int, frame: Any) -> None:
        if self.requested:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            raise KeyboardInterrupt
        self.requested = True
        if self._is_first:
            print("\nStopping after this step; press Ctrl-C again to stop at once.", file=sys.stderr, flush=True)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
