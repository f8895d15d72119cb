"""AV-DiT (arXiv 2406.07686): one frozen transformer of images denoises frames and sound, by small adapters.

Shape legend: B clips, F frames, S tokens of a frame, T steps of sound, M mel bands, D width, R rank of an adapter.

There is no public code. The layout of the adapters is decided here: beside each frozen part a bottleneck with a zero
output, a temporal attention with a zero output before each block, and a fusion with a zero gate after it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from polydit.platform.checkpoints import load
from polydit.platform.context import Context
from polydit.platform.denoisers import (
    Denoiser,
    DiT,
    DiTBlock,
    PatchEmbedding,
    SinCosPosition,
    TokenEmbedding,
    TokenHead,
)
from polydit.platform.denoisers.blocks import modulate
from polydit.platform.denoisers.frames import FrameEmbedding
from polydit.platform.denoisers.initialisation import initialise_weights, zero_linear
from polydit.platform.denoisers.modulation import Vectors
from polydit.platform.errors import CheckpointError, ConfigurationError
from polydit.platform.mixers import Attention, RotaryPosition
from polydit.platform.norms import LayerNorm
from polydit.platform.state import Condition, State, Time, time_of

from .bridgedit import SOUND, VIDEO


class Adapter(nn.Module):
    """A bottleneck beside a frozen part; its output starts at zero.

    Args:
        width: D.
        rank: R.
    """

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.squeeze, self.expand = nn.Linear(width, rank), nn.Linear(rank, width)

    def initialise(self) -> None:
        """Zero what it adds."""
        zero_linear(self.expand)

    def forward(self, x: Tensor) -> Tensor:
        """What is added to the frozen part's output for its input `x` [..., D]."""
        return self.expand(functional.gelu(self.squeeze(x)))

    def cost(self, tokens: int) -> int:
        """Operations of both maps."""
        return 4 * tokens * self.squeeze.weight.numel()


class Additions(nn.Module):
    """All that learns beside one frozen block.

    Args:
        width: D.
        rank: R.
        heads: of the temporal attention.
        fusion: whether frames and sound meet after the block.
    """

    def __init__(self, width: int, rank: int, heads: int | None, fusion: bool) -> None:
        super().__init__()
        self.temporal_norm = LayerNorm(width, True)
        self.temporal = Attention(width, heads, rotary=RotaryPosition)
        self.mixers = nn.ModuleDict({name: Adapter(width, rank) for name in (VIDEO, SOUND)})
        self.feedforwards = nn.ModuleDict({name: Adapter(width, rank) for name in (VIDEO, SOUND)})
        self.fusion = Adapter(width, rank) if fusion else None
        gated = (VIDEO, SOUND) if fusion else ()
        self.gates = nn.ParameterDict({name: nn.Parameter(torch.zeros(width)) for name in gated})

    def initialise(self) -> None:
        """Zero what the temporal attention adds; the gates are zero."""
        zero_linear(self.temporal.output)


class AVDiT(Denoiser):
    """A trained transformer of images, frozen, that serves frames and sound alike under adapters of their own.

    Each frame passes its blocks as an image does, after an attention along time at each place. Sound passes the same
    blocks through an embedding and a head of its own. After each block its frozen self-attention is applied once more,
    to frames and sound together. Before training, frames come out as the transformer of images makes them, bit for bit.

    Args:
        backbone: path of a checkpoint of a transformer of images or single frames, or that itself (untrained): blocks
            of `DiTBlock` without cross-attention, mixers without rotary positions.
        bands: M.
        rank: R of every adapter.
        heads: of the temporal attention; None: one per 64 of the width.
        fusion: whether frames and sound meet.
        frames, steps: F and T, for counting operations.

    Raises:
        ConfigurationError: if the backbone is none that can serve.
        CheckpointError: if the checkpoint holds no such transformer.
    """

    def __init__(
        self,
        backbone: DiT | str,
        bands: int = 32,
        rank: int = 16,
        heads: int | None = None,
        fusion: bool = True,
        frames: int = 16,
        steps: int = 80,
    ) -> None:
        super().__init__()
        self._loaded_config: dict[str, Any] | None = None
        if isinstance(backbone, str):
            backbone, self._loaded_config = load_backbone(backbone)
        check_backbone(backbone)
        self.backbone = backbone.requires_grad_(False).eval()
        width = backbone.width
        self.frames, self.steps = frames, steps
        self.additions = nn.ModuleList([Additions(width, rank, heads, fusion) for _ in range(backbone.depth)])
        self.sound_embedding = TokenEmbedding(width, {SOUND: bands}, position=SinCosPosition)
        self.sound_head = TokenHead(width, {SOUND: bands})
        for part in (self.additions, self.sound_embedding, self.sound_head):
            initialise_weights(part)

    @property
    def streams(self) -> dict[str, str]:
        """Frames and sound are streams of their own."""
        return {name: name for name in (VIDEO, SOUND)}

    def train(self, mode: bool = True) -> AVDiT:
        """The backbone stays in evaluation mode whatever the rest does."""
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, x_t: State, t: Time, cond: Condition, ctx: Context) -> State:
        """Predictions of ``video`` [B, F, C, Y, X] and ``sound`` [B, T, M].

        Args:
            x_t: both fields.
            t: noise level [B], or one per field.
            cond: the encoded condition; vectors alone are of use.
            ctx: context of this pass.
        """
        video = x_t[VIDEO]
        count = video.shape[1]
        repeat = partial(torch.repeat_interleave, repeats=count, dim=0)
        images = self._as_images(video)
        opened = self.backbone.open(images, repeat(time_of(t, VIDEO)), cond.map(repeat), Context())
        seen, (vectors, last) = opened.h["x"], self._modulate(time_of(t, SOUND), cond)
        heard = self.sound_embedding({SOUND: x_t[SOUND]}, Condition(), Context())["x"]
        for index, (layer, additions) in enumerate(zip(self.backbone.blocks, self.additions, strict=True)):
            block, more, name = cast(DiTBlock, layer), cast(Additions, additions), f"blocks.{index}"
            own = {VIDEO: opened.modulations[index], SOUND: vectors[index]}
            seen = seen + ctx.call(f"{name}.temporal", partial(self._mix_frames, more, count, ctx), seen)
            seen = self._run(block, more, VIDEO, seen, own[VIDEO], ctx, name)
            heard = self._run(block, more, SOUND, heard, own[SOUND], ctx, name)
            if more.fusion is not None:
                seen, heard = self._fuse(block, more, seen, heard, own, ctx, name)
        frames = self.backbone.head({"x": seen}, opened.last, images, opened.outer)
        output = next(iter(frames.values())).reshape(video.shape).to(video.dtype)
        sound = self.sound_head({"x": heard}, last, x_t, Context())[SOUND]
        return {VIDEO: output, SOUND: sound.to(x_t[SOUND].dtype)}

    def cost(self, tokens: int, condition_tokens: int = 0) -> int:
        """Operations of one pass of one sample.

        Args:
            tokens: S of one frame.
            condition_tokens: unused.
        """
        frames, steps = self.frames, self.steps
        modulation = 0 if self.backbone.modulation is None else self.backbone.modulation.cost()
        total = frames * self.backbone.cost(tokens) + self.backbone.time.cost() + modulation
        total += self.sound_embedding.cost(steps) + self.sound_head.cost(steps)
        for layer, additions in zip(self.backbone.blocks, self.additions, strict=True):
            block, more = cast(DiTBlock, layer), cast(Additions, additions)
            total += block.cost(steps) + tokens * more.temporal.cost(frames)
            adapters = [*more.mixers.values(), *more.feedforwards.values()]
            total += sum(cast(Adapter, each).cost(frames * tokens) for each in (adapters[0], adapters[2]))
            total += sum(cast(Adapter, each).cost(steps) for each in (adapters[1], adapters[3]))
            if more.fusion is not None:
                every = frames * tokens + steps
                total += block.mixer.cost(every) + more.fusion.cost(every)
        return total

    def portable_config(self, config: dict[str, Any]) -> dict[str, Any]:
        """`config` with the backbone's architecture in place of the path it was loaded from."""
        return config if self._loaded_config is None else {**config, "backbone": self._loaded_config}

    def _as_images(self, video: Tensor) -> State:
        """Every frame as an image of the backbone's field."""
        embedding = cast(PatchEmbedding | FrameEmbedding, self.backbone.embedding)
        images = video.flatten(0, 1)
        return {embedding.field: images[:, None] if isinstance(embedding, FrameEmbedding) else images}

    def _modulate(self, t: Tensor, cond: Condition) -> tuple[Sequence[Vectors], Vectors]:
        """Vectors of all blocks and of the head for sound, from the frozen time embedding."""
        time = self.backbone.time(t)
        assert self.backbone.modulation is not None
        *vectors, last = self.backbone.modulation(cond.add_to(time).to(time.dtype))
        return vectors, last

    def _mix_frames(self, more: Additions, count: int, ctx: Context, seen: Tensor) -> Tensor:
        """What each token of `seen` [B F, S, D] learns of its place in other frames."""
        places = seen.shape[1]
        rows = more.temporal_norm(seen).unflatten(0, (-1, count)).transpose(1, 2).flatten(0, 1)
        mixed = more.temporal(rows, Context(attention=ctx.attention))
        return mixed.unflatten(0, (-1, places)).transpose(1, 2).flatten(0, 1)

    def _run(
        self, block: DiTBlock, more: Additions, stream: str, h: Tensor, vectors: Sequence[Tensor], ctx: Context,
        name: str,
    ) -> Tensor:
        """A stream after a frozen block and its adapters."""
        plain = Context(attention=ctx.attention)
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = vectors

        def mix(x: Tensor) -> Tensor:
            return block.mixer(x, plain) + more.mixers[stream](x)

        def feed(x: Tensor) -> Tensor:
            return block.feedforward(x, plain) + more.feedforwards[stream](x)

        mixed = ctx.call(f"{name}.{stream}.mixer", mix, modulate(block.mixer_norm(h), shift_1, scale_1))
        h = torch.addcmul(h, gate_1, mixed)
        fed = ctx.call(f"{name}.{stream}.feedforward", feed, modulate(block.feedforward_norm(h), shift_2, scale_2))
        return ctx.tap(f"{name}.{stream}", torch.addcmul(h, gate_2, fed))

    def _fuse(
        self, block: DiTBlock, more: Additions, seen: Tensor, heard: Tensor, own: Mapping[str, Sequence[Tensor]],
        ctx: Context, name: str,
    ) -> tuple[Tensor, Tensor]:
        """Frames and sound after the frozen self-attention over both."""
        streams = {VIDEO: seen, SOUND: heard}
        normed = {key: modulate(block.mixer_norm(h), *own[key][:2]) for key, h in streams.items()}
        batch, tokens = heard.shape[0], seen.shape[0] * seen.shape[1] // heard.shape[0]
        together = torch.cat([normed[VIDEO].reshape(batch, tokens, -1), normed[SOUND]], dim=1)

        def attend(x: Tensor) -> Tensor:
            assert more.fusion is not None
            return block.mixer(x, Context(attention=ctx.attention)) + more.fusion(x)

        mixed = ctx.call(f"{name}.fusion", attend, together)
        return (
            torch.addcmul(seen, more.gates[VIDEO], mixed[:, :tokens].reshape(seen.shape)),
            torch.addcmul(heard, more.gates[SOUND], mixed[:, tokens:]),
        )


def check_backbone(backbone: DiT) -> None:
    """Raise `ConfigurationError` unless the transformer can serve frames and sound."""
    if not isinstance(backbone.embedding, PatchEmbedding | FrameEmbedding) or backbone.in_context:
        raise ConfigurationError(
            f"the backbone embeds {type(backbone.embedding).__name__}, perhaps with tokens in context: give a "
            "transformer of images with PatchEmbedding, or of single frames with FrameEmbedding, and neither"
        )
    for block in backbone.blocks:
        rotary = getattr(block.mixer, "rotary", None) if isinstance(block, DiTBlock) else None
        if type(block) is not DiTBlock or block.cross_attention is not None or rotary is not None:
            raise ConfigurationError(
                "the backbone's blocks must be DiTBlock without cross-attention and rotary positions, for sound has no "
                f"rows and columns, not {type(block).__name__}"
            )


def load_backbone(path: str) -> tuple[DiT, dict[str, Any]]:
    """The transformer of a checkpoint and the configuration that makes it again.

    Raises:
        CheckpointError: if the checkpoint holds none.
    """
    module = load(path)
    denoiser = getattr(module.system, "denoiser", None)
    if not isinstance(denoiser, DiT) or module.config is None:
        raise CheckpointError(f"{path} holds no DiT ({type(denoiser).__name__}): give a checkpoint of one of images")
    return denoiser, module.config["system"]["init_args"]["denoiser"]
