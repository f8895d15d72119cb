"""Autoencoding as a system: the first stage of latent diffusion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..autoencoders import Autoencoder, Reconstruction
from ..errors import UserError
from ..requests import Request, Sample
from .system import System


class AutoencoderSystem(System):
    """Trains an autoencoder and, in `test`, hands its held-out reconstructions to the evaluators.

    Args:
        autoencoder: what is trained.
    """

    def __init__(self, autoencoder: Autoencoder) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def losses(self, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:
        """The autoencoder's losses."""
        return self.autoencoder.losses(batch, generator)

    def reconstruct(self, batch: Any) -> list[Reconstruction]:
        """Held-out items beside their reconstructions, in full precision whatever the run trains in."""
        with torch.autocast(next(self.autoencoder.parameters()).device.type, enabled=False):
            return self.autoencoder.reconstruct(batch)

    def generate(self, requests: Sequence[Request]) -> list[Sample]:
        """Refused.

        Raises:
            UserError: always; an autoencoder has no prior to sample from.
        """
        raise UserError(
            f"{len(requests)} samples were asked of an autoencoder, which only reconstructs: train a diffusion model "
            "on its latents (as examples/chemistry/adit.yaml does) and predict with that checkpoint"
        )

    def prepare(self, datamodule: Any) -> None:
        """Let the autoencoder take its statistics."""
        self.autoencoder.prepare(datamodule)
