"""The conditioner: labels of a layout to a `Condition`, with dropping in training and a null per axis.

Shape legend: B batch, N tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from ..state import Condition, Tokens
from .axes import Axis


class Conditioner(nn.Module):
    """Embeds every axis that it was given; labels that a batch lacks count as unknown.

    Args:
        width: D, that of the denoiser.
        axes: axis name -> factory of an `Axis` from the width. Names are those of the layout's labels.
    """

    def __init__(self, width: int, axes: dict[str, Callable[[int], Axis]]) -> None:
        super().__init__()
        self.axes = nn.ModuleDict({name: axes[name](width) for name in sorted(axes)})

    def encode(
        self,
        labels: Mapping[str, Tensor],
        batch_size: int,
        device: torch.device,
        generator: torch.Generator | None = None,
    ) -> Condition:
        """Condition of a batch.

        Args:
            labels: axis -> raw label, leading dimension B; axes without one are unknown.
            batch_size: B.
            device: where the labels are.
            generator: if given (training), known labels are dropped with their axis's probability.
        """
        condition = Condition()
        for name, axis in self._items():
            raw = labels.get(name)
            if raw is None:
                raw = axis.unknown(batch_size, device)
            keep = None
            if generator is not None and axis.dropout > 0:
                keep = torch.rand(batch_size, device=device, generator=generator) >= axis.dropout
            embedded = axis(raw, keep)
            if axis.role == "tokens":
                condition.tokens[name] = Tokens(embedded, axis.real(raw))
            else:
                (condition.channels if axis.role == "channels" else condition.vectors)[name] = embedded
        return condition

    def null(self, condition: Condition, axes: Collection[str]) -> Condition:
        """Copy of `condition` in which these axes tell nothing."""
        result = Condition(dict(condition.vectors), dict(condition.tokens), dict(condition.channels))
        for name, axis in self._items():
            if name not in axes:
                continue
            if axis.role == "tokens":
                group = result.tokens[name]
                result.tokens[name] = replace(group, features=axis.null.to(group.features).expand_as(group.features))
            else:
                entries = result.channels if axis.role == "channels" else result.vectors
                entries[name] = axis.null.to(entries[name].dtype).expand_as(entries[name])
        return result

    def prepare(self, statistics: Mapping[str, tuple[float, float]]) -> None:
        """Hand each scalar axis the mean and standard deviation of its label in the training split."""
        for name, axis in self._items():
            if name in statistics:
                axis.prepare(*statistics[name])

    def _items(self) -> list[tuple[str, Axis]]:
        return [(name, axis) for name, axis in self.axes.items() if isinstance(axis, Axis)]
