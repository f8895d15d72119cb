"""What several processes are tested with: a record of every loss, shared points, and what befalls one of them."""

from __future__ import annotations

import json
import os
import signal
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import TensorDataset

from polydit.data.batching import BucketBatchSampler, ResumableDataLoader

from .tiny_system import TinyDataModule, TinySystem


class LossCurve(Callback):
    """Writes the loss of every batch of this process as a line of ``<run folder>/losses-<process>.jsonl``."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # Lightning has divided the loss by the number of batches that it accumulates.
        loss = float(outputs["loss"]) * trainer.accumulate_grad_batches
        # The step that a batch belongs to counts as done only with its last batch.
        step = trainer.global_step - (not trainer.fit_loop._should_accumulate())
        with (Path(trainer.default_root_dir) / f"losses-{trainer.global_rank}.jsonl").open("a") as file:
            print(json.dumps([step, loss]), file=file)


def read_curve(folder: Path) -> list[float]:
    """Mean loss of each step over everything that any process, or any accumulated batch, contributed to it."""
    steps = defaultdict(list)
    for path in sorted(folder.glob("losses-*.jsonl")):
        for line in path.read_text().splitlines():
            step, loss = json.loads(line)
            steps[step].append(loss)
    assert sorted(steps) == list(range(len(steps)))
    assert len({len(losses) for losses in steps.values()}) == 1
    return [sum(losses) / len(losses) for _, losses in sorted(steps.items())]


class SharedDataModule(TinyDataModule):
    """The tiny points, dealt to the processes of the run.

    Args:
        count, batch_size, requests: see `TinyDataModule`.
        shuffle: False deals them in stored order.
    """

    def __init__(
        self, count: int = 24, batch_size: int = 4, requests: list[dict[str, Any]] | None = None, shuffle: bool = True
    ) -> None:
        super().__init__(count, batch_size, requests)
        self.shuffle = shuffle

    def train_dataloader(self) -> ResumableDataLoader:
        trainer = self.trainer
        sampler = BucketBatchSampler(
            [1] * self.count, self.batch_size, shuffle=self.shuffle, bucket=False, seed=3,
            num_replicas=1 if trainer is None else trainer.world_size,
            rank=0 if trainer is None else trainer.global_rank,
        )  # fmt: skip
        return ResumableDataLoader(TensorDataset(self.points("train")), sampler=sampler, batch_size=None)


class SignalledSystem(TinySystem):
    """Sends one of the processes a signal in the middle of one step.

    Args:
        network: what is trained.
        call: the call of `losses` in training during which it comes.
        number: of the signal.
        rank: the process that gets it; None: all.
    """

    def __init__(self, network: Any, call: int = 6, number: int = int(signal.SIGINT), rank: int | None = None) -> None:
        super().__init__(network)
        self.calls = 0
        self.call = call
        self.number = number
        self.rank = rank

    def losses(self, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:
        self.calls += self.training
        if self.training and self.calls == self.call and self.rank in (None, int(os.environ.get("LOCAL_RANK", 0))):
            os.kill(os.getpid(), self.number)
        return super().losses(batch, generator)


class HalfNaNSystem(TinySystem):
    """Loses the loss of the second process at one step.

    Args:
        network: what is trained.
        bad_call: the call of `losses` in training that returns NaN there.
    """

    def __init__(self, network: Any, bad_call: int = 6) -> None:
        super().__init__(network)
        self.calls = 0
        self.bad_call = bad_call

    def losses(self, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:
        losses = super().losses(batch, generator)
        self.calls += self.training
        lost = self.calls >= self.bad_call and os.environ.get("LOCAL_RANK") == "1"
        return {name: loss * (float("nan") if lost else 1.0) for name, loss in losses.items()}
