"""What a model of clips answers: the clip it made, what it was given, and the true one where that is known.

Shape legend: F frames, h, w height and width in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .clips import Clip


@dataclass(frozen=True)
class ClipAnswer:
    """A clip made by a model.

    Args:
        clip: the clip; what was given is in it unchanged.
        task: what was asked, in the words of `polydit.data.video.wishes.TASKS`.
        given: [F, h, w] which pixels were given.
        truth: the clip that the given content is from; None: unknown, or nothing was given.
        others: further answers with other seeds, as `test` samples them with several hypotheses.
    """

    clip: Clip
    task: str
    given: NDArray[np.bool_]
    truth: Clip | None = None
    others: tuple[Clip, ...] = ()

    @property
    def name(self) -> str:
        """Name of the clip."""
        return self.clip.name

    @property
    def given_frames(self) -> NDArray[np.bool_]:
        """[F], which frames were given whole."""
        return np.asarray(self.given.all(axis=(1, 2)))
