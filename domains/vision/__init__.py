"""Images with and without classes, in pixels and in the latents of an autoencoder."""
