"""Embedding, head and block of clips: frames cut into patches, attention along time and within frames.

Shape legend: B batch, F frames, C channels, Y rows, X columns, P patch size, T frames in a patch, G = F / T frames of
tokens, S = (Y / P)(X / P) tokens in each, N = G S tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from ..context import Context
from ..errors import ConfigurationError
from ..mixers import TokenMixer
from ..norms import LayerNorm
from ..state import Condition, State, Streams
from .base import Embedding, Head
from .blocks import BlockParts, DiTBlock, modulate
from .initialisation import zero_linear
from .patches import cut_patches, grid_size, join_patches
from .positions import Position, SinCosPosition
from .tokens import check_channels


class FramePosition(Position):
    """Sines and cosines of row and column as for images, plus those of the frame, each over the whole width.

    Args:
        width: D; supplied by the embedding.
        base: ratio of the longest wavelength to the shortest.
    """

    def __init__(self, width: int, base: float = 1e4) -> None:
        super().__init__()
        self.space, self.time = SinCosPosition(width, base, axes=(1, 0)), SinCosPosition(width, base)

    def forward(self, h: Tensor, positions: Tensor | None) -> Tensor:
        """What to add to `h` [B, N, D]; `positions` [B, N, 3] are frame, row and column.

        Raises:
            ConfigurationError: if there are no such positions.
        """
        if positions is None or positions.shape[-1] != 3:
            raise ConfigurationError("positions of frames have three axes: frame, row and column; use FrameEmbedding")
        return self.space(h, positions[..., 1:]) + self.time(h, positions[..., 0])


class FrameEmbedding(Embedding):
    """Patches of the frames of a clip through one linear map, frame after frame, each in row-major order.

    Args:
        width: D; supplied by the denoiser.
        field: the clip's field [B, F, C, Y, X].
        in_channels: C.
        patch: P, must divide Y and X.
        tube: T, frames that a patch spans; must divide F.
        channels: condition channel -> number of channels, each [B, F, C', Y, X]; one left out counts as zeros.
        position: builds the position embedding from the width; it is given frame, row and column [1, N, 3].
    """

    def __init__(
        self,
        width: int,
        field: str = "video",
        in_channels: int = 4,
        patch: int = 2,
        tube: int = 1,
        channels: Mapping[str, int] | None = None,
        position: Callable[[int], Position] | None = FramePosition,
    ) -> None:
        super().__init__()
        self.field, self.patch, self.tube, self.channels = field, patch, tube, dict(channels or {})
        self.linear = nn.Linear((in_channels + sum(self.channels.values())) * tube * patch**2, width)
        self.position = position(width) if position else None

    @property
    def streams(self) -> dict[str, str]:
        """The stream ``x`` of the clip's field."""
        return {"x": self.field}

    def grids(self, x_t: State, ctx: Context) -> dict[str, tuple[int, ...]]:
        """Frames, rows and columns of tokens.

        Raises:
            ConfigurationError: if patches do not tile the clip.
        """
        return {**ctx.grids, "x": clip_grid(x_t[self.field], self.patch, self.tube)}

    def positions(self, x_t: State, ctx: Context) -> dict[str, Tensor]:
        """Frame, row and column of every patch, unless the context has positions of its own."""
        if "x" in ctx.positions:
            return ctx.positions
        clip = x_t[self.field]
        axes = [torch.arange(size, device=clip.device) for size in clip_grid(clip, self.patch, self.tube)]
        return {**ctx.positions, "x": torch.cartesian_prod(*axes)[None]}

    def forward(self, x_t: State, cond: Condition, ctx: Context) -> Streams:
        """The stream ``x`` [B, N, D].

        Raises:
            ConfigurationError: if a channel of the condition is not read here.
        """
        clip = x_t[self.field]
        check_channels(cond, self.channels)
        parts = [clip]
        for axis, count in self.channels.items():
            given = cond.channels.get(axis)
            parts.append(clip.new_zeros(*clip.shape[:2], count, *clip.shape[3:]) if given is None else given)
        patches = cut_clip(torch.cat(parts, dim=2), self.patch, self.tube)
        h = self.linear(patches.to(self.linear.weight.dtype))
        if self.position is not None:
            h = h + self.position(h, ctx.positions["x"])
        return {"x": h}

    def cost(self, tokens: int) -> int:
        """Operations of the linear map."""
        return 2 * tokens * self.linear.weight.numel()


class FrameHead(Head):
    """Norm, modulation and one linear map from each token to its patch; starts at zero.

    Args:
        width: D; supplied by the denoiser.
        field: the clip's field.
        out_channels: predicted channels.
        patch: P, as in the embedding.
        tube: T, as in the embedding.
        norm: builds the norm from the width and whether it is affine.
    """

    chunks = 2

    def __init__(
        self,
        width: int,
        field: str = "video",
        out_channels: int = 4,
        patch: int = 2,
        tube: int = 1,
        norm: Callable[[int, bool], nn.Module] = LayerNorm,
    ) -> None:
        super().__init__()
        self.field, self.patch, self.tube = field, patch, tube
        self.norm = norm(width, False)
        self.linear = nn.Linear(width, out_channels * tube * patch**2)
        self.initialise()

    def initialise(self) -> None:
        """Zero, so that the output starts at zero."""
        zero_linear(self.linear)

    def forward(self, h: Streams, modulation: Sequence[Tensor], x_t: State, ctx: Context) -> State:
        """The predicted clip [B, F, C, Y, X]."""
        patches = self.linear(modulate(self.norm(h["x"]), *modulation))
        grid = clip_grid(x_t[self.field], self.patch, self.tube)
        return {self.field: join_clip(patches, grid, self.patch, self.tube)}

    def cost(self, tokens: int) -> int:
        """Operations of the linear map."""
        return 2 * tokens * self.linear.weight.numel()


class FactorisedBlock(DiTBlock):
    """Attention along time at each place, then a block of `DiTBlock` within each frame (VDT, arXiv 2305.13311).

    The temporal part has an affine norm, a mixer and a further linear map, and neither shift nor gate; the map starts
    at zero, so that frames do not see each other before training, and a model of images can be taken as it is.
    Modulation is shared by all frames. Its operations are F N (F + N) instead of (F N)² pairs of tokens.

    Args:
        width: D; supplied by the stack.
        parts: builders of its parts; supplied by the stack.
        name: prefix of its parts' names in ``ctx.call``; supplied by the stack.
        frames: G of a clip, for `cost` alone: in a pass the grid of the stream says it.
        temporal: builds the temporal mixer from the width; None: the same as within frames, but without its positions
            along rows and columns; give one of its own where the mixer has rotary positions.
    """

    def __init__(
        self,
        width: int,
        parts: BlockParts,
        name: str,
        frames: int = 16,
        temporal: Callable[[int], TokenMixer] | None = None,
    ) -> None:
        super().__init__(width, parts, name)
        self.frames = frames
        self.temporal_norm = parts.norm(width, True)
        self.temporal_mixer = (temporal or parts.mixer)(width)
        self.temporal_linear = nn.Linear(width, width)

    def initialise(self) -> None:
        """Zero the map after the temporal mixer."""
        zero_linear(self.temporal_linear)

    def forward(self, h: Streams, modulation: Sequence[Tensor], ctx: Context) -> Streams:
        """Streams with ``x`` advanced by one block.

        Raises:
            ConfigurationError: if the stream has no grid, or is padded.
        """
        return super().forward({**h, "x": h["x"] + self.mix_frames(self.temporal_norm(h["x"]), ctx)}, modulation, ctx)

    def mix_frames(self, x: Tensor, ctx: Context) -> Tensor:
        """What each token [B, N, D] learns of its place in other frames."""
        frames, places = self._grid(ctx)

        def attend(value: Tensor) -> Tensor:
            rows = value.unflatten(1, (frames, places)).transpose(1, 2).flatten(0, 1)
            mixed = self.temporal_linear(self.temporal_mixer(rows, self._along_time(ctx, frames, places)))
            return mixed.unflatten(0, (-1, places)).transpose(1, 2).flatten(1, 2)

        return ctx.call(f"{self.name}.temporal", attend, x)

    def mix(self, x: Tensor, ctx: Context) -> Tensor:
        """The mixer's output within each frame for its normed input [B, N, D]."""
        frames, places = self._grid(ctx)

        def attend(value: Tensor) -> Tensor:
            rows = value.unflatten(1, (frames, places)).flatten(0, 1)
            return self.mixer(rows, self._within_frames(ctx, frames, places)).unflatten(0, (-1, frames)).flatten(1, 2)

        return ctx.call(f"{self.name}.mixer", attend, x)

    def cost(self, tokens: int, condition_tokens: int = 0) -> int:
        """Sum over the parts, for clips of the frames that the block was told of."""
        places = tokens // self.frames
        within = self.frames * self.mixer.cost(places) + self.feedforward.cost(tokens)
        along = places * self.temporal_mixer.cost(self.frames) + 2 * tokens * self.temporal_linear.weight.numel()
        cross = self.cross_attention.cost(tokens, condition_tokens) if self.cross_attention is not None else 0
        return within + along + cross

    def _grid(self, ctx: Context) -> tuple[int, int]:
        if "x" not in ctx.grids or "x" in ctx.masks:
            raise ConfigurationError(
                "frames and places of the stream x are not told apart by a grid, or it is padded: use FrameEmbedding, "
                "clips of one length, and no in-context tokens"
            )
        frames, *rest = ctx.grids["x"]
        return frames, int(torch.Size(rest).numel())

    def _along_time(self, ctx: Context, frames: int, places: int) -> Context:
        positions = ctx.positions.get("x")
        if positions is not None:
            axis = positions[..., 0].unflatten(1, (frames, places)).transpose(1, 2)
            positions = axis[:, 0] if len(axis) == 1 else axis.flatten(0, 1)
        return _narrow(ctx, positions, (frames,))

    def _within_frames(self, ctx: Context, frames: int, places: int) -> Context:
        positions = ctx.positions.get("x")
        if positions is not None:
            axes = positions[..., 1:].unflatten(1, (frames, places))
            positions = axes[:, 0] if len(axes) == 1 else axes.flatten(0, 1)
        return _narrow(ctx, positions, ctx.grids["x"][1:])


def clip_grid(clip: Tensor, patch: int, tube: int = 1) -> tuple[int, int, int]:
    """Frames, rows and columns of patches of a clip [B, F, C, Y, X].

    Raises:
        ConfigurationError: if patches do not tile it.
    """
    if clip.shape[1] % tube:
        raise ConfigurationError(f"patches of {tube} frames do not tile {clip.shape[1]}: choose a divisor of it")
    return (clip.shape[1] // tube, *grid_size(clip, patch))


def cut_clip(clip: Tensor, patch: int, tube: int = 1) -> Tensor:
    """Patches [B, N, T C P P] of a clip [B, F, C, Y, X], by frame; frames and channels are outermost in a patch."""
    frames = clip.shape[1] // tube
    pictures = clip.unflatten(1, (frames, tube)).flatten(2, 3).flatten(0, 1)
    return cut_patches(pictures, patch).unflatten(0, (-1, frames)).flatten(1, 2)


def join_clip(patches: Tensor, grid: tuple[int, int, int], patch: int, tube: int = 1) -> Tensor:
    """Clip [B, F, C, Y, X] of patches [B, N, P P T C], frames and channels innermost in a patch."""
    pictures = join_patches(patches.unflatten(1, (grid[0], -1)).flatten(0, 1), grid[1:], patch)
    return pictures.unflatten(1, (tube, -1)).unflatten(0, (-1, grid[0])).flatten(1, 2)


def _narrow(ctx: Context, positions: Tensor | None, grid: tuple[int, ...]) -> Context:
    own = {} if positions is None else {"x": positions}
    return replace(ctx, positions=own, grids={"x": grid}, points={}, shared={})
