"""The one LightningModule: it trains, tests and samples any `System`."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from typing import Any

import numpy as np
import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from pytorch_lightning.plugins import MixedPrecision, Precision
from pytorch_lightning.utilities import GradClipAlgorithmType, rank_zero_info
from torch import Tensor, nn

from .feedforwards.mixture import count_active_parameters
from .optimizers import group_parameters
from .requests import Request, Sample, expand_requests
from .systems.system import System

SCHEMA = 1
"""Version of the metadata that a checkpoint holds under ``"polydit"``."""


def adamw(parameters: Any) -> torch.optim.Optimizer:
    """AdamW at learning rate 1e-4 without weight decay, the usual setting of diffusion transformers."""
    return torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.0)


class GenerativeModule(LightningModule):
    """Trains and samples a `System` under Lightning.

    Every step draws its randomness from a generator seeded by (seed, step), so a resumed run continues to the same
    numbers as an uninterrupted one, and validation losses of two epochs differ by the weights alone. A batch is known
    by its place among those of all processes: n processes train to the numbers of one that accumulates n batches.

    Args:
        system: what is trained.
        optimizer: parameter groups (`group_parameters`) -> optimizer; default AdamW, 1e-4, no weight decay.
        lr_scheduler: optimizer -> scheduler, stepped once per optimizer step; None: constant learning rate.
        seed: seed of noise, times and augmentation. Data order has its own seed in the data module.

    Attributes:
        config: plain dict from which `polydit.build` makes this module again; saved in every checkpoint. Set by the
            command line and by `polydit.build`; None if the module was put together by hand.
    """

    def __init__(
        self,
        system: System,
        optimizer: OptimizerCallable = adamw,
        lr_scheduler: LRSchedulerCallable | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.system = system
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.seed = seed
        self.config: dict[str, Any] | None = None

    def setup(self, stage: str) -> None:
        """Let the system take its statistics from the training split."""
        datamodule = getattr(self.trainer, "datamodule", None)
        if stage != "fit" or datamodule is None:
            return
        # Without its trainer a data module yields all batches, so that every process takes the same statistics, and
        # the same as one process alone would.
        trainer, datamodule.trainer = datamodule.trainer, None
        try:
            self.system.prepare(datamodule)
        finally:
            datamodule.trainer = trainer

    def on_fit_start(self) -> None:
        """Say how much of a mixture of experts one token meets, which Lightning's summary does not."""
        if count_active_parameters(self) != count_parameters(self, trainable_only=False):
            rank_zero_info(f"Parameters: {describe_parameters(self)}")

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Total loss of a batch."""
        losses = self.system.losses(batch, self._generator(0, self.global_step, self._place(batch_idx)))
        self._log_losses("train", losses, batch)
        return losses["loss"]

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Log the held-out losses, with the same noise in every epoch."""
        generator = self._generator(1, self._place(batch_idx), dataloader_idx)
        self._log_losses("val", self.system.losses(batch, generator), batch)

    def test_step(  # type: ignore[override]  # callbacks read the items; Lightning passes any output on
        self, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> list[Any]:
        """Samples for a batch of requests; losses and reconstructions for a batch of held-out data."""
        if is_request_batch(batch):
            return self.system.generate(batch)
        generator = self._generator(2, self._place(batch_idx), dataloader_idx)
        self._log_losses("test", self.system.losses(batch, generator), batch)
        return self.system.reconstruct(batch)

    def predict_step(self, batch: Sequence[Request], batch_idx: int, dataloader_idx: int = 0) -> list[Sample]:
        """One sample per request."""
        return self.system.generate(batch)

    def configure_optimizers(self) -> Any:
        """The optimizer over trainable parameters, grouped, with its scheduler stepped per optimizer step."""
        optimizer = self.optimizer(group_parameters(self))
        if self.lr_scheduler is None:
            return optimizer
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self.lr_scheduler(optimizer), "interval": "step"},
        }

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip the gradients, under bf16 with fused optimizers too.

        Lightning refuses these because they unscale gradients by themselves; in bf16 no gradient is scaled.
        """
        plugin = self.trainer.precision_plugin
        if gradient_clip_val and isinstance(plugin, MixedPrecision) and plugin.scaler is None:
            algorithm = GradClipAlgorithmType(gradient_clip_algorithm or "norm")
            Precision.clip_gradients(plugin, optimizer, gradient_clip_val, algorithm)
        else:
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write the configuration into the checkpoint, so that it loads with no file beside it."""
        from polydit import __version__

        checkpoint["polydit"] = {"schema": SCHEMA, "version": __version__, "config": self.portable_config()}

    def portable_config(self) -> dict[str, Any] | None:
        """`config` without references to files of this machine."""
        if self.config is None:
            return None
        system = dict(self.config["system"])
        system["init_args"] = self.system.portable_config(dict(system.get("init_args", {})))
        return {**self.config, "system": system}

    @torch.no_grad()
    def sample(self, count: int = 1, seed: int = 0, **wishes: Any) -> list[Any]:
        """Samples as objects of the field's own library.

        Args:
            count: how many.
            seed: seed of the first sample; the others count up.
            **wishes: what is asked for, in the words of the domain, such as ``domain="crystal"``.
        """
        self.eval()
        requests = expand_requests([{"count": count, **wishes}], seed)
        return [self.system.present(sample.item) for sample in self.system.generate(requests)]

    def _place(self, batch_idx: int) -> int:
        """Place of a batch of this process among those of all, which take turns."""
        return batch_idx * self.trainer.world_size + self.global_rank

    def _generator(self, *key: int) -> torch.Generator:
        state = np.random.SeedSequence((self.seed, 0, *key)).generate_state(1, np.uint64)
        return torch.Generator(self.device).manual_seed(int(state[0] >> np.uint64(1)))

    def _log_losses(self, stage: str, losses: dict[str, Tensor], batch: Any) -> None:
        values = {f"{stage}/{name}": value.detach() for name, value in losses.items()}
        when: dict[str, Any] = {"on_step": stage == "train", "on_epoch": stage != "train", "add_dataloader_idx": False}
        when["sync_dist"] = self.trainer.world_size > 1  # else each process would follow the losses of its own batches
        if isinstance(batch, Sized) and not isinstance(batch, list | tuple | dict):
            when["batch_size"] = len(batch)  # else Lightning guesses it, and takes a sentence for a batch of letters
        self.log_dict(values, **when)
        self.log("loss", losses["loss"].detach(), prog_bar=True, logger=False, **when)


def is_request_batch(batch: Any) -> bool:
    """Whether a batch asks for samples rather than holding data."""
    return isinstance(batch, list | tuple) and len(batch) > 0 and isinstance(batch[0], Request)


def count_parameters(module: nn.Module, trainable_only: bool = True) -> int:
    """Number of parameters, without materialising them, so that published sizes count on the meta device."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trainable_only)


def describe_parameters(module: nn.Module) -> str:
    """Number of parameters, and how many of them train and how many one token meets, where these are fewer."""
    every = count_parameters(module, trainable_only=False)
    parts = {"trainable": count_parameters(module), "active for a token": count_active_parameters(module)}
    fewer = [f"{count:,} {name}" for name, count in parts.items() if count != every]
    return f"{every:,}" + (f" ({', '.join(fewer)})" if fewer else "")
