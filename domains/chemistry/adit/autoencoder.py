"""ADiT's autoencoder: one latent vector per atom, for molecules and crystals alike (arXiv 2503.03965, section 3.1).

Shape legend: B structures, N atoms, D width, C latent channels, Z element types (index 0 is "unknown").
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from polydit.data.chemistry.batch import AtomBatch
from polydit.platform.autoencoders import Autoencoder, DiagonalGaussian, GaussianBottleneck, Reconstruction
from polydit.platform.context import Context
from polydit.platform.denoisers import SinCosPosition, TransformerStack
from polydit.platform.errors import ConfigurationError
from polydit.platform.feedforwards import FeedForward
from polydit.platform.mixers import Attention, TokenMixer
from polydit.platform.state import MaskSpec

from ..augmentation import CanonicalPose, Pose, RandomPose, fractional_of, wrap
from .fractional import CircleCode, FractionalCode
from .losses import AtomLosses, centred
from .prediction import NANOMETRES, AtomPrediction, scaled_lattice, structures_of_batch


@dataclass(frozen=True, kw_only=True)
class Corruption:
    """The denoising objective: the encoder sees damaged atoms, the targets stay clean.

    Args:
        types: share of atoms whose type is hidden.
        positions: share of atoms whose position is disturbed.
        scale: standard deviation of that disturbance, Å.
        clean_targets: False reproduces the released code before its correction of May 2025, which asked the decoder
            to reproduce the damage.
    """

    types: float = 0.1
    positions: float = 0.1
    scale: float = 0.1
    clean_targets: bool = True

    def apply(self, batch: AtomBatch, generator: torch.Generator) -> AtomBatch:
        """A damaged copy of the batch; damaged positions of crystals also move their fractional coordinates."""
        shape, device = batch.numbers.shape, batch.numbers.device
        hidden = torch.rand(shape, generator=generator, device=device) < self.types
        moved = (torch.rand(shape, generator=generator, device=device) < self.positions) & batch.mask
        noise = self.scale * torch.randn((*shape, 3), generator=generator, device=device) * moved[..., None]
        fractional = wrap(batch.fractional + fractional_of(noise, batch), batch)
        return replace(
            batch,
            numbers=batch.numbers.masked_fill(hidden, 0),
            positions=batch.positions + noise,
            fractional=torch.where(moved[..., None], fractional, batch.fractional),
        )


@dataclass(frozen=True, kw_only=True)
class CoordinateChannels:
    """Centred Cartesian coordinates as the first three latent channels. Not in the ADiT paper.

    Args:
        unit: Å in one unit of these channels, about the standard deviation of coordinates: it is not normalised away.
        noise: standard deviation of their posterior, Å; detail below it need not be modelled.
    """

    unit: float = 1.5
    noise: float = 0.02

    def write(self, posterior: DiagonalGaussian, places: Tensor) -> DiagonalGaussian:
        """`posterior` with its first three channels given over to centred coordinates [B, N, 3] in Å."""
        mean = torch.cat([(places / self.unit).to(posterior.mean.dtype), posterior.mean[..., 3:]], dim=-1)
        own = torch.full_like(posterior.log_variance[..., :3], 2 * math.log(self.noise / self.unit))
        return DiagonalGaussian(mean, torch.cat([own, posterior.log_variance[..., 3:]], dim=-1))

    def read(self, latent: Tensor) -> Tensor:
        """Coordinates [B, N, 3] in Å of a latent."""
        return latent[..., :3] * self.unit


class AtomAutoencoder(Autoencoder):
    """Encoder and decoder transformers around a KL bottleneck of a few channels per atom.

    Args:
        width: D.
        depth: layers of the encoder, and of the decoder.
        heads: attention heads.
        latent_channels: C, per atom.
        max_atomic_number: largest element the type head knows; 99 leaves index 0 for "unknown" in a table of 100.
        fractional: how fractional coordinates enter and leave; default `CircleCode`. `PlainCode` is the published one.
        encode_cell: also show the encoder lengths and angles, which it must otherwise infer from Cartesian against
            fractional coordinates and cannot for a one-atom cell. False is the published model.
        pose: augmentation.
        corruption: denoising objective; None: none.
        losses: weights and conventions of the reconstruction loss.
        feedforward: builds the feed-forward of a block from the width; None: `MLP` with the published activation.
        mixer: builds the token mixer of a block from the width; None: `Attention` with `heads`.
        coordinates: how coordinates themselves stand in the first three latent channels, where mixers can measure
            distances; None: the encoder is free to write them as it likes, as published.
    """

    def __init__(
        self,
        width: int = 512,
        depth: int = 8,
        heads: int = 8,
        latent_channels: int = 8,
        max_atomic_number: int = 99,
        fractional: FractionalCode | None = None,
        encode_cell: bool = False,
        pose: Pose | None = None,
        corruption: Corruption | None = None,
        losses: AtomLosses | None = None,
        feedforward: Callable[[int], FeedForward] | None = None,
        mixer: Callable[[int], TokenMixer] | None = None,
        coordinates: CoordinateChannels | None = None,
    ) -> None:
        super().__init__()
        self.max_atomic_number = max_atomic_number
        self.code = fractional or CircleCode()
        self.latent_channels = latent_channels
        self.pose = pose or RandomPose()
        self.corruption = corruption
        self.reconstruction_losses = losses or AtomLosses()
        self.type_embedding = nn.Embedding(max_atomic_number + 1, width)
        self.position_embedding = _coordinate_mlp(3, width)
        self.fractional_embedding = _coordinate_mlp(self.code.channels, width)
        self.cell_embedding = _coordinate_mlp(6, width) if encode_cell else None
        # The published index sinusoid: sin and cos of i * pi / 2048^(2k/D).
        self.index_embedding = SinCosPosition(width, base=2048.0, scale=math.pi)
        mixer = mixer or partial(Attention, heads=heads)
        self.coordinates = coordinates
        self.encoder = TransformerStack(width, depth, mixer, feedforward)
        self.bottleneck = GaussianBottleneck(width, latent_channels)
        self.decoder = TransformerStack(width, depth, mixer, feedforward)
        self.type_head = nn.Linear(width, max_atomic_number + 1)
        self.position_head = nn.Linear(width, 3, bias=False)
        self.fractional_head = nn.Linear(width, self.code.channels, bias=False)
        self.lattice_head = nn.Linear(width, 6, bias=False)
        if coordinates is not None:
            if latent_channels <= 3:
                raise ConfigurationError(
                    f"{latent_channels} latent channels hold coordinates and nothing else: use at least 4"
                )
            if not isinstance(self.pose, CanonicalPose):
                raise ConfigurationError(
                    f"coordinates in the latent need cells in their standard setting, which {type(self.pose).__name__} "
                    "does not give: use CanonicalPose"
                )
            nn.init.zeros_(self.position_head.weight)

    def encode(self, batch: AtomBatch) -> DiagonalGaussian:
        """Posterior [B, N, C] of a posed batch.

        Raises:
            ValueError: if an element lies beyond the table.
        """
        h = self.type_embedding(batch.numbers)
        h = h + self.position_embedding(batch.positions * NANOMETRES)
        crystal = self.fractional_embedding(self.code.encode(batch.fractional))
        if self.cell_embedding is not None:
            crystal = crystal + self.cell_embedding(scaled_lattice(batch))[:, None]
        h = h + torch.where(batch.periodic[:, None, None], crystal, torch.zeros_like(crystal))
        places = centred(batch.positions, batch.mask)
        h = self.encoder(h + self.index_embedding(h, None), context_of(batch.mask, places))
        posterior = self.bottleneck.encode(h)
        return posterior if self.coordinates is None else self.coordinates.write(posterior, places)

    def decode(self, latent: Tensor, mask: Tensor) -> AtomPrediction:
        """Predicted types, positions, fractional coordinates and lattice of latents [B, N, C]; mask [B, N] bool."""
        h = self.bottleneck.decode(latent)
        places = None if self.coordinates is None else self.coordinates.read(latent)
        h = self.decoder(h + self.index_embedding(h, None), context_of(mask, places))
        with torch.autocast(h.device.type, enabled=False):  # a thousandth of a nanometre is beyond reduced precision
            h = h.to(self.type_head.weight.dtype)
            positions = self.position_head(h)
            if places is not None:
                positions = positions + places.to(positions.dtype) * NANOMETRES
            pooled = (h * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp(min=1)
            return AtomPrediction(
                self.type_head(h), positions, self.fractional_head(h), self.lattice_head(pooled), self.code, places
            )

    def losses(self, batch: AtomBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """Reconstruction losses, the KL divergence and their weighted sum."""
        clean = self.pose.apply(batch, generator)
        shown = self.corruption.apply(clean, generator) if self.corruption and self.training else clean
        target = shown if self.corruption and not self.corruption.clean_targets else clean
        posterior = self.encode(shown)
        prediction = self.decode(posterior.sample(generator), batch.mask)
        return self.reconstruction_losses(prediction, posterior, target)

    @torch.no_grad()
    def reconstruct(self, batch: AtomBatch) -> list[Reconstruction]:
        """Every structure beside its decoding from the posterior mean."""
        posed = self.pose.apply(batch, None)
        prediction = self.decode(self.encode(posed).mean, batch.mask)
        decoded = prediction.structures(batch.mask, batch.periodic)
        originals = structures_of_batch(posed)
        return [Reconstruction(o, d) for o, d in zip(originals, decoded, strict=True)]


def _coordinate_mlp(channels: int, width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(channels, width, bias=False), nn.SiLU(), nn.Linear(width, width))


def context_of(mask: Tensor, places: Tensor | None = None) -> Context:
    """Context of a padded batch; a full mask is left out where asking is cheap, so that attention runs unmasked."""
    full = mask.device.type == "cpu" and bool(mask.all())
    points = {} if places is None else {"x": places}
    return Context(masks={} if full else {"x": MaskSpec(keys=mask)}, points=points)
