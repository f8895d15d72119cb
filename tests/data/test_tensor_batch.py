"""A batch moves with all tensors it holds, and keeps what is none."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from polydit.data.tensor_batch import TensorBatch


@dataclass
class Batch(TensorBatch):
    whole: Tensor
    several: list[Tensor]
    named: dict[str, Tensor]
    absent: Tensor | None = None
    names: list[str] = field(default_factory=list)


def test_every_tensor_moves_and_nothing_else_changes() -> None:
    batch = Batch(torch.ones(2), [torch.ones(1), torch.ones(3)], {"gap": torch.ones(2)}, None, ["a", "b"])
    moved = batch.to("meta")
    assert type(moved) is Batch
    assert [t.device.type for t in (moved.whole, *moved.several, moved.named["gap"])] == ["meta"] * 4
    assert [tuple(t.shape) for t in moved.several] == [(1,), (3,)]
    assert moved.absent is None and moved.names == ["a", "b"]
    assert batch.whole.device.type == "cpu" and batch.several[0].device.type == "cpu"
