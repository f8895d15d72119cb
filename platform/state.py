"""Fields, layouts and conditions: the shapes that everything in polydit speaks.

Shape legend: B batch, N tokens of a stream, M tokens of a condition group, C channels, D width, A position axes.

A *state* is what is diffused: a dict of named fields, ``{"latent": [B, N, C]}``, always a dict, even of one. A *layout*
is what is known about a batch of states before any of their values are: which tokens are real, where they stand, what
was asked for. A *condition* is what a conditioner makes of the layout's labels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

State = dict[str, Tensor]
"""Named fields, each [B, ...]."""

Streams = dict[str, Tensor]
"""Named token streams [B, N, D] inside a denoiser; a plain DiT has one, ``"x"``."""

Time = Tensor | dict[str, Tensor]
"""Noise level in [0, 1], 0 data and 1 noise: [B], or [B, N] per token, or a dict of those per field."""


@dataclass(frozen=True)
class MaskSpec:
    """What may attend to what, as data; `polydit.platform.mixers.masks` turns it into what a back end wants.

    Args:
        keys: [B, N] bool, True where a token is real. None: all are.
        groups: [B, N] long, the group of each token. Needs `table`.
        table: [G, G] bool, ``table[a, b]`` is True where queries of group a may see keys of group b.
        window: tokens see only keys at most this many positions away. None: no limit.
        causal: tokens see no later ones.
        bias: [B, H, N, M], or with axes of 1, added to the logits, as from what pairs of tokens are to each other.
    """

    keys: Tensor | None = None
    groups: Tensor | None = None
    table: Tensor | None = None
    window: int | None = None
    causal: bool = False
    bias: Tensor | None = None


@dataclass(frozen=True)
class Layout:
    """What is known of a batch before its values: shapes, masks, positions, labels and, when sampling, seeds.

    Args:
        shapes: field -> full shape [B, ...], the noise that sampling starts from.
        masks: field -> [B, N] bool, True where a token is real; a field without one is all real.
        positions: field -> [B, N] or [B, N, A] token positions; a field without one is indexed 0..N-1.
        labels: axis -> raw condition as tensors with leading B, what a `Conditioner` encodes.
        seeds: one seed per sample; noise of a sample depends on its own seed alone, not on its batch.
        extras: what a codec needs to decode (kept values, units); opaque to the core.
        loss_masks: field -> [B, N, ...] bool or broadcastable to the field, True where an entry counts in the denoising
            loss; it takes the place of the field's mask there. A field without one counts at its real tokens.
    """

    shapes: dict[str, tuple[int, ...]]
    masks: dict[str, Tensor] = field(default_factory=dict)
    positions: dict[str, Tensor] = field(default_factory=dict)
    labels: dict[str, Tensor] = field(default_factory=dict)
    seeds: tuple[int, ...] = ()
    extras: dict[str, Any] = field(default_factory=dict)
    loss_masks: dict[str, Tensor] = field(default_factory=dict)

    @property
    def batch_size(self) -> int:
        """Number of samples B."""
        return next(iter(self.shapes.values()))[0]

    def sizes(self) -> list[int]:
        """Number of real tokens of each sample, over all masked fields; equal sizes where nothing is masked."""
        total = torch.zeros(self.batch_size, dtype=torch.long)
        for mask in self.masks.values():
            total += mask.sum(dim=1).cpu()
        return total.tolist()

    def repeat(self, count: int) -> Layout:
        """Masks and positions `count` times along the batch, for the branches of guidance; the rest as it is."""

        def tile(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: torch.cat([tensor] * count) for name, tensor in tensors.items()}

        return replace(self, masks=tile(self.masks), positions=tile(self.positions))

    def tile(self, count: int) -> Layout:
        """All entries `count` times over, one whole batch after another; seeds and extras as they are."""

        def tile(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            return tensors if count == 1 else {name: torch.cat([tensor] * count) for name, tensor in tensors.items()}

        return replace(
            self, shapes={name: (count * shape[0], *shape[1:]) for name, shape in self.shapes.items()},
            masks=tile(self.masks), positions=tile(self.positions), labels=tile(self.labels),
            loss_masks=tile(self.loss_masks),
        )

    def to(self, device: torch.device | str) -> Layout:
        """Copy with every tensor on `device`."""

        def move(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: tensor.to(device) for name, tensor in tensors.items()}

        return replace(
            self, masks=move(self.masks), positions=move(self.positions), labels=move(self.labels),
            loss_masks=move(self.loss_masks),
        )


@dataclass(frozen=True)
class Tokens:
    """A group of condition tokens for cross- or joint attention.

    Args:
        features: [B, M, D].
        mask: [B, M] bool, True where real; None: all are.
    """

    features: Tensor
    mask: Tensor | None = None


@dataclass(frozen=True)
class Condition:
    """What guides a denoiser; every entry is named by its axis, so that each can be set to its own null.

    Args:
        vectors: axis -> [B, D] or [B, N, D]; their sum joins the time embedding and modulates the blocks.
        tokens: axis -> `Tokens`, read by cross- or joint attention.
        channels: axis -> [B, N, C], or shaped as the field it stands beside, concatenated to the input of the embedding
            (self-conditioning, kept values).
    """

    vectors: dict[str, Tensor] = field(default_factory=dict)
    tokens: dict[str, Tokens] = field(default_factory=dict)
    channels: dict[str, Tensor] = field(default_factory=dict)

    def with_channels(self, **channels: Tensor) -> Condition:
        """Copy with these channels set."""
        return replace(self, channels={**self.channels, **channels})

    def add_to(self, vector: Tensor) -> Tensor:
        """Sum of `vector` [B, D] and all condition vectors: [B, D], or [B, N, D] if any of them is per token."""
        for addend in self.vectors.values():
            if addend.ndim > vector.ndim:
                vector = vector[:, None]
            elif addend.ndim < vector.ndim:
                addend = addend[:, None]
            vector = vector + addend
        return vector

    def map(self, function: Callable[[Tensor], Tensor]) -> Condition:
        """Copy with `function` applied to every tensor."""

        def apply(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {axis: function(tensor) for axis, tensor in tensors.items()}

        tokens = {
            axis: Tokens(function(group.features), None if group.mask is None else function(group.mask))
            for axis, group in self.tokens.items()
        }
        return Condition(apply(self.vectors), tokens, apply(self.channels))

    @staticmethod
    def concatenate(conditions: list[Condition]) -> Condition:
        """Stack conditions along the batch, so that the branches of guidance run as one batch."""

        def join(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
            return {axis: torch.cat([part[axis] for part in parts]) for axis in parts[0]}

        tokens = {}
        for axis, first in conditions[0].tokens.items():
            groups = [condition.tokens[axis] for condition in conditions]
            mask = None
            if any(group.mask is not None for group in groups):
                full = torch.ones(first.features.shape[:2], dtype=torch.bool, device=first.features.device)
                mask = torch.cat([full if group.mask is None else group.mask for group in groups])
            tokens[axis] = Tokens(torch.cat([group.features for group in groups]), mask)
        return Condition(
            join([condition.vectors for condition in conditions]),
            tokens,
            join([condition.channels for condition in conditions]),
        )


def time_of(t: Time, field: str) -> Tensor:
    """The noise level of a field."""
    return t[field] if isinstance(t, dict) else t


def expand_time(t: Tensor, like: Tensor) -> Tensor:
    """`t` [B] or [B, N] with trailing axes of one, so that it multiplies `like` [B, N, ...]."""
    return t.reshape(t.shape + (1,) * (like.ndim - t.ndim))


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of `values` [B, N, ...] where `mask` says, a bool of its leading axes, or broadcastable to all of them."""
    if mask is None:
        return values.mean()
    weight = expand_time(mask, values).to(values.dtype)
    return (values * weight).sum() / (weight.expand_as(values).sum().clamp(min=1))
