"""Codecs of images: pixels as they are, and the latents of a frozen autoencoder.

Shape legend: B images, C channels, Y, X height and width of an image, y, x of a latent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from polydit.data.vision.decoding import EXTRA
from polydit.data.vision.pictures import UNKNOWN, ImageBatch, Picture, Pixels, to_pixels
from polydit.data.vision.wishes import ImageWish
from polydit.platform.codec import Codec
from polydit.platform.errors import ConfigurationError, require
from polydit.platform.requests import Request
from polydit.platform.state import Layout, State

IMAGE = "image"
"""The field."""

CLASS = "class"
"""The axis; a label is the number of a class from 1, 0 says nothing."""

NAME_BYTES = 64
"""A class name is kept in the checkpoint up to this length in UTF-8."""


class ImageCodec(Codec):
    """Images as the field ``image`` [B, C, Y, X] in [-1, 1], classes as the label ``class``.

    Names of classes are part of the checkpoint, so that a model can be asked for them by name.

    Args:
        size: side of the images of training, and of samples that ask for no other.
        channels: C, 1 or 3.
        classes: number of classes, that of the conditioner's axis; 0: none, labels of the data are not used.

    Raises:
        ConfigurationError: if a number is out of range.
    """

    pads = False
    any_size: bool = False
    """Whether images in a batch may be of different sizes."""
    names: Tensor

    def __init__(self, size: int, channels: int = 3, classes: int = 0) -> None:
        super().__init__()
        if size < 1 or channels < 1 or classes < 0:
            raise ConfigurationError(
                f"size {size} and channels {channels} must be positive, classes {classes} not negative"
            )
        self.size, self.channels, self.count = size, channels, classes
        self.register_buffer("names", torch.zeros(classes, NAME_BYTES, dtype=torch.uint8))

    @property
    def classes(self) -> list[str]:
        """Names of the classes; their numbers where training has not given any."""
        rows = [bytes(row).rstrip(b"\0").decode("utf-8", "ignore") for row in self.names.cpu().tolist()]
        return [name or str(number) for number, name in enumerate(rows)]

    def prepare(self, datamodule: Any) -> None:
        """Take the names of the classes.

        Raises:
            ConfigurationError: if size, channels or number of classes are not those of the data.
        """
        if datamodule.size != self.size or datamodule.decoder.channels != self.channels:
            raise ConfigurationError(
                f"the codec has images of {self.size} pixels and {self.channels} channels, the data of "
                f"{datamodule.size} and {datamodule.decoder.channels}: set data.size and data.decoder.channels alike"
            )
        if datamodule.fit == "keep" and not self.any_size:
            raise ConfigurationError(
                f"data.fit is keep, and {type(self).__name__} has images of one size: set fit to crop, or take "
                "polydit.domains.vision.any_size.AnySizeImageCodec or AnySizeLatentCodec"
            )
        if self.count and len(datamodule.classes) != self.count:
            raise ConfigurationError(
                f"the data have {len(datamodule.classes)} classes and the codec {self.count}: set the codec's classes "
                "and the axis's num_classes to their number, or classes to 0 for a model without"
            )
        for row, name in enumerate(datamodule.classes if self.count else ()):
            encoded = name.encode("utf-8")[:NAME_BYTES].ljust(NAME_BYTES, b"\0")
            self.names[row] = torch.tensor(list(encoded), dtype=torch.uint8)

    def encode(self, batch: ImageBatch, generator: torch.Generator) -> tuple[State, Layout]:
        """Images in [-1, 1]; nothing is drawn, for the data module has cropped and flipped."""
        return self._lay_out(batch.images.float() / 127.5 - 1, batch)

    def sizes(self, requests: Sequence[Request]) -> list[Any]:
        """Height and width of each image."""
        return [ImageWish.parse(request.wishes).size or (self.size, self.size) for request in requests]

    def layout(self, requests: Sequence[Request]) -> Layout:
        """Layout of images of one size.

        Raises:
            UserError: if there is no such class, or images of several sizes are asked for in one batch.
        """
        sizes = set(self.sizes(requests))
        if len(sizes) > 1:
            raise ConfigurationError(f"images of {len(sizes)} sizes were asked for in one batch: ask for one at a time")
        labels, extras = self._read_classes(requests)
        return Layout(
            {IMAGE: (len(requests), *self.shape_of(sizes.pop()))}, labels=labels,
            seeds=tuple(request.seed for request in requests), extras=extras,
        )

    def shape_of(self, size: tuple[int, int]) -> tuple[int, int, int]:
        """Shape [C, Y, X] of the state of an image of this height and width."""
        return self.channels, *size

    def decode(self, state: State, layout: Layout) -> list[Picture]:
        """One `Picture` per sample."""
        return self._make_pictures(to_pixels(state[IMAGE]), layout)

    def present(self, item: Picture) -> Any:
        """A Pillow image."""
        pillow = require("PIL.Image", EXTRA)
        return pillow.fromarray(item.pixels[..., 0] if item.pixels.shape[2] == 1 else item.pixels)

    def _read_classes(self, requests: Sequence[Request]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Labels of a layout, none if no class is asked for, and its extras."""
        names = self.classes
        wanted = [ImageWish.parse(request.wishes).resolve(names) for request in requests]
        extras = {"labels": [UNKNOWN if label is None else label for label in wanted]}
        if all(label is None for label in wanted):
            return {}, extras
        return {CLASS: torch.tensor([0 if label is None else label + 1 for label in wanted])}, extras

    def _make_pictures(self, images: Sequence[Pixels], layout: Layout) -> list[Picture]:
        names = self.classes
        return [
            Picture(pixels, label, "" if label == UNKNOWN else names[label])
            for pixels, label in zip(images, layout.extras["labels"], strict=True)
        ]

    def _lay_out(self, field: Tensor, batch: ImageBatch) -> tuple[State, Layout]:
        labels = {CLASS: batch.labels + 1} if self.count else {}
        return {IMAGE: field}, Layout({IMAGE: tuple(field.shape)}, labels=labels)
