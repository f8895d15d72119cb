"""The contract of a codec: domain data to state, and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from .requests import Request
from .state import Layout, State


class Codec(nn.Module, ABC):
    """Turns a batch of the domain into a state to diffuse, and a finished state into items.

    Its statistics (normalisers, priors) are buffers, so that they travel in the checkpoint.
    """

    pads: bool = True
    """Whether samples of different sizes may stand in one batch, the smaller ones padded."""

    shows_known: bool = False
    """Whether the network sees known values as they are, in training and in sampling alike (mask modelling in x-space,
    as in VDT, arXiv 2305.13311), instead of noised to the level of the rest in sampling alone."""

    @abstractmethod
    def encode(self, batch: Any, generator: torch.Generator) -> tuple[State, Layout]:
        """Clean state x_0 and its layout (masks, positions, labels) of a training batch."""

    @abstractmethod
    def layout(self, requests: Sequence[Request]) -> Layout:
        """Layout of the samples that are asked for; what a request leaves open is drawn with the request's own seed.

        Raises:
            ValueError: if a wish cannot be met, naming the wish, its limit and the fix.
        """

    def sizes(self, requests: Sequence[Request]) -> list[Any]:
        """Size of each sample that is asked for, to batch like with like; anything that sorts.

        By default its number of real tokens, for which all layouts are made; override it where that is costly.
        """
        return list(self.layout(requests).sizes())

    @abstractmethod
    def decode(self, state: State, layout: Layout) -> list[Any]:
        """One item per sample."""

    def question(self, batch: Any) -> Layout | None:
        """What a held-out batch asks of a conditional model, its answers left out, with a seed for each.

        None, the default: nothing is asked, and `test` compares nothing.
        """
        return None

    def ask(self, question: Layout, seeds: Sequence[int]) -> Layout:
        """A question of B entries put k times, with k B seeds; place i of the result asks what entry i modulo B does.

        Override it where a hypothesis sees something drawn for it alone, such as places sampled from a heatmap, or
        where `Layout.extras` speak of single entries.
        """
        return replace(question.tile(len(seeds) // question.batch_size), seeds=tuple(seeds))

    def compare(self, batch: Any, answers: Sequence[State], layout: Layout) -> list[Any]:
        """Held-out items beside finished states that answer what they ask; one a batch entry, for the evaluators.

        Args:
            batch: that `question` made `layout` of.
            answers: one state for each hypothesis.
            layout: the question.
        """
        return []

    def known(self, layout: Layout) -> tuple[State, State] | None:
        """Values that sampling must keep and their masks (True = keep), for inpainting; None if nothing is kept."""
        return None

    def present(self, item: Any) -> Any:
        """The item as an object of the field's own library."""
        return item

    def prepare(self, datamodule: Any) -> None:
        """Take statistics from the training split."""
        return None

    def portable_config(self, config: dict[str, Any]) -> dict[str, Any]:
        """`config` (this codec's init_args) with every path to another checkpoint replaced by what it held."""
        return config
