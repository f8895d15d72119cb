"""The item of the domain: a tissue image beside its virtual stain and, where it is known, the true one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from polydit.data.pathology.brown import make_mask
from polydit.data.pathology.tiles import Picture


@dataclass(frozen=True)
class VirtualStain:
    """A virtual stain.

    Args:
        he: what it was made from [h, w, 3].
        stain: the generated IHC image [h, w, 3].
        truth: the true one, pixel by pixel in place; None: unknown.
        others: further answers with other seeds, as `test` samples them with several hypotheses.
        threshold: concentration of brown from which on tissue counts as stained.
        smoothing: of the brown channel, in pixels.
        name: of the tile.
        slide: of the slide or patient; "" if unknown.
    """

    he: Picture
    stain: Picture
    truth: Picture | None
    others: tuple[Picture, ...] = ()
    threshold: float = 0.05
    smoothing: float = 1.0
    name: str = ""
    slide: str = ""

    @property
    def answers(self) -> tuple[Picture, ...]:
        """All generated images."""
        return (self.stain, *self.others)

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """Where the generated image is brown [h, w]."""
        return self.mask_of(self.stain)

    @cached_property
    def true_mask(self) -> NDArray[np.bool_] | None:
        """Where the true image is brown."""
        return None if self.truth is None else self.mask_of(self.truth)

    def mask_of(self, picture: Picture) -> NDArray[np.bool_]:
        """Where an image is brown by this item's threshold."""
        return make_mask(picture, self.threshold, self.smoothing)
