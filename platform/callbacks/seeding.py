"""Random state that follows from the step."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer


class StepSeeds(Callback):
    """Seed torch's global generator before every training step from (seed, step).

    What draws from it (dropout, a plug-in's own noise) then gives the same numbers in a resumed run as in one that was
    never interrupted, however often validation ran in between; no random state has to be saved. A batch is known by its
    place among those of all processes, as in `GenerativeModule`.

    Args:
        seed: seed of the run.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Seed the step."""
        place = batch_idx * trainer.world_size + trainer.global_rank
        key = f"{self.seed}/0/{trainer.current_epoch}/{place}".encode()
        torch.manual_seed(int.from_bytes(hashlib.blake2b(key, digest_size=7).digest(), "little"))
