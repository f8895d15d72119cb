"""Reduced precision for sampling, and compilation.

Under autocast every product casts its weights anew at every step. A denoiser whose weights are kept in bf16 casts none.
The sampler's state, its arithmetic and the decoding of the result stay in full precision all the same, so that errors
do not add up from step to step.
"""

from __future__ import annotations

from typing import Literal

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import nn

from ..errors import ConfigurationError

Precision = Literal["bf16", "fp16", "fp32"]

DTYPES: dict[Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def find_denoiser(module: nn.Module) -> nn.Module:
    """The denoiser of a module's system.

    Raises:
        ConfigurationError: if it has none, as an autoencoder.
    """
    system = getattr(module, "system", module)
    denoiser = getattr(system, "denoiser", None)
    if not isinstance(denoiser, nn.Module):
        raise ConfigurationError(
            f"{type(system).__name__} has no denoiser to make faster: use this with a diffusion system only"
        )
    return denoiser


def cast_denoiser(module: nn.Module, precision: Precision = "bf16") -> None:
    """Keep the denoiser's weights in `precision`, in place, for sampling; training needs them in fp32.

    Args:
        module: what `polydit.load` gives, or a diffusion system.
        precision: ``"bf16"`` where the processor has bf16 units, else ``"fp32"``; ``"fp16"`` on some GPUs.

    Raises:
        ConfigurationError: if there is no denoiser, or no such precision.
    """
    if precision not in DTYPES:
        raise ConfigurationError(f"no precision {precision!r}: choose one of {', '.join(DTYPES)}")
    find_denoiser(module).to(DTYPES[precision])


class InferencePrecision(Callback):
    """Casts the denoiser's weights when `predict` or `test` begins.

    Args:
        precision: see `cast_denoiser`.
    """

    def __init__(self, precision: Precision = "bf16") -> None:
        if precision not in DTYPES:
            raise ConfigurationError(f"no precision {precision!r}: choose one of {', '.join(DTYPES)}")
        self.precision = precision

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Cast."""
        cast_denoiser(pl_module, self.precision)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Cast."""
        cast_denoiser(pl_module, self.precision)


class Compilation(Callback):
    """Compiles the denoiser, for shapes that vary, in every stage; the first steps take some tens of seconds longer.

    Weights and their names stay as they are: checkpoints of compiled and other runs are the same.

    Args:
        mode: as in `torch.compile`.
    """

    def __init__(self, mode: str | None = None) -> None:
        self.mode = mode

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Mark the denoiser for compilation at its first call."""
        find_denoiser(pl_module).compile(dynamic=True, mode=self.mode)
