"""AV-DiT (arXiv 2406.07686): one frozen transformer of images denoises frames and sound, by small adapters.

Shape legend: B clips, F frames, S tokens of a frame, T steps of sound, M mel bands, D width, R rank of an adapter.

There is no public code. The layout of the adapters is decided here: beside each frozen part a bottleneck with a zero
output, a temporal attention with a zero output before each block, and a fusion with a zero gate after it. Of our own is
that the fusion knows at which second each token stands: a frozen transformer of images has no idea of time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

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
from polydit.platform.denoisers.initialisation import initialise_weights
from polydit.platform.denoisers.modulation import Vectors
from polydit.platform.errors import CheckpointError, ConfigurationError
from polydit.platform.mixers import Attention
from polydit.platform.state import Condition, MaskSpec, State, Time, time_of

from .adapters import Adapter, Additions, MomentBias
from .bridgedit import SOUND, VIDEO

Positions = Literal["seconds", "none"]


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
        positions: ``seconds``: where frames and sound meet, tokens see each other the less the further they stand apart
            in time, see `MomentBias`; ``none``: they do not know.
        unit: seconds over which the attention of the steepest head falls by a factor of e at first.
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
        positions: Positions = "seconds",
        unit: float = 0.02,
        frames: int = 16,
        steps: int = 80,
    ) -> None:
        super().__init__()
        self._loaded_config: dict[str, Any] | None = None
        if isinstance(backbone, str):
            backbone, self._loaded_config = load_backbone(backbone)
        check_backbone(backbone)
        if not unit > 0:
            raise ConfigurationError(f"unit is {unit}: give seconds above 0, about what a step of sound lasts")
        self.backbone = backbone.requires_grad_(False).eval()
        width = backbone.width
        self.frames, self.steps = frames, steps
        self.additions = nn.ModuleList([Additions(width, rank, heads, fusion) for _ in range(backbone.depth)])
        self.moments = MomentBias(find_heads(backbone), unit) if fusion and positions == "seconds" else None
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
            ctx: context of this pass, with the seconds of frames [B, F] and of steps of sound [B, T] as positions.

        Raises:
            ConfigurationError: if seconds are wanted and the context has none.
        """
        video = x_t[VIDEO]
        count = video.shape[1]
        repeat = partial(torch.repeat_interleave, repeats=count, dim=0)
        images = self._as_images(video)
        opened = self.backbone.open(images, repeat(time_of(t, VIDEO)), cond.map(repeat), Context())
        seen, (vectors, last) = opened.h["x"], self._modulate(time_of(t, SOUND), cond)
        heard = self.sound_embedding({SOUND: x_t[SOUND]}, Condition(), Context())["x"]
        together = self._know_seconds(seen.shape[1], ctx)
        for index, (layer, additions) in enumerate(zip(self.backbone.blocks, self.additions, strict=True)):
            block, more, name = cast(DiTBlock, layer), cast(Additions, additions), f"blocks.{index}"
            own = {VIDEO: opened.modulations[index], SOUND: vectors[index]}
            seen = seen + ctx.call(f"{name}.temporal", partial(self._mix_frames, more, count, ctx), seen)
            seen = self._run(block, more, VIDEO, seen, own[VIDEO], ctx, name)
            heard = self._run(block, more, SOUND, heard, own[SOUND], ctx, name)
            if more.fusion is not None:
                seen, heard = self._fuse(block, more, seen, heard, own, together, name)
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

    def _know_seconds(self, places: int, ctx: Context) -> Context:
        """The context of the attention over frames and sound, with a bias by the seconds between tokens."""
        if self.moments is None:
            return replace(ctx, masks={}, positions={}, grids={}, points={})
        if not {VIDEO, SOUND} <= set(ctx.positions):
            raise ConfigurationError(
                f"frames and sound need the layout's positions of {[VIDEO, SOUND]} in seconds, it has those of "
                f"{sorted(ctx.positions)}: use a codec that gives them, such as SoundClipCodec, or positions: none"
            )
        # clips of one batch stand at the same seconds, mostly as one row that is expanded: one bias serves all
        rows = [each[:1] if each.stride(0) == 0 else each for each in (ctx.positions[VIDEO], ctx.positions[SOUND])]
        count = max(len(row) for row in rows)
        frames, steps = (row.expand(count, -1) for row in rows)
        bias = self.moments(torch.cat([frames.repeat_interleave(places, dim=1), steps], dim=1))
        return replace(ctx, masks={"x": MaskSpec(bias=bias)}, positions={}, grids={}, points={})

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
            return block.mixer(x, ctx) + more.fusion(x)

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


def find_heads(backbone: DiT) -> int:
    """Heads of the backbone's attention, the same in all blocks.

    Raises:
        ConfigurationError: if its mixers are no attention, whose logits take a bias.
    """
    mixers = [cast(DiTBlock, block).mixer for block in backbone.blocks]
    if not all(isinstance(mixer, Attention) for mixer in mixers):
        raise ConfigurationError(
            f"the backbone mixes by {type(mixers[0]).__name__}, which takes no bias by seconds: give one whose mixers "
            "are Attention, or positions: none"
        )
    return cast(Attention, mixers[0]).heads


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
