"""StainDiffuser (arXiv 2403.11340): a stain and a mask of cells denoised apart, on one encoding of the H&E image.

Shape legend: B images, C channels, Y, X height and width, s side of a window, W windows, P patch size, N tokens of a
window, D width.

There is no public code, and little more than the abstract was to be had: two diffusion processes, from H&E to IHC and
from H&E to a mask of the stained cells, trained together on a shared encoder; the second only in training. All else is
decided here, and stated:

- Both branches are transformers of the core, each with a noise level of its own, so that either can run alone.
- The branches share nothing but the encoded tissue, and do not look at each other. The mask is made of the IHC image:
  a stain branch that saw it, noised or not, would lean on what is not there in the end.
- A branch reads the tissue where it is: the token of a patch is added to that of the noised patch at the same place,
  through a map of the branch's own. Both images show the same pixels, so cross-attention would first have to learn
  which token stands where. `cross_attention` adds it for what registration leaves apart.
- It sees H&E through the encoder alone, and not as further channels beside the noised image. What the second task
  teaches the encoder then reaches the stain; a way around it would not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from polydit.platform.context import Context
from polydit.platform.denoisers import Denoiser, DiT, PatchEmbedding, PatchHead, TimeEmbedding
from polydit.platform.denoisers.stack import FeedForwards, Mixers
from polydit.platform.errors import ConfigurationError
from polydit.platform.mixers import CrossAttention
from polydit.platform.state import Condition, State, Streams, Time, Tokens, time_of

from .windows import Windows

TISSUE = "tissue"
"""The condition's tokens of the H&E image."""

STAIN, MASK = "stain", "mask"
"""Fields: the IHC image [B, 3, Y, X], and the mask of stained cells [B, 1, Y, X], both in [-1, 1]."""


class AlignedEmbedding(PatchEmbedding):
    """Patches of a noised image, each with the tissue's token of the same place added.

    Args:
        width: D; supplied by the denoiser.
        field: the image field.
        in_channels: C.
        patch: P.
        axis: the condition's tokens, as many as there are patches and in their order.
    """

    def __init__(self, width: int, field: str, in_channels: int, patch: int, axis: str = TISSUE) -> None:
        super().__init__(width, field, in_channels, patch)
        self.axis = axis
        self.tissue = nn.Linear(width, width)

    def forward(self, x_t: State, cond: Condition, ctx: Context) -> Streams:
        """The stream ``x`` [B, N, D].

        Raises:
            ConfigurationError: if the condition has no tokens of the tissue, or another number of them.
        """
        h = super().forward(x_t, cond, ctx)["x"]
        if self.axis not in cond.tokens or cond.tokens[self.axis].features.shape[1] != h.shape[1]:
            found = {name: group.features.shape[1] for name, group in cond.tokens.items()}
            raise ConfigurationError(
                f"the field {self.field!r} has {h.shape[1]} patches and the condition has tokens {found}: give the "
                f"conditioner an axis {self.axis!r} of the class TissueAxis with the denoiser's tile, patch and overlap"
            )
        return {"x": h + self.tissue(cond.tokens[self.axis].features.to(h.dtype))}

    def cost(self, tokens: int) -> int:
        """Operations of both linear maps."""
        return super().cost(tokens) + 2 * tokens * self.tissue.weight.numel()


class StainDiffuser(Denoiser):
    """A branch for the stain and, in training, one for the mask; each runs where its field is given.

    Images larger than a tile are denoised in windows that overlap, and the predictions are averaged at every step
    (MultiDiffusion, arXiv 2302.08113). All windows see parts of one noised image at one noise level, where estimates of
    clean data are linear in the prediction: averaging one is averaging the other, for every kind of prediction. So
    windows agree at each step of one walk, and there is nothing to stitch at its end.

    Args:
        width: D, that of the conditioner.
        depth: blocks of the stain branch.
        tile: s, of the tiles of training.
        patch: P, must divide the tile.
        segmentation: whether there is a branch for the mask; it can be taken out after training (`remove_segmentation`)
            without changing a bit of any stain.
        mask_depth: blocks of that branch; None: as many as the stain's.
        mixer: builds the token mixer from the width, or several builders that the blocks take in turn; None:
            `Attention`.
        feedforward: builds the feed-forward from the width, or several; None: `MLP`.
        cross_attention: whether every block also attends to the tissue's tokens.
        overlap: of windows over larger images, as a share of the tile.
        chunk: most windows denoised at once.
        time: builds the time embedding of each branch from the width.
        heads: of the cross-attention; None: one per 64 of the width.

    Raises:
        ConfigurationError: if the patch does not divide the tile.
    """

    def __init__(
        self,
        width: int = 384,
        depth: int = 12,
        tile: int = 256,
        patch: int = 8,
        segmentation: bool = True,
        mask_depth: int | None = None,
        mixer: Mixers | None = None,
        feedforward: FeedForwards | None = None,
        cross_attention: bool = False,
        overlap: float = 0.5,
        chunk: int = 64,
        time: Callable[[int], TimeEmbedding] = TimeEmbedding,
        heads: int | None = None,
    ) -> None:
        super().__init__()
        if tile % patch:
            raise ConfigurationError(f"patches of {patch} do not tile windows of {tile}: choose a divisor")
        self.windows, self.patch, self.chunk = Windows(tile, overlap), patch, chunk

        def build(field: str, channels: int, blocks: int) -> DiT:
            return DiT(
                embedding=partial(AlignedEmbedding, field=field, in_channels=channels, patch=patch),
                head=partial(PatchHead, field=field, out_channels=channels, patch=patch),
                width=width, depth=blocks, mixer=mixer, feedforward=feedforward, time=time, name=f"{field}.blocks",
                cross_attention=partial(CrossAttention, heads=heads, axes=(TISSUE,)) if cross_attention else None,
            )

        self.branches = nn.ModuleDict({STAIN: build(STAIN, 3, depth)})
        if segmentation:
            self.branches[MASK] = build(MASK, 1, depth if mask_depth is None else mask_depth)

    @property
    def streams(self) -> dict[str, str]:
        """Each branch has a stream of its own; none is padded."""
        return {"x": STAIN}

    def forward(self, x_t: State, t: Time, cond: Condition, ctx: Context) -> State:
        """Prediction of each field given, in its type.

        Args:
            x_t: ``stain`` [B, 3, Y, X], ``mask`` [B, 1, Y, X] or both; Y and X at least s.
            t: noise level [B], or one per field.
            cond: with the tokens of the tissue, those of one window after another.
            ctx: context of this pass. Where there are several windows a part is called once for every chunk of them.

        Raises:
            ConfigurationError: if there is no branch for a field, or the tissue's tokens do not fit.
        """
        unknown = sorted(set(x_t) - set(self.branches))
        if unknown:
            raise ConfigurationError(
                f"there is no branch for {unknown}, only for {sorted(self.branches)}: set segmentation on codec and "
                "denoiser alike"
            )
        return {field: self._predict(field, x_t[field], time_of(t, field), cond, ctx) for field in sorted(x_t)}

    def cost(self, tokens: int, condition_tokens: int = 0) -> int:
        """Operations of a pass of one tile through all branches; the encoder is the conditioner's.

        Args:
            tokens: N.
            condition_tokens: N too, where there is cross-attention.
        """
        return sum(cast(DiT, branch).cost(tokens, condition_tokens) for branch in self.branches.values())

    def _predict(self, field: str, x: Tensor, t: Tensor, cond: Condition, ctx: Context) -> Tensor:
        if x.shape[-2:] == (self.windows.side, self.windows.side):
            return self.branches[field]({field: x}, t, cond, ctx)[field]
        places = self.windows.places(*x.shape[-2:])
        tissue = self._take_apart(cond.tokens, len(places))
        shared = replace(cond, tokens={name: group for name, group in cond.tokens.items() if name != TISSUE})
        total, weight = torch.zeros_like(x), x.new_zeros(x.shape[-2:])
        for start in range(0, len(places), self.chunk):
            some = places[start : start + self.chunk]
            chosen = Tokens(tissue[:, start : start + self.chunk].flatten(0, 1))
            repeat = partial(torch.repeat_interleave, repeats=len(some), dim=0)
            part = replace(shared.map(repeat), tokens={**shared.map(repeat).tokens, TISSUE: chosen})
            output = self.branches[field]({field: self.windows.cut(x, some)}, repeat(t), part, ctx)[field]
            self.windows.blend(output.unflatten(0, (len(x), -1)), some, total, weight)
        return total / weight

    def _take_apart(self, tokens: Mapping[str, Tokens], windows: int) -> Tensor:
        """[B, W, N, D] of the tissue's tokens [B, W N, D]."""
        wanted = windows * (self.windows.side // self.patch) ** 2
        features = tokens[TISSUE].features if TISSUE in tokens else None
        if features is None or features.shape[1] != wanted:
            raise ConfigurationError(
                f"an image in {windows} windows needs {wanted} tokens of the tissue and has "
                f"{0 if features is None else features.shape[1]}: give the axis {TISSUE!r} the denoiser's tile, patch "
                "and overlap"
            )
        return features.unflatten(1, (windows, -1))


