"""Embedding and head of sets and sequences of tokens.

Shape legend: B batch, N tokens, C channels, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import Tensor, nn

from ..context import Context, estimate_of
from ..errors import ConfigurationError
from ..norms import LayerNorm
from ..state import Condition, State, Streams
from .base import Embedding, Head, clear_padding
from .blocks import modulate
from .initialisation import zero_linear
from .positions import Position


class TokenEmbedding(Embedding):
    """One token per element: fields and condition channels side by side, then one linear map.

    Args:
        width: D; supplied by the denoiser.
        fields: field -> number of channels, each [B, N, C]. All share their tokens; mask and positions are the first's.
        channels: condition channel -> number of channels; one that a condition leaves out counts as zeros.
        position: builds the position embedding added to the tokens; None: none, so that the denoiser knows no order
            unless its mixer does.
        bias: whether the linear map has a bias.
        points: the field whose first three channels are the token's place in space, for mixers that want to know; None:
            tokens have no place.
        point_unit: length of one unit of those channels, in what the mixers measure by.
        estimate: the condition channel that says where the token was last thought to belong, in the unit of `points`:
            in its first three channels, or, if it is as long as all fields together, where `points` stands among them
            in the order of their names. With ``"self_condition"``, mixers that ask for it measure between clean places
            beside the noised ones. None: not given to the mixers.

    Raises:
        ConfigurationError: if there is no field, or `points` or `estimate` names none of at least three channels.
    """

    def __init__(
        self,
        width: int,
        fields: Mapping[str, int],
        channels: Mapping[str, int] | None = None,
        position: Callable[[int], Position] | None = None,
        bias: bool = True,
        points: str | None = None,
        point_unit: float = 1.0,
        estimate: str | None = None,
    ) -> None:
        super().__init__()
        if not fields:
            raise ConfigurationError("an embedding needs at least one field: name it with its number of channels")
        if points is not None and fields.get(points, 0) < 3:
            raise ConfigurationError(f"points {points!r} is no field of at least three channels among {dict(fields)}")
        self.fields, self.channels = dict(fields), dict(channels or {})
        if estimate is not None and self.channels.get(estimate, 0) < 3:
            raise ConfigurationError(
                f"estimate {estimate!r} is no condition channel of at least three channels among {self.channels}"
            )
        self.point_field, self.point_unit, self.estimate = points, point_unit, estimate
        # an estimate of all fields holds them in the order of their names
        whole = estimate is not None and self.channels[estimate] == sum(self.fields.values())
        before = [size for name, size in self.fields.items() if points is not None and name < points]
        self._estimate_start = sum(before) if whole else 0
        self.linear = nn.Linear(sum(self.fields.values()) + sum(self.channels.values()), width, bias=bias)
        self.position = position(width) if position else None

    @property
    def streams(self) -> dict[str, str]:
        """The stream ``x`` with the mask and positions of the first field."""
        return {"x": next(iter(self.fields))}

    def points(self, x_t: State, ctx: Context) -> dict[str, Tensor]:
        """The first three channels of the field that says so, as long as the units they are measured in.

        Beside them, where the condition has an estimate of them, that.
        """
        if self.point_field is None:
            return super().points(x_t, ctx)
        places = {"x": x_t[self.point_field][..., :3] * self.point_unit}
        if self.estimate is not None and self.estimate in ctx.condition.channels:
            first = self._estimate_start
            places[estimate_of("x")] = ctx.condition.channels[self.estimate][..., first : first + 3] * self.point_unit
        return places

    def forward(self, x_t: State, cond: Condition, ctx: Context) -> Streams:
        """The stream ``x`` [B, N, D].

        Raises:
            ConfigurationError: if the condition has a channel that this embedding does not read.
        """
        parts = [x_t[name] for name in self.fields]
        check_channels(cond, self.channels)
        for axis, count in self.channels.items():
            given = cond.channels.get(axis)
            shape = (*parts[0].shape[:2], count)
            parts.append(parts[0].new_zeros(shape) if given is None else given.expand(shape))
        h = self.linear(torch.cat(parts, dim=-1).to(self.linear.weight.dtype))
        if self.position is not None:
            h = h + self.position(h, ctx.positions.get("x"))
        return {"x": h}

    def cost(self, tokens: int) -> int:
        """Operations of the linear map."""
        return 2 * tokens * self.linear.weight.numel()


class TokenHead(Head):
    """Norm, modulation and one linear map to the channels of every field; zero at padded tokens.

    The linear map starts at zero, and so does the output.

    Args:
        width: D; supplied by the denoiser.
        fields: field -> number of predicted channels.
        norm: builds the norm from the width and whether it is affine.
        modulated: whether two vectors of the modulation shift and scale the normed tokens; without, the norm is affine.
        bias: whether the linear map has a bias.
    """

    def __init__(
        self,
        width: int,
        fields: Mapping[str, int],
        norm: Callable[[int, bool], nn.Module] = LayerNorm,
        modulated: bool = True,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.fields, self.chunks = dict(fields), 2 if modulated else 0
        self.norm = norm(width, not modulated)
        self.linear = nn.Linear(width, sum(self.fields.values()), bias=bias)
        self.initialise()

    def initialise(self) -> None:
        """Zero, so that the output starts at zero."""
        zero_linear(self.linear)

    def forward(self, h: Streams, modulation: Sequence[Tensor], x_t: State, ctx: Context) -> State:
        """Predictions [B, N, C] by field."""
        x = self.norm(h["x"])
        if self.chunks:
            x = modulate(x, *modulation)
        output = clear_padding(self.linear(x), ctx.masks.get("x"))
        return dict(zip(self.fields, output.split(list(self.fields.values()), dim=-1), strict=True))

    def cost(self, tokens: int) -> int:
        """Operations of the linear map."""
        return 2 * tokens * self.linear.weight.numel()


def check_channels(cond: Condition, known: Collection[str]) -> None:
    """Refuse a condition with channels that the embedding does not read.

    Raises:
        ConfigurationError: naming them.
    """
    unknown = sorted(set(cond.channels) - set(known))
    if unknown:
        raise ConfigurationError(
            f"the embedding reads channels {sorted(known)} and the condition has {unknown} beside them: "
            "list them in the embedding's `channels`, with their size"
        )
