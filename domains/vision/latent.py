"""Latents of a frozen autoencoder as the state, so that the transformer sees a smaller image.

Shape legend: B images, L latent channels, y, x height and width of a latent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from polydit.data.vision.pictures import ImageBatch, Picture, to_pixels
from polydit.platform.errors import CheckpointError, ConfigurationError
from polydit.platform.state import Layout, State
from polydit.platform.systems.autoencoding import AutoencoderSystem

from .autoencoder import ImageAutoencoder, to_latents
from .codec import IMAGE, ImageCodec

PUBLISHED_SCALE = 0.18215
"""Factor on the latents of Stable Diffusion's autoencoder, under which their deviation is about 1."""

CHUNK = 64
"""Images encoded or decoded at a time."""


class LatentImageCodec(ImageCodec):
    """Latents of images as the field ``image`` [B, L, y, x].

    Args:
        autoencoder: path of a checkpoint of the first stage, or the autoencoder itself.
        size: side of the images in pixels, see `ImageCodec`.
        classes: number of classes.
        scale: factor on the latents, 0.18215 in published models; None: every channel is brought to mean 0 and
            deviation 1 over the training split.
        use_mean: train on posterior means instead of samples.
        normaliser_batches: training batches from which the statistics are taken.

    Raises:
        ConfigurationError: if the autoencoder's factor does not divide the size.
        CheckpointError: if the checkpoint holds another kind of model.
    """

    latent_mean: Tensor
    latent_std: Tensor

    def __init__(
        self,
        autoencoder: ImageAutoencoder | str,
        size: int,
        classes: int = 0,
        scale: float | None = None,
        use_mean: bool = False,
        normaliser_batches: int = 20,
    ) -> None:
        loaded: dict[str, Any] | None = None
        if isinstance(autoencoder, str):
            autoencoder, loaded = load_autoencoder(autoencoder)
        super().__init__(size, autoencoder.channels, classes)
        if size % autoencoder.factor:
            raise ConfigurationError(
                f"the autoencoder makes images smaller by {autoencoder.factor}, which does not divide size {size}"
            )
        if scale is not None and scale <= 0:
            raise ConfigurationError(f"scale {scale} must be positive; the published one is {PUBLISHED_SCALE}")
        self._loaded = loaded
        self.autoencoder = autoencoder.requires_grad_(False).eval()
        self.scale, self.use_mean, self.normaliser_batches = scale, use_mean, normaliser_batches
        self.register_buffer("latent_mean", torch.zeros(autoencoder.latent_channels, 1, 1))
        deviation = torch.full((autoencoder.latent_channels, 1, 1), 1.0 if scale is None else 1 / scale)
        self.register_buffer("latent_std", deviation)

    def train(self, mode: bool = True) -> LatentImageCodec:
        """The autoencoder stays in evaluation mode whatever the rest does."""
        super().train(mode)
        self.autoencoder.eval()
        return self

    @torch.no_grad()
    def encode(self, batch: ImageBatch, generator: torch.Generator) -> tuple[State, Layout]:
        """Latents [B, L, y, x] of a batch."""
        return self._lay_out((self._compress(batch.images, generator) - self.latent_mean) / self.latent_std, batch)

    def shape_of(self, size: tuple[int, int]) -> tuple[int, int, int]:
        """Shape [L, y, x] of the state of an image of this height and width.

        Raises:
            ConfigurationError: if the factor does not divide it.
        """
        factor = self.autoencoder.factor
        if size[0] % factor or size[1] % factor:
            raise ConfigurationError(f"size {size[0]} x {size[1]} must be a multiple of the autoencoder's {factor}")
        return self.autoencoder.latent_channels, size[0] // factor, size[1] // factor

    @torch.no_grad()
    def decode(self, state: State, layout: Layout) -> list[Picture]:
        """One `Picture` per sample."""
        latents = state[IMAGE] * self.latent_std + self.latent_mean
        images = torch.cat([self.autoencoder.decode(part) for part in latents.split(CHUNK)])
        return self._make_pictures(to_pixels(images), layout)

    @torch.no_grad()
    def prepare(self, datamodule: Any) -> None:
        """Names of the classes and, unless a scale was given, statistics of the latents."""
        super().prepare(datamodule)
        self.autoencoder.check_weights()
        if self.scale is not None:
            return
        generator = torch.Generator().manual_seed(0)
        pairs = zip(range(self.normaliser_batches), datamodule.train_dataloader(), strict=False)
        latents = [latent.flatten(1) for _, batch in pairs for latent in self._latents(batch, generator)]
        values = torch.cat(latents, dim=1)  # [L, all places of all images]
        self.latent_mean.copy_(values.mean(dim=1)[:, None, None])
        self.latent_std.copy_(values.std(dim=1).clamp(min=1e-4)[:, None, None])

    def portable_config(self, config: dict[str, Any]) -> dict[str, Any]:
        """`config` with the first stage's architecture in place of the path it was loaded from."""
        if self._loaded is not None:
            return {**config, "autoencoder": self._loaded}
        given = config.get("autoencoder")
        return {**config, "autoencoder": self.autoencoder.portable_config(given)} if isinstance(given, dict) else config

    def _latents(self, batch: Any, generator: torch.Generator) -> Sequence[Tensor]:
        """Latents [L, y, x] of a batch's images, not yet standardised."""
        return list(self._compress(batch.images, generator))

    def _compress(self, images: Tensor, generator: torch.Generator) -> Tensor:
        posterior = self.autoencoder.encode(images.float() / 127.5 - 1)
        return to_latents(posterior.mean if self.use_mean else posterior.sample(generator))


def load_autoencoder(path: str) -> tuple[ImageAutoencoder, dict[str, Any]]:
    """The autoencoder of a first-stage checkpoint and the configuration that makes it again.

    Raises:
        CheckpointError: if the checkpoint holds another kind of model.
    """
    from polydit.platform.checkpoints import load

    module = load(path)
    system = module.system
    if not isinstance(system, AutoencoderSystem) or not isinstance(system.autoencoder, ImageAutoencoder):
        raise CheckpointError(
            f"{path} holds a {type(system).__name__}, not an autoencoder of images: give the first stage's checkpoint"
        )
    assert module.config is not None
    return system.autoencoder, module.config["system"]["init_args"]["autoencoder"]
