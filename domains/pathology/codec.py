"""The codec of virtual staining: pairs of images to a state and back, H&E to a label.

Shape legend: B images, h, w height and width as asked for, Y, X the same, extended to a tile where smaller.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polydit.data.pathology.tiles import Picture, TileBatch, to_tensor
from polydit.data.pathology.wishes import StainWish
from polydit.platform.codec import Codec
from polydit.platform.errors import CheckpointError, UserError
from polydit.platform.requests import Request, Sample
from polydit.platform.state import Layout, State

from .denoiser import MASK, STAIN, TISSUE
from .item import VirtualStain

MAX_PIXELS = 64_000_000


class StainCodec(Codec):
    """IHC images as the field ``stain`` [B, 3, Y, X], masks of stained cells as ``mask`` [B, 1, Y, X], both in [-1, 1].

    H&E is the label ``tissue`` [B, 3, Y, X] uint8. Only training has masks: a sample is a stain alone, so that neither
    its noise nor its walk knows of the other branch. Images smaller than a tile are extended by their mirror image, and
    the sample is cut back. The brown threshold of the training split is part of the checkpoint.

    Args:
        tile: side of the tiles of training, that of the denoiser.
        segmentation: whether the mask is a field; False once the branch has been taken out.
        max_pixels: largest image that is stained at once; of a larger one, regions are.
    """

    pads = False
    threshold: Tensor
    smoothing: Tensor

    def __init__(self, tile: int = 256, segmentation: bool = True, max_pixels: int = MAX_PIXELS) -> None:
        super().__init__()
        self.tile, self.segmentation, self.max_pixels = tile, segmentation, max_pixels
        self.register_buffer("threshold", torch.tensor(float("nan"), dtype=torch.float64))
        self.register_buffer("smoothing", torch.tensor(1.0))

    def prepare(self, datamodule: Any) -> None:
        """Take the brown threshold of the training split."""
        self.threshold.fill_(datamodule.brown_threshold)
        self.smoothing.fill_(datamodule.smoothing)

    def encode(self, batch: TileBatch, generator: torch.Generator) -> tuple[State, Layout]:
        """Images and masks in [-1, 1]; nothing is drawn, for the data module has flipped and turned."""
        state = {STAIN: batch.ihc.float() / 127.5 - 1}
        if self.segmentation:
            state[MASK] = batch.mask.float() * 2 - 1
        return state, Layout({name: tuple(value.shape) for name, value in state.items()}, labels={TISSUE: batch.he})

    def sizes(self, requests: Sequence[Request]) -> list[tuple[int, int]]:
        """Height and width of each image, from its header."""
        return [StainWish.parse(request.wishes).size for request in requests]

    def layout(self, requests: Sequence[Request]) -> Layout:
        """Layout of images of one size, read from their files.

        Raises:
            UserError: if they have several sizes, or are too large.
            DataError: if a file cannot be read.
        """
        wishes = [StainWish.parse(request.wishes) for request in requests]
        sizes = {wish.size for wish in wishes}
        if len(sizes) > 1:
            raise UserError(f"images of {len(sizes)} sizes were asked for in one batch: ask for one size at a time")
        height, width = sizes.pop()
        if height * width > self.max_pixels:
            raise UserError(
                f"an image of {height} x {width} has more than {self.max_pixels:,} pixels, and all its windows are "
                "denoised at once: ask for regions of it (region: [x, y, width, height]), or raise max_pixels"
            )
        pairs = [wish.read() for wish in wishes]
        tissue = torch.stack([to_tensor(extend(image, self.tile)) for image, _ in pairs])
        return Layout(
            {STAIN: tuple(tissue.shape)}, labels={TISSUE: tissue}, seeds=tuple(request.seed for request in requests),
            extras={"pairs": pairs, "names": [wish.name for wish in wishes]},
        )

    def decode(self, state: State, layout: Layout) -> list[VirtualStain]:
        """One `VirtualStain` per sample, of the size of its image."""
        return [
            self._make(image, truth, [picture[: image.shape[0], : image.shape[1]]], name, "")
            for picture, (image, truth), name in zip(
                to_pictures(state[STAIN]), layout.extras["pairs"], layout.extras["names"], strict=True
            )
        ]

    def question(self, batch: TileBatch) -> Layout:
        """Held-out H&E tiles, each with the seed of its place in the split."""
        return Layout(
            {STAIN: tuple(batch.ihc.shape)}, labels={TISSUE: batch.he}, seeds=tuple(batch.index.tolist())
        )

    def compare(self, batch: TileBatch, answers: Sequence[State], layout: Layout) -> list[Sample]:
        """Held-out tiles beside their virtual stains, as samples, so that they are written and shown like those."""
        pictures = [to_pictures(answer[STAIN]) for answer in answers]
        he, ihc = (to_pictures(image.float() / 127.5 - 1) for image in (batch.he, batch.ihc))
        return [
            Sample(
                Request(layout.seeds[row], {"image": batch.names[row]}),
                self._make(he[row], ihc[row], [each[row] for each in pictures], batch.names[row], batch.slides[row]),
            )
            for row in range(len(batch))
        ]

    def present(self, item: VirtualStain) -> Picture:
        """The generated image [h, w, 3] uint8."""
        return item.stain

    def _make(
        self, he: Picture, truth: Picture | None, answers: Sequence[Picture], name: str, slide: str
    ) -> VirtualStain:
        threshold = float(self.threshold)
        if not threshold > 0:
            raise CheckpointError("the codec has no brown threshold: train first, load a checkpoint or call prepare")
        return VirtualStain(he, answers[0], truth, tuple(answers[1:]), threshold, float(self.smoothing), name, slide)


def extend(image: Picture, tile: int) -> Picture:
    """The image [h, w, 3], mirrored below and to the right where it is smaller than a tile."""
    missing = [(0, max(0, tile - size)) for size in image.shape[:2]]
    return np.pad(image, [*missing, (0, 0)], mode="symmetric") if any(after for _, after in missing) else image


def to_pictures(images: Tensor) -> list[Picture]:
    """Images [h, w, 3] uint8 of [B, 3, h, w] in [-1, 1]."""
    values = ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return list(values.permute(0, 2, 3, 1).cpu().numpy())
