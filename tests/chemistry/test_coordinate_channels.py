"""Coordinates as latent channels: exact from the start, and left in their unit."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from polydit.data.chemistry.batch import AtomBatch
from polydit.domains.chemistry.adit import AtomAutoencoder, LatentAtomCodec
from polydit.domains.chemistry.adit.autoencoder import CoordinateChannels
from polydit.domains.chemistry.adit.losses import centred
from polydit.domains.chemistry.augmentation import CanonicalPose
from polydit.platform.errors import ConfigurationError
from polydit.platform.mixers import GeometricAttention


@pytest.fixture
def autoencoder() -> AtomAutoencoder:
    torch.manual_seed(0)
    return AtomAutoencoder(
        32, 1, 2, 7, pose=CanonicalPose(), mixer=partial(GeometricAttention, heads=2),
        coordinates=CoordinateChannels(unit=2.0, noise=0.1),
    )


def test_latents_hold_centred_coordinates_and_known_noise(batch: AtomBatch, autoencoder: AtomAutoencoder) -> None:
    posterior = autoencoder.encode(batch)
    places = centred(batch.positions, batch.mask)
    torch.testing.assert_close(2.0 * posterior.mean[..., :3], places)
    torch.testing.assert_close(posterior.log_variance[..., :3].mul(0.5).exp(), torch.full_like(places, 0.05))
    assert posterior.mean.shape[-1] == 7
    sample = posterior.sample(torch.Generator().manual_seed(0))
    assert (sample[..., 3:] - posterior.mean[..., 3:]).abs().max() > 0


def test_an_untrained_decoder_gives_molecules_back_exactly(batch: AtomBatch, autoencoder: AtomAutoencoder) -> None:
    for pair in autoencoder.eval().reconstruct(batch):
        if not pair.original.is_periodic:
            centre = pair.original.positions.mean(axis=0)
            np.testing.assert_allclose(pair.decoded.positions, pair.original.positions - centre, atol=1e-5)


def test_crystals_stand_where_their_latents_say(batch: AtomBatch, autoencoder: AtomAutoencoder) -> None:
    """Distances inside the cell are exact whatever the untrained heads say of the lattice."""
    crystals = [pair for pair in autoencoder.eval().reconstruct(batch) if pair.original.is_periodic]
    assert crystals
    for pair in crystals:
        ours, theirs = (s.positions[:, None] - s.positions[None] for s in (pair.decoded, pair.original))
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_the_normaliser_keeps_their_unit(batch: AtomBatch, autoencoder: AtomAutoencoder) -> None:
    codec = LatentAtomCodec(autoencoder)
    data = SimpleNamespace(count_histogram=dict, train_dataloader=lambda: [batch])
    codec.prepare(data)
    assert torch.equal(codec.latent_mean[:, :3], torch.zeros(2, 3))
    assert torch.equal(codec.latent_std[:, :3], torch.ones(2, 3))
    assert not torch.equal(codec.latent_std[:, 3:], torch.ones(2, 4))
    state, _ = codec.encode(batch, torch.Generator().manual_seed(0))
    places = centred(codec.autoencoder.pose.apply(batch, None).positions, batch.mask)
    apart = (state["latent"][..., :3] * 2.0 - places)[batch.mask]
    assert apart.std() == pytest.approx(0.1, rel=0.3)


def test_full_precision_under_autocast(batch: AtomBatch, autoencoder: AtomAutoencoder) -> None:
    latent = autoencoder.encode(batch).mean
    with torch.autocast("cpu", torch.bfloat16):
        prediction = autoencoder.decode(latent, batch.mask)
    torch.testing.assert_close(10 * prediction.positions, 2.0 * latent[..., :3], atol=1e-6, rtol=1e-6)


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="3 latent channels hold coordinates and nothing else"):
        AtomAutoencoder(32, 1, 2, 3, coordinates=CoordinateChannels(), pose=CanonicalPose())
    with pytest.raises(ConfigurationError, match="which RandomPose does not give"):
        AtomAutoencoder(32, 1, 2, 4, coordinates=CoordinateChannels())
