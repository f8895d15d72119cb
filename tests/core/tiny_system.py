"""A system and a data module small enough to train in milliseconds, with everything that makes resuming hard: dropout,
statistics from the data (one of them whole-numbered), noise, shuffling."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from typing import Any

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from polydit.data.batching import BucketBatchSampler, ResumableDataLoader
from polydit.platform.requests import Request, Sample, expand_requests
from polydit.platform.systems.system import System


class TinyNetwork(nn.Module):
    """Two layers with dropout.

    Args:
        width: of the hidden layer.
        dropout: probability.
    """

    def __init__(self, width: int = 4, dropout: float = 0.2) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"width must be at least 1, not {width}")
        self.layers = nn.Sequential(nn.Linear(2, width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, 2))


class TinySystem(System):
    """Predicts clean points from noisy ones.

    Args:
        network: what is trained.
        noise: standard deviation.
    """

    def __init__(self, network: TinyNetwork, noise: float = 0.1) -> None:
        super().__init__()
        self.network = network
        self.noise = noise
        self.register_buffer("mean", torch.zeros(2))
        self.register_buffer("count", torch.tensor(0))

    def prepare(self, datamodule: Any) -> None:
        points = datamodule.points("train")
        self.mean.copy_(points.mean(dim=0))
        self.count.fill_(len(points))

    def losses(self, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:
        if int(self.count) == 0:
            raise RuntimeError("statistics are missing")
        x = batch[0] - self.mean
        noisy = x + self.noise * torch.randn(x.shape, generator=generator)
        square = (self.network.layers(noisy) - x).square().mean()
        return {"square": square, "loss": square}

    def generate(self, requests: Sequence[Request]) -> list[Sample]:
        samples = []
        for request in requests:
            noise = torch.randn(1, 2, generator=torch.Generator().manual_seed(request.seed))
            samples.append(Sample(request, (self.network.layers(noise) + self.mean)[0].detach().numpy()))
        return samples


class NaNSystem(TinySystem):
    """Loses its loss at one step.

    Args:
        network: what is trained.
        bad_call: the call of `losses` in training that returns NaN.
    """

    def __init__(self, network: TinyNetwork, bad_call: int = 7) -> None:
        super().__init__(network)
        self.calls = 0
        self.bad_call = bad_call

    def losses(self, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:
        losses = super().losses(batch, generator)
        self.calls += self.training
        factor = float("nan") if self.calls >= self.bad_call else 1.0
        return {name: loss * factor for name, loss in losses.items()}


class InterruptedSystem(TinySystem):
    """Receives a signal in the middle of one step, as from a keyboard or a scheduler.

    Args:
        network: what is trained.
        call: the call of `losses` in training during which it comes.
        number: of the signal.
        times: how often it comes.
    """

    def __init__(self, network: TinyNetwork, call: int, number: int = int(signal.SIGINT), times: int = 1) -> None:
        super().__init__(network)
        self.calls = 0
        self.call = call
        self.number = number
        self.times = times

    def losses(self, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:
        self.calls += self.training
        if self.training and self.calls == self.call:
            for _ in range(self.times):
                os.kill(os.getpid(), self.number)
                time.sleep(0.01)
        return super().losses(batch, generator)


class TinyDataModule(LightningDataModule):
    """Points in the plane.

    Args:
        count: of training points.
        batch_size: points in a batch.
        requests: what is sampled.
    """

    def __init__(self, count: int = 24, batch_size: int = 4, requests: list[dict[str, Any]] | None = None) -> None:
        super().__init__()
        self.count = count
        self.batch_size = batch_size
        self.requests = expand_requests(requests or [{"count": 3}])

    def points(self, split: str) -> Tensor:
        generator = torch.Generator().manual_seed(1 if split == "train" else 2)
        return torch.randn(self.count, 2, generator=generator) + 5.0

    def train_dataloader(self) -> ResumableDataLoader:
        sampler = BucketBatchSampler([1] * self.count, batch_size=self.batch_size, seed=3)
        return ResumableDataLoader(TensorDataset(self.points("train")), sampler=sampler, batch_size=None)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(TensorDataset(self.points("val")), batch_size=self.batch_size)

    def test_dataloader(self) -> list[DataLoader[Any]]:
        return [self.val_dataloader(), self.predict_dataloader()]

    def predict_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.requests, batch_size=2, collate_fn=list)
