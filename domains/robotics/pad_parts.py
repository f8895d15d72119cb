"""Embedding and head of PAD: pictures and actions in one sequence of tokens.

Shape legend: B batch, K future frames, T observed steps, C channels, h, w height and width, P patch size, H actions of
a chunk, A action size, S state size, N tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from polydit.platform.context import Context
from polydit.platform.denoisers import Embedding, Head, LayerNorm, SinCosPosition
from polydit.platform.denoisers.blocks import modulate
from polydit.platform.denoisers.initialisation import zero_linear
from polydit.platform.denoisers.patches import cut_patches, grid_size, image_position, join_patches
from polydit.platform.denoisers.tokens import check_channels
from polydit.platform.errors import ConfigurationError
from polydit.platform.state import Condition, MaskSpec, State, Streams, expand_time

ACTION = "action"
"""The field of actions."""

"""The condition channel of the robot's state."""


@dataclass(frozen=True)
class Pictures:
    """A field of future frames [B, K, C, h, w], and the frames seen, as the condition channel ``current_<field>``.

    Args:
        frames: K.
        channels: C; 3 for pixels, those of the latent otherwise.
        patch: P, must divide h and w.
        history: T, frames seen [B, T, C, h, w].
    """

    frames: int
    channels: int
    patch: int
    history: int = 1

    @property
    def denoised(self) -> int:
        """Numbers of a token's patch in all future frames."""
        return self.frames * self.channels * self.patch**2

    @property
    def seen(self) -> int:
        """Numbers of a token's patch in all frames seen."""
        return self.history * self.channels * self.patch**2


@dataclass(frozen=True)
class Actions:
    """The field ``action`` [B, H, A], and the states seen, as a condition channel [B, T, S].

    Args:
        horizon: H; all of them are one token.
        size: A.
        state_size: S; 0: no state.
        history: T.
        state: name of the channel.
    """

    horizon: int
    size: int
    state_size: int = 0
    history: int = 1
    state: str = "state"


class JointEmbedding(Embedding):
    """Frames as a grid of tokens, each a patch of all frames at its place, and a whole chunk of actions as one more.

    What was seen stands beside what is denoised, as further channels; what a condition leaves out counts as zeros.
    Padded frames and actions, of which the layout's masks tell, are not read. A field of which a sample has nothing is
    hidden from the attention of the others; that of actions, where `one_way`, from the first pictures in any case.

    Args:
        width: D; supplied by the denoiser.
        pictures: field -> its pictures. Tokens of the first are placed by row and column; those of others, such as
            depth, among them, by where their patch begins.
        actions: the actions.
        one_way: whether the first pictures see nothing but themselves, while all else sees everything.
        position: builds the position embedding of pictures from the width.
    """

    table: Tensor

    def __init__(
        self,
        width: int,
        pictures: Mapping[str, Pictures],
        actions: Actions,
        one_way: bool = True,
        position: Callable[[int], nn.Module] = image_position,
    ) -> None:
        super().__init__()
        self.pictures, self.actions, self.one_way = dict(pictures), actions, one_way
        states = actions.history * actions.state_size
        sizes = {name: entry.denoised + entry.seen for name, entry in self.pictures.items()}
        sizes[ACTION] = actions.horizon * actions.size + states
        self.linears = nn.ModuleDict({name: nn.Linear(size, width) for name, size in sizes.items()})
        self.position = position(width)
        self.action_position = SinCosPosition(width)
        self.channels = {f"current_{name}": entry.channels for name, entry in self.pictures.items()}
        self.channels |= {actions.state: actions.state_size} if actions.state_size else {}
        self.register_buffer("table", torch.tensor([[True, False], [True, True]]), persistent=False)

    @property
    def streams(self) -> dict[str, str]:
        """Each field's part, by its name; `masks` joins them."""
        return {name: name for name in self.linears}

    def masks(self, x_t: State, ctx: Context) -> dict[str, MaskSpec]:
        """The mask of the stream ``x``: fields of which a sample has nothing are hidden, and actions from pictures."""
        counts = count_tokens(self.pictures, x_t)
        batch, device = x_t[ACTION].shape[0], x_t[ACTION].device
        groups = keys = None
        if self.one_way:
            first = next(iter(counts.values()))
            groups = (torch.arange(sum(counts.values()), device=device) >= first).long()[None]
        if any(name in ctx.masks for name in counts):
            present = [
                real_entries(name, ctx, batch, device).flatten(1).any(dim=1, keepdim=True).expand(-1, count)
                for name, count in counts.items()
            ]
            keys = torch.cat(present, dim=1)
        if groups is None and keys is None:
            return ctx.masks
        return {**ctx.masks, "x": MaskSpec(keys=keys, groups=groups, table=self.table if self.one_way else None)}

    def forward(self, x_t: State, cond: Condition, ctx: Context) -> Streams:
        """The stream ``x`` [B, N, D], field by field, actions last.

        Raises:
            ConfigurationError: if a field or a channel has another shape than this embedding was made for.
        """
        check_channels(cond, self.channels)
        first = next(iter(self.pictures.values()))
        parts = []
        for name, entry in self.pictures.items():
            frames = self._clean(x_t, name, ctx, (entry.frames, entry.channels))
            size = tuple(frames.shape[-2:])
            now = self._seen(cond, f"current_{name}", (entry.history, entry.channels, *size), frames)
            patches = cut_patches(torch.cat([frames, now], dim=1).flatten(1, 2), entry.patch)
            h = self._embed(name, patches)
            parts.append(h + self.position(h, self._places(frames, entry.patch, first.patch)))
        actions = self._clean(x_t, ACTION, ctx, (self.actions.horizon, self.actions.size)).flatten(1)
        if self.actions.state_size:
            states = self._seen(cond, self.actions.state, (self.actions.history, self.actions.state_size), actions)
            actions = torch.cat([actions, states.flatten(1)], dim=1)
        h = self._embed(ACTION, actions[:, None])
        parts.append(h + self.action_position(h, None))
        return {"x": torch.cat(parts, dim=1)}

    def cost(self, tokens: int) -> int:
        """Operations of the linear maps; `tokens` counts the whole sequence, of pictures of one size."""
        return linears_cost(self.linears, self.pictures, tokens)

    def _embed(self, name: str, values: Tensor) -> Tensor:
        linear = self.linears[name]
        assert isinstance(linear, nn.Linear)
        return linear(values.to(linear.weight.dtype))

    def _clean(self, x_t: State, name: str, ctx: Context, shape: tuple[int, int]) -> Tensor:
        values = x_t[name]
        if values.shape[1:3] != shape:
            raise ConfigurationError(
                f"{name} of shape {tuple(values.shape)}: this denoiser was made for [B, {shape[0]}, {shape[1]}, ...]: "
                "set its frames and channels, or horizon and action size, to those of the data"
            )
        if name not in ctx.masks:
            return values
        real = expand_time(real_entries(name, ctx, len(values), values.device), values)
        return values.masked_fill(~real, 0.0)

    def _seen(self, cond: Condition, name: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
        given = cond.channels.get(name)
        if given is None:
            return like.new_zeros(like.shape[0], *shape)
        given = given.expand(like.shape[0], *given.shape[1:])
        if tuple(given.shape[1:]) != shape:
            raise ConfigurationError(
                f"{name} of shape {tuple(given.shape)}: this denoiser was made for {('B', *shape)}: set its history "
                "and sizes to those of the data"
            )
        return given.to(like.dtype)

    def _places(self, frames: Tensor, patch: int, unit: int) -> Tensor:
        rows, columns = grid_size(frames, patch)
        grid = [torch.arange(count, device=frames.device) * (patch / unit) for count in (rows, columns)]
        return torch.cartesian_prod(*grid)[None]


class JointHead(Head):
    """Norm, modulation and linear map of each field's own, from its tokens to its values; starts at zero.

    Args:
        width: D; supplied by the denoiser.
        pictures, actions: as in the embedding.
        norm: builds a norm from the width and whether it is affine.
    """

    def __init__(
        self,
        width: int,
        pictures: Mapping[str, Pictures],
        actions: Actions,
        norm: Callable[[int, bool], nn.Module] = LayerNorm,
    ) -> None:
        super().__init__()
        self.pictures = dict(pictures)
        sizes = {name: entry.denoised for name, entry in self.pictures.items()}
        sizes[ACTION] = actions.horizon * actions.size
        self.chunks = 2 * len(sizes)
        self.norms = nn.ModuleDict({name: norm(width, False) for name in sizes})
        self.linears = nn.ModuleDict({name: nn.Linear(width, size) for name, size in sizes.items()})
        self.initialise()

    def initialise(self) -> None:
        """Zero, so that the output starts at zero."""
        for linear in self.linears.values():
            assert isinstance(linear, nn.Linear)
            zero_linear(linear)

    def forward(self, h: Streams, modulation: Sequence[Tensor], x_t: State, ctx: Context) -> State:
        """Every field's prediction, zero at padded frames and actions."""
        counts = count_tokens(self.pictures, x_t)
        output = {}
        for index, (name, part) in enumerate(zip(counts, h["x"].split(list(counts.values()), dim=1), strict=True)):
            shift, scale = modulation[2 * index : 2 * index + 2]
            values = self.linears[name](modulate(self.norms[name](part), shift, scale))
            if name in self.pictures:
                patch = self.pictures[name].patch
                values = join_patches(values, grid_size(x_t[name], patch), patch)
            values = values.reshape(x_t[name].shape)
            if name in ctx.masks:
                real = real_entries(name, ctx, len(values), values.device)
                values = values * expand_time(real, values).to(values.dtype)
            output[name] = values
        return output

    def cost(self, tokens: int) -> int:
        """Operations of the linear maps; `tokens` counts the whole sequence, of pictures of one size."""
        return linears_cost(self.linears, self.pictures, tokens)


def count_tokens(pictures: Mapping[str, Pictures], x_t: State) -> dict[str, int]:
    """Field -> tokens it has in the sequence, in the sequence's order."""
    counts = {}
    for name, entry in pictures.items():
        rows, columns = grid_size(x_t[name], entry.patch)
        counts[name] = rows * columns
    return {**counts, ACTION: 1}


def real_entries(name: str, ctx: Context, batch: int, device: torch.device) -> Tensor:
    """[B, K] or [B, H] bool, which frames or actions of a field are real; [B, 1] of ones without a mask."""
    mask = ctx.masks.get(name)
    if mask is None or mask.keys is None:
        return torch.ones(batch, 1, dtype=torch.bool, device=device)
    return mask.keys


def linears_cost(linears: nn.ModuleDict, pictures: Mapping[str, Pictures], tokens: int) -> int:
    """Operations of each field's linear map over its share of `tokens`, of which the actions' is one."""
    patches = sum(entry.patch**-2 for entry in pictures.values())
    total = 0
    for name, linear in linears.items():
        share = round((tokens - 1) / (patches * pictures[name].patch ** 2)) if name in pictures else 1
        assert isinstance(linear, nn.Linear)
        total += 2 * share * linear.weight.numel()
    return total
