"""The batch that the data module of poses yields.

Shape legend: B views, J heatmap joints, S pixels along each side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor


@dataclass
class PoseBatch:
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

    def to(self, device: torch.device | str, non_blocking: bool = False) -> PoseBatch:
        """Copy with every tensor on `device`."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> PoseBatch:
        """Copy in page-locked memory; a data loader with ``pin_memory=True`` calls it."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, function: Callable[[Tensor], Tensor]) -> PoseBatch:
        values: dict[str, Any] = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        moved: dict[str, Any] = {name: function(value) for name, value in values.items() if isinstance(value, Tensor)}
        return replace(self, **moved)
