"""Codec of images of any height and width: their patches as tokens, with positions, smaller images padded (FiTv2).

Shape legend: B images, C channels, Y, X height and width of an image, P patch, N tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from polydit.data.vision.pictures import ImageBatch, MixedImageBatch, Picture, to_pixels
from polydit.data.vision.wishes import ImageWish
from polydit.platform.denoisers import lay_grids, pad_images, unpad_images
from polydit.platform.errors import ConfigurationError, UserError
from polydit.platform.requests import Request
from polydit.platform.state import Layout, State

from .codec import CLASS, IMAGE, ImageCodec

MOST_TOKENS = 64
"""A sample may have this many times the tokens of the largest image of training."""


class AnySizeImageCodec(ImageCodec):
    """Images of any size and shape as the field ``image`` [B, N, C P P] in [-1, 1], one patch a token.

    Positions [B, N, 2] are row and column of the patch, the mask tells real tokens from padding, and classes are the
    label ``class``. `TokenEmbedding` and `TokenHead` of a `DiT` read the field, and rotary positions of two axes tell
    where a patch lies, as in FiTv2 (arXiv 2410.13925).

    Args:
        size: images of training have at most as many pixels as a square of this side, and samples that ask for no size
            are that square.
        channels: C, 1 or 3.
        classes: number of classes, see `ImageCodec`.
        patch: P, which divides every height and width.

    Raises:
        ConfigurationError: if the patch does not divide the size, or a number is out of range.
    """

    pads = True

    def __init__(self, size: int, channels: int = 3, classes: int = 0, patch: int = 2) -> None:
        super().__init__(size, channels, classes)
        if patch < 1 or size % patch:
            raise ConfigurationError(f"patch {patch} must be a divisor of size {size}")
        self.patch = patch

    @property
    def multiple(self) -> int:
        """What heights and widths in pixels are multiples of."""
        return self.patch

    def prepare(self, datamodule: Any) -> None:
        """Take the names of the classes.

        Raises:
            ConfigurationError: if size, channels, number of classes or multiples of sides are not those of the data.
        """
        super().prepare(datamodule)
        if datamodule.fit == "keep" and datamodule.multiple % self.multiple:
            raise ConfigurationError(
                f"heights and widths of the data are multiples of {datamodule.multiple}, and the codec's patches need "
                f"multiples of {self.multiple}: set data.multiple to {self.multiple}"
            )

    def encode(self, batch: ImageBatch | MixedImageBatch, generator: torch.Generator) -> tuple[State, Layout]:
        """Tokens of images in [-1, 1]; nothing is drawn."""
        return self._tokenise([image.float() / 127.5 - 1 for image in batch.images], batch)

    def sizes(self, requests: Sequence[Request]) -> list[int]:
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
        return Layout(
            {IMAGE: (*mask.shape, self.token_width)}, {IMAGE: mask}, {IMAGE: positions}, labels,
            tuple(request.seed for request in requests), {**extras, "grids": grids},
        )

    @property
    def token_width(self) -> int:
        """Values of a token, C P P."""
        return self.shape_of((self.size, self.size))[0] * self.patch**2

    @torch.no_grad()
    def decode(self, state: State, layout: Layout) -> list[Picture]:
        """One `Picture` per sample, of the size that was asked for."""
        images = unpad_images(state[IMAGE], layout.extras["grids"], self.patch)
        return self._make_pictures([to_pixels(image[None])[0] for image in images], layout)

    def _grid(self, request: Request) -> tuple[int, int]:
        height, width = ImageWish.parse(request.wishes).size or (self.size, self.size)
        step = self.multiple
        if height % step or width % step:
            near = " x ".join(str(max(step, round(side / step) * step)) for side in (height, width))
            raise UserError(
                f"size {height} x {width} is no multiple of {step}, the side of a patch in pixels: ask for {near}"
            )
        rows, columns = height // step, width // step
        limit = MOST_TOKENS * (self.size // step) ** 2
        if rows * columns > limit:
            raise UserError(
                f"size {height} x {width} is {rows * columns} tokens, more than {MOST_TOKENS} times the "
                f"{(self.size // step) ** 2} of training: ask for at most {limit * step**2} pixels"
            )
        return rows, columns

    def _tokenise(self, images: Sequence[Tensor], batch: ImageBatch | MixedImageBatch) -> tuple[State, Layout]:
        patches = pad_images(images, self.patch)
        labels = {CLASS: batch.labels + 1} if self.count else {}
        layout = Layout(
            {IMAGE: tuple(patches.tokens.shape)}, {IMAGE: patches.mask}, {IMAGE: patches.positions}, labels
        )
        return {IMAGE: patches.tokens}, layout
