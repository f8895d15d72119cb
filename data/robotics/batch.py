"""The batch of windows that a data module of demonstrations yields.

Shape legend: B windows, T_obs observations of a window's history, H actions, A numbers of an action, F future frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from polydit.data.tensor_batch import TensorBatch
from polydit.platform.errors import DataError


@dataclass
class TrajectoryBatch(TensorBatch):
    """Windows of demonstrations: what was seen, and what was done next.

    Args:
        observations: field -> [B, T_obs, ...], oldest first; vectors float32, cameras uint8 [B, T_obs, h, w, 3].
        observation_mask: [B, T_obs] bool; False where the window begins before the episode, and the first observation
            stands in.
        actions: [B, H, A] float32, environment units; the first answers the last observation.
        action_mask: [B, H] bool; False where the window runs past the end, and the last action stands in.
        instructions: what the robot was told, one per window; "" if nothing.
        tasks: environment specs, one per window; "" if unknown.
        future: field -> [B, F, ...], what was seen later; empty unless asked for.
        future_mask: [B, F] bool; False past the end, where the last observation stands in.
        frequency: [B] float32, control frequency in Hz; NaN where unknown.
        index: [B] long, place of each window over all windows of its split.
    """

    observations: dict[str, Tensor]
    observation_mask: Tensor
    actions: Tensor
    action_mask: Tensor
    instructions: list[str]
    tasks: list[str]
    future: dict[str, Tensor] = field(default_factory=dict)
    future_mask: Tensor | None = None
    frequency: Tensor | None = None
    index: Tensor | None = None

    def __len__(self) -> int:
        return len(self.actions)


def collate(batches: Sequence[TrajectoryBatch]) -> TrajectoryBatch:
    """One batch of the windows of several, in their order.

    Raises:
        DataError: if they differ in fields, or a field in shape, such as actions of different robots.
    """

    def join(name: str) -> Any:
        values = [getattr(batch, name) for batch in batches]
        if isinstance(values[0], list):
            return [entry for value in values for entry in value]
        if isinstance(values[0], dict):
            if len({tuple(sorted(value)) for value in values}) > 1:
                raise DataError(f"{name}: batches of unequal fields: {sorted({', '.join(sorted(v)) for v in values})}")
            return {key: _join(f"{name}.{key}", [value[key] for value in values]) for key in values[0]}
        return None if any(value is None for value in values) else _join(name, values)

    return TrajectoryBatch(**{entry.name: join(entry.name) for entry in fields(TrajectoryBatch)})


def _join(name: str, tensors: list[Tensor]) -> Tensor:
    shapes = sorted({tuple(tensor.shape[1:]) for tensor in tensors})
    if len(shapes) > 1:
        raise DataError(f"{name}: batches of unequal shapes {shapes[0]} and {shapes[1]}: batch each robot by itself")
    return torch.cat(tensors)
