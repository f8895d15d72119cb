"""The autoencoder of images in the battery, and a transformer of images of any size.

Shape legend: B images, Y, X height and width.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from polydit.domains.vision.autoencoder import KLAutoencoder, to_latents
from polydit.platform.mixers import NTKRotary, YaRNRotary

from .backbones import FiT, turning
from .entry import LENGTHS, Entry, Outputs, denoiser_entry, token_case


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
    *(
        denoiser_entry(
            f"any size/{rule.__name__}", partial(FiT, mixer=turning(scaling=rule(None, (1, 2)))), 47_207,
            partial(token_case, axes=2), max(LENGTHS), compiler="eager",
        )
        for rule in (NTKRotary, YaRNRotary)
    ),
]
