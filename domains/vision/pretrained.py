"""Autoencoders of diffusers, for who has their weights: the first stage that the published DiT and SiT stand on.

Shape legend: B images, Y, X height and width, L latent channels, y, x height and width of a latent.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polydit.data.vision.pictures import ImageBatch
from polydit.platform.autoencoders import DiagonalGaussian
from polydit.platform.errors import CheckpointError, ConfigurationError, require

from .autoencoder import ImageAutoencoder

EXTRA = "pretrained"

WEIGHTS = "diffusion_pytorch_model.safetensors"
"""diffusers' name for them."""

POINTER = b"version https://git-lfs"
"""What a file begins with that stands for weights which were not downloaded."""


class DiffusersAutoencoder(ImageAutoencoder):
    """diffusers' ``AutoencoderKL``, frozen, from a local folder with ``config.json`` and safetensors.

    Nothing is downloaded, and weights that are pickled are not read.

    Args:
        folder: the folder; None: of `config`, with weights that only a checkpoint of the second stage can bring.
        config: settings of ``AutoencoderKL`` where there is no folder; what a checkpoint keeps of it.

    Raises:
        ConfigurationError: if neither is given.
        CheckpointError: if the folder lacks a file, or the weights are of another model.
    """

    has_weights: Tensor

    def __init__(self, folder: str | None = None, config: dict[str, Any] | None = None) -> None:
        super().__init__()
        if folder is None and config is None:
            raise ConfigurationError("give the folder of an AutoencoderKL, or the config of one")
        settings = read_settings(Path(folder)) if folder is not None else dict(config or {})
        diffusers = require("diffusers", EXTRA)
        self.settings = {key: value for key, value in settings.items() if not key.startswith("_")}
        self.model = diffusers.AutoencoderKL.from_config(self.settings)
        self.register_buffer("has_weights", torch.tensor(folder is not None))
        if folder is not None:
            load_weights(self.model, Path(folder) / WEIGHTS)
        self.model.requires_grad_(False).eval()
        self.channels, self.latent_channels = self.model.config.in_channels, self.model.config.latent_channels
        self.factor = 2 ** (len(self.model.config.block_out_channels) - 1)

    def encode(self, images: Tensor) -> DiagonalGaussian:
        """Posterior of the latents, [B, y, x, L]."""
        posterior = self.model.encode(images).latent_dist
        return DiagonalGaussian(posterior.mean.permute(0, 2, 3, 1), posterior.logvar.permute(0, 2, 3, 1))

    def decode(self, latents: Tensor) -> Tensor:
        """Images [B, 3, Y, X] of latents [B, L, y, x]."""
        images: Tensor = self.model.decode(latents).sample
        return images

    def losses(self, batch: ImageBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """Refused: it stays as it is.

        Raises:
            ConfigurationError: always.
        """
        raise ConfigurationError(
            "diffusers' autoencoder is frozen: train polydit.domains.vision.autoencoder.KLAutoencoder instead"
        )

    def check_weights(self) -> None:
        """Refuse latents of random weights.

        Raises:
            CheckpointError: if none were loaded.
        """
        if not bool(self.has_weights):
            raise CheckpointError(
                "the autoencoder has no weights: give its folder, --model.system.init_args.codec.init_args.autoencoder."
                "init_args.folder models/sd-vae-ft-ema"
            )

    def portable_config(self, config: dict[str, Any]) -> dict[str, Any]:
        """`config` with the architecture in place of the folder."""
        return {**config, "init_args": {"config": self.settings}}


def read_settings(folder: Path) -> dict[str, Any]:
    """The settings of a model in diffusers' layout.

    Raises:
        CheckpointError: if there are none.
    """
    path = folder / "config.json"
    try:
        settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no {path}: give a folder of AutoencoderKL in diffusers' layout") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is no JSON ({error}): copy it again") from error
    kind = settings.get("_class_name", "AutoencoderKL")
    if kind != "AutoencoderKL":
        raise CheckpointError(f"{path} describes a {kind}, not an AutoencoderKL")
    return settings


def load_weights(model: torch.nn.Module, path: Path) -> None:
    """Load safetensors into a model, all of them and no others.

    Raises:
        CheckpointError: if they are missing, not downloaded, damaged, or of another model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise CheckpointError(f"there is no {path}: convert the weights to safetensors; pickled ones are not read")
    with path.open("rb") as file:
        if file.read(len(POINTER)) == POINTER:
            raise CheckpointError(f"{path} is a pointer, not the weights: fetch them with git lfs pull")
    try:
        missing, unexpected = model.load_state_dict(load_file(path), strict=False)
    except (SafetensorError, RuntimeError) as error:
        raise CheckpointError(f"{path} is damaged or of another model ({error})") from error
    if missing or unexpected:
        raise CheckpointError(
            f"{path} lacks {len(missing)} weights ({', '.join(missing[:2])}) and has {len(unexpected)} too many "
            f"({', '.join(unexpected[:2])}): it is of another model"
        )
