"""RDT, the Robotics Diffusion Transformer (arXiv 2410.07864), put together from the core's parts.

Shape legend: B batch, T observation steps, H actions of a chunk, S slots of the unified vector, V vectors, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from polydit.platform.conditioning import Axis, Conditioner
from polydit.platform.context import Context
from polydit.platform.denoisers import DiT, Embedding, Head, RMSNorm, TransformerBlock
from polydit.platform.denoisers.base import clear_padding
from polydit.platform.denoisers.in_context import gather_tokens
from polydit.platform.denoisers.initialisation import zero_linear
from polydit.platform.denoisers.tokens import check_channels
from polydit.platform.errors import ConfigurationError
from polydit.platform.feedforwards import MLP
from polydit.platform.mixers import Attention, CrossAttention
from polydit.platform.mixers.masks import prepend_visible
from polydit.platform.state import Condition, MaskSpec, State, Streams

from .channels import ChannelAxis
from .rdt_axes import EncodedTokensAxis, FrequencyAxis, sincos_table
from .unified_action import SLOTS

SIZES = {"RDT-1B": (28, 2048, 32), "RDT-170M": (14, 1024, 32), "RDT-small": (6, 256, 8)}
"""Name -> depth, width, heads; two published sizes, and one for two CPU cores."""

VECTORS = ("time", "frequency")
"""What has a token of its own before the state's: the noise level, and the control frequency."""


class UnifiedActionEmbedding(Embedding):
    """One token each for noise level, control frequency, every state, and every noised action, in this order.

    States and actions are vectors of the same slots, so one adaptor of three linear maps reads both, as values and
    validity side by side: without validity, a joint at 0 and a joint that does not exist would look the same. Learnt
    places are added, at the start half of their width sines and cosines of the token's kind and half of its place.

    It reads two channels of the condition: ``state`` [B, T, 2 S], values then validity (0 or 1), and
    ``action_validity`` [B, 1, S]; one left out counts as zeros.

    Args:
        width: D; supplied by the denoiser.
        horizon: most actions H of a chunk.
        history: T.
        vectors: names of the vectors, ``time`` or those of the condition.
        slots: S.
        field: the field of actions.
    """

    def __init__(
        self,
        width: int,
        horizon: int = 64,
        history: int = 1,
        vectors: Sequence[str] = VECTORS,
        slots: int = SLOTS,
        field: str = "action",
    ) -> None:
        super().__init__()
        self.width, self.horizon, self.history = width, horizon, history
        self.vectors, self.slots, self.field = tuple(vectors), slots, field
        self.channels = {"state": 2 * slots, "action_validity": slots}
        self.adaptor = nn.Sequential(
            nn.Linear(2 * slots, width), nn.GELU("tanh"), nn.Linear(width, width), nn.GELU("tanh"),
            nn.Linear(width, width),
        )
        self.table = nn.Parameter(self._places())

    def initialise(self) -> None:
        """Sines and cosines of kind and place."""
        with torch.no_grad():
            self.table.copy_(self._places())

    @property
    def streams(self) -> dict[str, str]:
        """The stream ``x`` with the mask of the actions."""
        return {"x": self.field}

    def masks(self, x_t: State, ctx: Context) -> dict[str, MaskSpec]:
        """The actions' mask, with all other tokens real."""
        own, actions = ctx.masks.get("x"), x_t[self.field]
        if own is None:
            return ctx.masks
        real = torch.ones(
            actions.shape[0], len(self.vectors) + self.history, dtype=torch.bool, device=actions.device
        )
        return {**ctx.masks, "x": prepend_visible(own, real, actions.shape[1])}

    def forward(self, x_t: State, cond: Condition, ctx: Context) -> Streams:
        """The stream ``x`` [B, V + T + H, D].

        Raises:
            ConfigurationError: if actions, state or validity have another shape than this embedding was made for.
        """
        actions = x_t[self.field]
        batch, horizon = actions.shape[:2]
        check_channels(cond, self.channels)
        self._check("actions", actions, horizon if horizon <= self.horizon else self.horizon, self.slots)
        state = cond.channels.get("state", actions.new_zeros(batch, self.history, 2 * self.slots))
        valid = cond.channels.get("action_validity", actions.new_zeros(batch, 1, self.slots))
        self._check("state", state, self.history, 2 * self.slots)
        self._check("action_validity", valid, 1, self.slots)
        pairs = torch.cat([state, torch.cat([actions, valid.expand_as(actions)], dim=-1)], dim=1)
        tokens = self.adaptor(pairs.to(self.table.dtype))
        assert ctx.time is not None
        vectors = gather_tokens(self.vectors, cond, ctx.time).features if self.vectors else tokens[:, :0]
        h = torch.cat([vectors.to(tokens.dtype), tokens], dim=1)
        return {"x": h + self.table[: h.shape[1]].to(h.dtype)}

    def cost(self, tokens: int) -> int:
        """Operations of the adaptor; `tokens` counts the whole sequence, V + T + H."""
        weights = sum(layer.weight.numel() for layer in self.adaptor if isinstance(layer, nn.Linear))
        return 2 * (tokens - len(self.vectors)) * weights

    def _places(self) -> Tensor:
        counts = [*(1 for _ in self.vectors), self.history, self.horizon]
        pairs = [torch.stack([torch.full((n,), kind), torch.arange(n)], dim=1) for kind, n in enumerate(counts)]
        return sincos_table(torch.cat(pairs), self.width)

    def _check(self, name: str, values: Tensor, tokens: int, channels: int) -> None:
        if values.shape[1:] != (tokens, channels):
            raise ConfigurationError(
                f"{name} of shape {tuple(values.shape)}: this denoiser was made for {self.slots} slots (values, and as "
                f"many validities of a state), {self.history} states and up to {self.horizon} actions: "
                "set `slots`, `history` and `horizon` to those of the data"
            )


class UnifiedActionHead(Head):
    """Norm and two linear maps with a tanh-GELU between, of the action tokens, which are last; starts at zero.

    Args:
        width: D; supplied by the denoiser.
        slots: S.
        field: the field of actions.
    """

    chunks = 0

    def __init__(self, width: int, slots: int = SLOTS, field: str = "action") -> None:
        super().__init__()
        self.field = field
        self.norm = RMSNorm(width, affine=True)
        self.expand = nn.Linear(width, width)
        self.activation = nn.GELU("tanh")
        self.contract = nn.Linear(width, slots)
        self.initialise()

    def initialise(self) -> None:
        """Zero, so that the output starts at zero."""
        zero_linear(self.contract)

    def forward(self, h: Streams, modulation: Sequence[Tensor], x_t: State, ctx: Context) -> State:
        """The predicted actions [B, H, S]."""
        output = clear_padding(self.contract(self.activation(self.expand(self.norm(h["x"])))), ctx.masks.get("x"))
        return {self.field: output[:, -x_t[self.field].shape[1] :]}

    def cost(self, tokens: int) -> int:
        """Operations of the linear maps, which take all tokens."""
        return 2 * tokens * (self.expand.weight.numel() + self.contract.weight.numel())


class RDT(DiT):
    """The core's transformer without modulation: what guides comes as tokens, in the sequence or by cross-attention.

    RMSNorm, normed queries and keys, an MLP no wider than the stream. Even blocks read `language`, odd ones `images`
    (alternating condition injection), so that many image tokens do not drown a few words; where there is no one of
    them, all blocks read the other. The field is ``action`` [B, H, S], of the unified vector; see
    `UnifiedActionEmbedding` for the channels of its condition. Cross-attention adds nothing until the first step of
    training, which is our choice; the published model starts it at random. What `cost` takes as condition tokens is the
    mean of both kinds of blocks.

    Args:
        width: D, a multiple of 4.
        depth: number of blocks.
        heads: must divide the width; None: one per 64 of the width.
        horizon: most actions H of a chunk.
        history: T, states that it looks back on.
        language: token groups of the condition read by even blocks.
        images: token groups of the condition read by odd blocks.
        vectors: what has a token of its own before the state's: ``time``, and vectors of the condition.
        slots: S.
    """

    def __init__(
        self,
        width: int = 2048,
        depth: int = 28,
        heads: int | None = 32,
        horizon: int = 64,
        history: int = 1,
        language: Sequence[str] = ("instruction",),
        images: Sequence[str] = ("images",),
        vectors: Sequence[str] = VECTORS,
        slots: int = SLOTS,
    ) -> None:
        read = [tuple(axes) for axes in (language, images) if axes]
        super().__init__(
            embedding=partial(UnifiedActionEmbedding, horizon=horizon, history=history, vectors=vectors, slots=slots),
            head=partial(UnifiedActionHead, slots=slots),
            width=width,
            depth=depth,
            mixer=partial(Attention, heads=heads, qk_norm="head"),
            feedforward=partial(MLP, ratio=1.0, activation="gelu_tanh"),
            cross_attention=[partial(CrossAttention, heads=heads, axes=axes, qk_norm="head") for axes in read] or None,
            norm=RMSNorm,
            block=TransformerBlock,
        )


def sized_rdt(name: str, horizon: int = 64, history: int = 1, images: Sequence[str] = ("images",)) -> RDT:
    """RDT of a size.

    Args:
        name: one of `SIZES`.
        horizon, history, images: see `RDT`.

    Raises:
        ConfigurationError: if there is no such size.
    """
    depth, width, heads = _size(name)
    return RDT(width, depth, heads, horizon, history, images=images)


def published_conditioner(name: str) -> Conditioner:
    """What guides a published size: T5's words, SigLIP's patches, state, validity, frequency, each dropped in a tenth.

    Args:
        name: one of `SIZES`.

    Raises:
        ConfigurationError: if there is no such size.
    """
    _, width, _ = _size(name)
    axes: dict[str, Callable[[int], Axis]] = {
        "instruction": partial(EncodedTokensAxis, features=4096, grid=(1024,)),
        "images": partial(EncodedTokensAxis, features=1152, grid=(2, 3, 729), coded=2),
        "frequency": FrequencyAxis,
        "state": partial(ChannelAxis, shape=(1, 2 * SLOTS), dropout=0.1),
        "action_validity": partial(ChannelAxis, shape=(1, SLOTS), dropout=0.1),
    }
    return Conditioner(width, axes)


def _size(name: str) -> tuple[int, int, int]:
    if name not in SIZES:
        raise ConfigurationError(f"no size {name!r}: choose one of {', '.join(SIZES)}")
    return SIZES[name]
