"""ADiT, the All-atom Diffusion Transformer (arXiv 2503.03965): molecules and crystals in one latent space."""

from .autoencoder import AtomAutoencoder
from .codec import LatentAtomCodec

__all__ = ["AtomAutoencoder", "LatentAtomCodec"]
