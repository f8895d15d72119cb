"""What every batch does alike: it moves to a device, and into page-locked memory, with all tensors it holds."""

from __future__ import annotations

from typing import Any, Self

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor


class TensorBatch:
    """Base of batches that are dataclasses of tensors, of lists and dicts of tensors, and of facts beside them."""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """Copy with every tensor on `device`."""
        moved: Any = apply_to_collection(self, Tensor, Tensor.to, device, non_blocking=non_blocking)
        return moved

    def pin_memory(self) -> Self:
        """Copy in page-locked memory; a data loader with ``pin_memory=True`` calls it."""
        pinned: Any = apply_to_collection(self, Tensor, Tensor.pin_memory)
        return pinned
