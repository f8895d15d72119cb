"""Systems: what is trained as a whole. A diffusion model and an autoencoder are two of them."""
