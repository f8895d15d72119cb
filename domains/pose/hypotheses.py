"""What a pose model gives: hypotheses for one picture, and held-out pictures with the truth beside them.

Shape legend: H hypotheses.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class PoseHypotheses:
    """Hypotheses of one person's pose.

    Args:
        name: of the picture.
        poses: [H, 17, 3] float32 metres from the pelvis, in camera axes (x right, y down, z forwards), in the order of
            `polydit.data.pose.skeleton.JOINTS`.
        heatmaps: [16, 64, 64] they were drawn for.
        truth: [17, 3] the true pose; None if unknown.
    """

    name: str
    poses: NDArray[np.float32]
    heatmaps: NDArray[np.float32] = field(repr=False)
    truth: NDArray[np.float32] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class PoseComparison:
    """A held-out view beside its hypotheses.

    Args:
        clip: name of its clip.
        frame: place of the frame in the clip.
        poses: [H, 17, 3] as in `PoseHypotheses`.
        truth: [17, 3].
        exchanged: [17] bool, joints of which the heatmap has a second peak, at their counterpart.
        occluded: [17] bool, joints that are hidden.
    """

    clip: str
    frame: int
    poses: NDArray[np.float32]
    truth: NDArray[np.float32]
    exchanged: NDArray[np.bool_]
    occluded: NDArray[np.bool_]
