"""The autoencoder of images in the battery.

Shape legend: B images, Y, X height and width.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from polydit.domains.vision.autoencoder import KLAutoencoder, to_latents

from .entry import Entry, Outputs


def image_batch(padding: int) -> Tensor:
    """Two images of 8 rows and 16 columns; images are never padded."""
    return torch.rand(2, 3, 8, 16, generator=torch.Generator().manual_seed(12)) * 2 - 1


def run_autoencoder(model: KLAutoencoder, images: Tensor) -> Outputs:
    """Posterior and what is decoded of its mean."""
    posterior = model.encode(images)
    return {
        "mean": posterior.mean, "log_variance": posterior.log_variance,
        "decoded": model.decode(to_latents(posterior.mean)),
    }


Tiny = partial(KLAutoencoder, 3, width=8)

VISION = [
    Entry(
        name="image autoencoder", build=partial(Tiny, multipliers=(1, 2)), inputs=image_batch, run=run_autoencoder,
        parameters=26_067, compiler="eager",
    ),
    Entry(
        name="image autoencoder/two halvings", build=partial(Tiny, latent_channels=2, multipliers=(1, 1, 2)),
        inputs=image_batch, run=run_autoencoder, parameters=28_767,
    ),
]
