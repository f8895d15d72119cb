"""Normalisers of one field: statistics of the training split, kept as buffers so that they travel in the checkpoint.

Shape legend: S the shape of one value of the field, such as (26,) joints; ... any leading dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from .errors import CheckpointError, ConfigurationError, DataError

Kind = Literal["standard", "range", "quantile", "identity"]

CONSTANT = 1e-6
"""A spread below this, relative to the middle of the dimension or to 1, is rounding: the dimension is constant."""


@dataclass(frozen=True)
class FieldStatistics:
    """What a normaliser needs to know of a field, over the training split.

    Args:
        mean, std, minimum, maximum: [*S], in the unit of the field; std is that of the population.
        low, high: [*S] 1 % and 99 % quantiles; None where nobody computed them.
        count: values that went in.
    """

    mean: Tensor
    std: Tensor
    minimum: Tensor
    maximum: Tensor
    low: Tensor | None = None
    high: Tensor | None = None
    count: int = 0


class Normaliser(nn.Module):
    """Brings one field to unit scale, and back.

    A dimension that is constant in the training split is mapped to 0 and restored to its constant, whatever a model
    makes of it: dividing by its spread would blow rounding up to the size of a signal.

    Args:
        size: length of a value, or its whole shape S; fixed beforehand, since a checkpoint is loaded into it.
        kind: "standard" to mean 0 and standard deviation 1; "range" maps minimum and maximum to -1 and 1; "quantile"
            the same for the 1 % and 99 % quantiles, so that a few outliers do not squeeze all the rest; "identity"
            leaves values alone and needs no statistics.
        name: of the field, for messages.

    Raises:
        ConfigurationError: if `kind` is unknown or a size is not positive.
    """

    shift: Tensor
    scale: Tensor
    prepared: Tensor

    def __init__(self, size: int | Sequence[int], kind: Kind = "standard", name: str = "field") -> None:
        super().__init__()
        self.shape = (size,) if isinstance(size, int) else tuple(size)
        if kind not in get_args(Kind):
            raise ConfigurationError(f"kind of a normaliser is one of {', '.join(get_args(Kind))}, not {kind!r}")
        if not self.shape or min(self.shape) < 1:
            raise ConfigurationError(f"size of normaliser {name!r} must be positive, not {size!r}")
        self.kind = kind
        self.name = name
        self.register_buffer("shift", torch.zeros(self.shape))
        self.register_buffer("scale", torch.ones(self.shape))
        self.register_buffer("prepared", torch.tensor(kind == "identity"))
        self._ready = False

    def prepare(self, statistics: FieldStatistics) -> None:
        """Take the statistics of the training split.

        Raises:
            DataError: if they are not finite, naming the first dimension, or of another shape, or lack the quantiles.
        """
        if self.kind == "identity":
            return
        shift, scale = self._measure(statistics)
        if shift.shape != self.shape:
            raise DataError(
                f"{self.name}: the data have shape {tuple(shift.shape)}, the normaliser {self.shape}: set its size"
            )
        bad = torch.nonzero(~(torch.isfinite(shift) & torch.isfinite(scale)))
        if len(bad):
            place = ", ".join(str(i) for i in bad[0].tolist())
            raise DataError(
                f"{self.name}: the statistics of dimension {place} are not finite (mean "
                f"{_at(statistics.mean, bad[0])}, minimum {_at(statistics.minimum, bad[0])}, maximum "
                f"{_at(statistics.maximum, bad[0])}): look for NaN or infinite values in the data"
            )
        magnitude = shift.abs().clamp(min=1.0)
        self.shift.copy_(shift)
        self.scale.copy_(torch.where(scale > CONSTANT * magnitude, scale, torch.zeros_like(scale)))
        self.prepared.fill_(True)

    def normalise(self, values: Tensor) -> Tensor:
        """`values` [..., *S] in the field's unit at unit scale, in float32 at least.

        Raises:
            CheckpointError: if no statistics were taken or loaded.
            DataError: if the trailing shape is not S.
        """
        self._check(values)
        if self.kind == "identity":
            return values
        constant = self.scale == 0
        scaled = (values - self.shift) / torch.where(constant, torch.ones_like(self.scale), self.scale)
        return torch.where(constant, torch.zeros_like(scaled), scaled)

    def restore(self, values: Tensor) -> Tensor:
        """`values` [..., *S] at unit scale in the field's unit: undoes `normalise`.

        Raises:
            CheckpointError, DataError: as `normalise`.
        """
        self._check(values)
        return values if self.kind == "identity" else values * self.scale + self.shift

    def extra_repr(self) -> str:
        """What ``print`` shows."""
        return f"{self.name!r}, size={self.shape}, kind={self.kind!r}, prepared={bool(self.prepared)}"

    def _measure(self, statistics: FieldStatistics) -> tuple[Tensor, Tensor]:
        """Shift and scale [*S] in float32, computed in float64 where the statistics are."""
        if self.kind == "standard":
            return statistics.mean.float(), statistics.std.float()
        low, high = statistics.minimum, statistics.maximum
        if self.kind == "quantile":
            if statistics.low is None or statistics.high is None:
                raise DataError(f"{self.name}: kind 'quantile' needs quantiles, which were not computed: ask for them")
            low, high = statistics.low, statistics.high
        return ((high + low) / 2).float(), ((high - low) / 2).float()

    def _check(self, values: Tensor) -> None:
        # Read once: on an accelerator every look at a buffer waits for the device.
        if not self._ready:
            if not bool(self.prepared):
                raise CheckpointError(
                    f"the normaliser of {self.name!r} has no statistics: train first, load a checkpoint or call prepare"
                )
            self._ready = True
        if tuple(values.shape[-len(self.shape) :]) != self.shape:
            raise DataError(f"{self.name}: values of shape {tuple(values.shape)} do not end in {self.shape}")


def _at(values: Tensor, place: Tensor) -> float:
    return float(values[tuple(place.tolist())])
