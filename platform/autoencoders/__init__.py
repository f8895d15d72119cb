"""Autoencoders: what latent diffusion stands on."""

from .autoencoder import Autoencoder, Reconstruction
from .bottleneck import DiagonalGaussian, GaussianBottleneck

__all__ = ["Autoencoder", "DiagonalGaussian", "GaussianBottleneck", "Reconstruction"]
