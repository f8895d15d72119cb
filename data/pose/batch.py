"""The batch that the data module of poses yields.

Shape legend: B views, J heatmap joints, S pixels along each side.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from polydit.data.tensor_batch import TensorBatch


@dataclass
class PoseBatch(TensorBatch):
    """Views of people: what a detector says, and how they stand.

    Args:
        heatmaps: [B, J, S, S] float32, rows downwards, in the order of `skeleton.HEATMAP_JOINTS`; raw values.
        poses: [B, 17, 3] float32 metres from the pelvis, in camera axes (x right, y down, z forwards).
        exchanged: [B, 17] bool, joints whose heatmap has a second peak at their counterpart.
        occluded: [B, 17] bool, joints whose heatmap is low and broad, or empty.
        clips: name of the clip, one per view.
        frames: [B] long, place of the frame in its clip.
        index: [B] long, place of the view in its split.
    """

    heatmaps: Tensor
    poses: Tensor
    exchanged: Tensor
    occluded: Tensor
    clips: list[str]
    frames: Tensor
    index: Tensor

    def __len__(self) -> int:
        return len(self.poses)
