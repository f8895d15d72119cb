"""Autoencoders of images: the contract, and a small convolutional one with a KL bottleneck.

Shape legend: B images, C channels of an image, Y, X its height and width, L latent channels, y, x height and width of
the latent, f = Y / y the factor, W channels within.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from polydit.data.vision.pictures import ImageBatch, Picture, to_pixels
from polydit.platform.autoencoders import Autoencoder, DiagonalGaussian, Reconstruction
from polydit.platform.errors import ConfigurationError

GROUPS = 8
"""Of channels that are normed together."""


class ImageAutoencoder(Autoencoder):
    """Images [B, C, Y, X] in [-1, 1] to latents [B, L, y, x] and back.

    Attributes:
        channels: C.
        latent_channels: L.
        factor: f.
    """

    channels: int
    latent_channels: int
    factor: int

    @abstractmethod
    def encode(self, images: Tensor) -> DiagonalGaussian:
        """Posterior of the latents, [B, y, x, L]."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Images [B, C, Y, X] of latents [B, L, y, x]."""

    def prepare(self, datamodule: Any) -> None:
        """Refuse images of sizes of their own, which do not stack.

        Raises:
            ConfigurationError: if the data keep their shape.
        """
        super().prepare(datamodule)
        if getattr(datamodule, "fit", None) == "keep":
            raise ConfigurationError(
                "an autoencoder trains on images of one size, and data.fit is keep: set it to random_crop; the second "
                "stage makes latents of any size (AnySizeLatentCodec)"
            )

    def reconstruct(self, batch: ImageBatch) -> list[Reconstruction]:
        """Every image beside what is decoded of its posterior's mean."""
        latents = to_latents(self.encode(batch.images.float() / 127.5 - 1).mean)
        decoded = to_pixels(self.decode(latents))
        originals = list(batch.images.permute(0, 2, 3, 1).cpu().numpy())
        return [
            Reconstruction(Picture(truth, int(label), name=name), Picture(made, int(label), name=name))
            for truth, made, label, name in zip(originals, decoded, batch.labels, batch.names, strict=True)
        ]

    def check_weights(self) -> None:
        """Refuse to be trained on, where weights that should have come from elsewhere have not.

        Raises:
            CheckpointError: naming what to do.
        """
        return None

    def portable_config(self, config: dict[str, Any]) -> dict[str, Any]:
        """`config` (class path and init_args) without paths to files of this machine."""
        return config


class ImageLoss(nn.Module):
    """A loss of reconstructed images beside the pixels', named by class path.

    Args:
        weight: factor in the total.
    """

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    @abstractmethod
    def forward(self, decoded: Tensor, images: Tensor) -> Tensor:
        """Scalar loss of images [B, C, Y, X] in [-1, 1]."""


class GradientLoss(ImageLoss):
    """Mean absolute difference of the slopes along both axes: edges, which a pixel loss blurs, count more."""

    def forward(self, decoded: Tensor, images: Tensor) -> Tensor:
        """Scalar loss."""
        error = decoded - images
        return error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()


class KLAutoencoder(ImageAutoencoder):
    """Convolutional autoencoder with a diagonal Gaussian bottleneck, latent diffusion's first stage (arXiv:2112.10752).

    Residual blocks at every scale, halved by strided convolutions and doubled by nearest neighbours; no attention and
    no adversary, so that it trains in minutes. Losses are means: the absolute error of a value, and the divergence of a
    latent value from the standard normal.

    Args:
        channels: C.
        latent_channels: L.
        width: W at full size.
        multipliers: of W at each scale, from full size down; their number n gives f = 2^(n - 1).
        blocks: residual blocks at each scale.
        kl: weight of the divergence.
        losses: name -> loss beside the pixels', such as a perceptual one with weights of yours.
    """

    def __init__(
        self,
        channels: int = 3,
        latent_channels: int = 4,
        width: int = 32,
        multipliers: Sequence[int] = (1, 2, 4),
        blocks: int = 1,
        kl: float = 1e-3,
        losses: dict[str, ImageLoss] | None = None,
    ) -> None:
        super().__init__()
        if not multipliers or min(*multipliers, latent_channels, channels, blocks) < 1 or width % GROUPS or width < 1:
            raise ConfigurationError(
                f"width {width} must be a multiple of {GROUPS}, multipliers {list(multipliers)}, latent_channels "
                f"{latent_channels}, channels {channels} and blocks {blocks} at least 1"
            )
        if kl < 0:
            raise ConfigurationError(f"kl {kl} must not be negative")
        self.channels, self.latent_channels, self.kl = channels, latent_channels, kl
        self.factor = 2 ** (len(multipliers) - 1)
        widths = [width * factor for factor in multipliers]
        self.encoder = make_encoder(channels, widths, blocks, 2 * latent_channels)
        self.decoder = make_decoder(channels, widths, blocks, latent_channels)
        self.extra = nn.ModuleDict(dict(sorted((losses or {}).items())))

    def encode(self, images: Tensor) -> DiagonalGaussian:
        """Posterior of the latents, [B, y, x, L].

        Raises:
            ConfigurationError: if the factor does not divide the images.
        """
        if images.shape[2] % self.factor or images.shape[3] % self.factor:
            raise ConfigurationError(
                f"images of {images.shape[2]} x {images.shape[3]} cannot be divided by {self.factor}: choose a size "
                "that is a multiple of it, or fewer multipliers"
            )
        mean, log_variance = self.encoder(images).permute(0, 2, 3, 1).chunk(2, dim=-1)
        return DiagonalGaussian(mean, log_variance.clamp(-30.0, 20.0))

    def decode(self, latents: Tensor) -> Tensor:
        """Images [B, C, Y, X] of latents [B, L, y, x]."""
        images: Tensor = self.decoder(latents)
        return images

    def losses(self, batch: ImageBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """Pixel, divergence and further losses, and their weighted sum."""
        images = batch.images.float() / 127.5 - 1
        posterior = self.encode(images)
        decoded = self.decode(to_latents(posterior.sample(generator)))
        found = {"pixel": (decoded - images).abs().mean(), "kl": posterior.kl().mean() / self.latent_channels}
        total = found["pixel"] + self.kl * found["kl"]
        for name, loss in self.extra.items():
            assert isinstance(loss, ImageLoss)
            found[name] = loss(decoded, images)
            total = total + loss.weight * found[name]
        return {**found, "loss": total}


class ResidualBlock(nn.Module):
    """Two convolutions of normed values, added to what comes in.

    Args:
        inputs, outputs: channels.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first_norm, self.first = nn.GroupNorm(GROUPS, inputs), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.second_norm, self.second = nn.GroupNorm(GROUPS, outputs), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, outputs, y, x] of [B, inputs, y, x]."""
        h = self.first(functional.silu(self.first_norm(x)))
        h = self.second(functional.silu(self.second_norm(h)))
        return self.shortcut(x) + h


def make_encoder(channels: int, widths: Sequence[int], blocks: int, outputs: int) -> nn.Sequential:
    """[B, outputs, y, x] of [B, C, Y, X]."""
    layers: list[nn.Module] = [nn.Conv2d(channels, widths[0], 3, padding=1)]
    current = widths[0]
    for level, width in enumerate(widths):
        for _ in range(blocks):
            layers.append(ResidualBlock(current, width))
            current = width
        if level < len(widths) - 1:
            layers.append(nn.Conv2d(current, current, 3, stride=2, padding=1))
    layers += [ResidualBlock(current, current), nn.GroupNorm(GROUPS, current), nn.SiLU()]
    return nn.Sequential(*layers, nn.Conv2d(current, outputs, 3, padding=1))


def make_decoder(channels: int, widths: Sequence[int], blocks: int, inputs: int) -> nn.Sequential:
    """[B, C, Y, X] of [B, inputs, y, x]."""
    current = widths[-1]
    layers: list[nn.Module] = [nn.Conv2d(inputs, current, 3, padding=1), ResidualBlock(current, current)]
    for level, width in reversed(list(enumerate(widths))):
        for _ in range(blocks):
            layers.append(ResidualBlock(current, width))
            current = width
        if level > 0:
            layers += [nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(current, current, 3, padding=1)]
    layers += [nn.GroupNorm(GROUPS, current), nn.SiLU(), nn.Conv2d(current, channels, 3, padding=1)]
    return nn.Sequential(*layers)


def to_latents(values: Tensor) -> Tensor:
    """[B, L, y, x] of values [B, y, x, L]."""
    return values.permute(0, 3, 1, 2)
