"""The contract of a system: everything that `polydit.platform.module.GenerativeModule` trains and samples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..requests import Request, Sample


class System(nn.Module, ABC):
    """A trainable whole: it turns a batch into losses and requests into samples."""

    @abstractmethod
    def losses(self, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:
        """Named scalar losses of a batch; the entry ``"loss"`` is the total that is minimised.

        Args:
            batch: what the data module yields.
            generator: the only source of randomness, on the module's device.
        """

    @abstractmethod
    def generate(self, requests: Sequence[Request]) -> list[Sample]:
        """One sample per request, in the order of the requests; a sample depends on its own seed alone."""

    def reconstruct(self, batch: Any) -> list[Any]:
        """What `test` evaluates of a held-out batch beside its losses; nothing by default."""
        return []

    def present(self, item: Any) -> Any:
        """The item as an object of the field's own library; the item itself by default."""
        return item

    def prepare(self, datamodule: Any) -> None:
        """Take statistics from the training split, before training starts; they travel in the checkpoint."""
        return None

    def uneven_passes(self) -> str:
        """Why processes may run the network unequally often in one step, which sharded weights forbid; "": never."""
        return ""

    def portable_config(self, config: dict[str, Any]) -> dict[str, Any]:
        """`config` (this system's init_args) with every path to another checkpoint replaced by what it held."""
        return config
