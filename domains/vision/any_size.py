"""Codecs of images of any height and width: patches as tokens, with positions, smaller images padded (FiTv2).

Shape legend: B images, C channels, Y, X height and width of the state of an image, P patch, N tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from polydit.data.vision.pictures import ImageBatch, MixedImageBatch, Picture, to_pixels
from polydit.data.vision.wishes import ImageWish
from polydit.platform.denoisers import lay_grids, pad_images, unpad_images
from polydit.platform.errors import ConfigurationError, UserError
from polydit.platform.requests import Request
from polydit.platform.state import Layout, State

from .autoencoder import ImageAutoencoder
from .codec import CLASS, IMAGE, ImageCodec
from .latent import CHUNK, LatentImageCodec

MOST_TOKENS = 64
"""A sample may have this many times the tokens of the largest image of training."""


class TokenisedImages(ImageCodec):
    """What codecs of any size share: images as the field ``image`` [B, N, C P P], one patch a token.

    Positions [B, N, 2] are row and column of the patch, the mask tells real tokens from padding, and classes are the
    label ``class``. `TokenEmbedding` and `TokenHead` of a `DiT` read the field, and rotary positions of two axes tell
    where a patch lies, as in FiTv2 (arXiv 2410.13925).

    Attributes:
        patch: P.
        factor: pixels of an image for one of its state, in height and in width.
    """

    pads = any_size = True
    patch: int
    factor: int = 1

    def set_patch(self, patch: int) -> None:
        """Take P.

        Raises:
            ConfigurationError: if patches do not tile the square of the largest images.
        """
        self.patch = patch
        if patch < 1 or self.size % self.multiple:
            raise ConfigurationError(
                f"size {self.size} must be a multiple of patch {patch}"
                + (f" times the autoencoder's factor {self.factor}" if self.factor > 1 else "")
            )

    @property
    def multiple(self) -> int:
        """What heights and widths in pixels are multiples of."""
        return self.patch * self.factor

    def prepare(self, datamodule: Any) -> None:
        """Take what is needed of the data.

        Raises:
            ConfigurationError: if size, channels, number of classes or multiples of sides are not those of the data.
        """
        if datamodule.fit == "keep" and datamodule.multiple % self.multiple:
            raise ConfigurationError(
                f"heights and widths of the data are multiples of {datamodule.multiple}, and the codec needs multiples "
                f"of {self.multiple}: set data.multiple to {self.multiple}"
            )
        super().prepare(datamodule)

    def sizes(self, requests: Sequence[Request]) -> list[Any]:
        """Number of tokens of each image."""
        return [rows * columns for rows, columns in map(self._grid, requests)]

    def layout(self, requests: Sequence[Request]) -> Layout:
        """Layout of images of any sizes.

        Raises:
            UserError: if there is no such class, or a size is no multiple of the patch or far beyond those of training.
        """
        grids = [self._grid(request) for request in requests]
        mask, positions = lay_grids(grids)
        labels, extras = self._read_classes(requests)
        width = self.shape_of((self.size, self.size))[0] * self.patch**2
        return Layout(
            {IMAGE: (*mask.shape, width)}, {IMAGE: mask}, {IMAGE: positions}, labels,
            tuple(request.seed for request in requests), {**extras, "grids": grids},
        )

    def _grid(self, request: Request) -> tuple[int, int]:
        height, width = ImageWish.parse(request.wishes).size or (self.size, self.size)
        step, trained = self.multiple, (self.size // self.multiple) ** 2
        if height % step or width % step:
            near = " x ".join(str(max(step, round(side / step) * step)) for side in (height, width))
            raise UserError(f"size {height} x {width} cannot be cut into squares of {step} pixels: ask for {near}")
        rows, columns = height // step, width // step
        if rows * columns > MOST_TOKENS * trained:
            raise UserError(
                f"size {height} x {width} is {rows * columns} tokens, more than {MOST_TOKENS} times the {trained} of "
                f"training: ask for at most {MOST_TOKENS * self.size**2} pixels"
            )
        return rows, columns

    def _tokenise(self, images: Sequence[Tensor], batch: ImageBatch | MixedImageBatch) -> tuple[State, Layout]:
        patches = pad_images(images, self.patch)
        labels = {CLASS: batch.labels + 1} if self.count else {}
        layout = Layout(
            {IMAGE: tuple(patches.tokens.shape)}, {IMAGE: patches.mask}, {IMAGE: patches.positions}, labels
        )
        return {IMAGE: patches.tokens}, layout

    def _untokenise(self, state: State, layout: Layout) -> list[Tensor]:
        return unpad_images(state[IMAGE], layout.extras["grids"], self.patch)


class AnySizeImageCodec(TokenisedImages):
    """Pixels in [-1, 1] of images of any height and width.

    Args:
        size: images of training have at most as many pixels as a square of this side, and samples that ask for no size
            are that square.
        channels: C, 1 or 3.
        classes: number of classes, see `ImageCodec`.
        patch: P, which divides every height and width.

    Raises:
        ConfigurationError: if the patch does not divide the size, or a number is out of range.
    """

    def __init__(self, size: int, channels: int = 3, classes: int = 0, patch: int = 2) -> None:
        super().__init__(size, channels, classes)
        self.set_patch(patch)

    def encode(self, batch: ImageBatch | MixedImageBatch, generator: torch.Generator) -> tuple[State, Layout]:
        """Tokens of images in [-1, 1]; nothing is drawn."""
        return self._tokenise([image.float() / 127.5 - 1 for image in batch.images], batch)

    def decode(self, state: State, layout: Layout) -> list[Picture]:
        """One `Picture` per sample, of the size that was asked for."""
        return self._make_pictures([to_pixels(image[None])[0] for image in self._untokenise(state, layout)], layout)


class AnySizeLatentCodec(TokenisedImages, LatentImageCodec):
    """Latents of a frozen autoencoder, of images of any height and width; images of one size go through it together.

    Args:
        autoencoder: path of a checkpoint of the first stage, or the autoencoder itself.
        size: in pixels, see `AnySizeImageCodec`.
        classes: number of classes.
        patch: P, in latents.
        scale, use_mean, normaliser_batches: see `LatentImageCodec`.

    Raises:
        ConfigurationError: if the patch times the autoencoder's factor does not divide the size.
        CheckpointError: if the checkpoint holds another kind of model.
    """

    def __init__(
        self,
        autoencoder: ImageAutoencoder | str,
        size: int,
        classes: int = 0,
        patch: int = 2,
        scale: float | None = None,
        use_mean: bool = False,
        normaliser_batches: int = 20,
    ) -> None:
        super().__init__(autoencoder, size, classes, scale, use_mean, normaliser_batches)
        self.factor = self.autoencoder.factor
        self.set_patch(patch)

    @torch.no_grad()
    def encode(self, batch: ImageBatch | MixedImageBatch, generator: torch.Generator) -> tuple[State, Layout]:
        """Tokens of latents."""
        latents = self._latents(batch, generator)
        return self._tokenise([(latent - self.latent_mean) / self.latent_std for latent in latents], batch)

    @torch.no_grad()
    def decode(self, state: State, layout: Layout) -> list[Picture]:
        """One `Picture` per sample, of the size that was asked for."""
        latents = [latent * self.latent_std + self.latent_mean for latent in self._untokenise(state, layout)]
        images = map_by_shape(latents, self.autoencoder.decode)
        return self._make_pictures([to_pixels(image[None])[0] for image in images], layout)

    def _latents(self, batch: ImageBatch | MixedImageBatch, generator: torch.Generator) -> list[Tensor]:
        return map_by_shape(list(batch.images), partial(self._compress, generator=generator))


def map_by_shape(images: Sequence[Tensor], function: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """Results of a function of batches [b, C, Y, X], for images [C, Y, X] of any shapes, in their order."""
    results: list[Tensor] = list(images)
    shapes = [tuple(image.shape) for image in images]
    for shape in dict.fromkeys(shapes):
        places = [place for place, other in enumerate(shapes) if other == shape]
        for start in range(0, len(places), CHUNK):
            part = places[start : start + CHUNK]
            for place, result in zip(part, function(torch.stack([images[p] for p in part])), strict=True):
                results[place] = result
    return results
