"""What Lightning's averaging of weights leaves undone."""

from __future__ import annotations

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import WeightAveraging


class AveragedStatistics(Callback):
    """Give the averaged model the statistics that the system took from the data, and never average them.

    Lightning copies the model for averaging before the system has prepared its statistics, and averaging truncates
    whole numbers; buffers are therefore copied, not averaged.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Copy every buffer into the averaged model."""
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            average = callback._average_model if isinstance(callback, WeightAveraging) else None
            if average is not None:
                average.use_buffers = False
                for target, source in zip(average.module.buffers(), pl_module.buffers(), strict=True):
                    target.detach().copy_(source.detach())
