"""The codec of clips: frames to a state and back, and what of them is given.

Shape legend: B clips, F frames, h, w height and width in pixels, C channels, Y, X height and width of what is diffused,
R, K rows and columns of mask cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from polydit.data.video.clips import Clip, ClipBatch, Frames, to_frames, to_tensor
from polydit.data.video.samples import ClipAnswer
from polydit.data.video.wishes import ClipWish
from polydit.platform.codec import Codec
from polydit.platform.errors import ConfigurationError
from polydit.platform.requests import Request, Sample
from polydit.platform.state import Layout, State

from .masks import MaskMixture, give_frames, mask_region

VIDEO = "video"
"""The field: a clip [B, F, C, Y, X], pixels in [-1, 1] or latents."""


class FrameAutoencoder(Protocol):
    """What a codec asks of an autoencoder of images; diffused are its latents, frame by frame."""

    channels: int
    """C of a latent."""

    factor: int
    """Pixels of a side for each of a latent's."""

    def encode(self, images: Tensor) -> Tensor:
        """Latents [n, C, y, x] of images [n, 3, h, w] in [-1, 1]."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Images of latents."""
        ...


class ClipCodec(Codec):
    """Clips as the field ``video``, with a part of them given: the one model of VDT for every task.

    What is given stands clean in the input of the network, in training and in sampling; the loss is of the rest. There
    is no channel that says which is which, for noise says so itself.

    Args:
        frames: F of the clips of training and of samples.
        size: h and w in pixels.
        frame_rate: frames per second of what is written.
        cell: side in pixels of the cells that block masks are made of; must divide the size.
        masks: what is given in training; default `MaskMixture`.
        questions: what `test` asks of held-out clips, in turn.
        autoencoder: makes latents of frames; None: pixels are diffused. Its weights stay as they are.

    Raises:
        ConfigurationError: if cells do not tile frames, or latents cells, or a question is none the masks train.
    """

    pads = False
    shows_known = True
    scale: Tensor

    def __init__(
        self,
        frames: int = 16,
        size: int = 32,
        frame_rate: float = 12.5,
        cell: int = 4,
        masks: MaskMixture | None = None,
        questions: Sequence[str] = ("predict", "interpolate", "unconditional"),
        autoencoder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.frames, self.size, self.frame_rate, self.cell = frames, size, frame_rate, cell
        self.masks, self.questions = masks or MaskMixture(), tuple(questions)
        self.autoencoder = None if autoencoder is None else autoencoder.requires_grad_(False).eval()
        factor = 1 if self.autoencoder is None else self._encoder.factor
        if size % cell or cell % factor:
            raise ConfigurationError(
                f"cells of {cell} pixels must divide frames of {size}, and be a multiple of the latents' {factor}"
            )
        unknown = sorted(set(questions) - set(self.masks.tasks))
        if unknown or not questions:
            raise ConfigurationError(f"questions {list(questions)} must be of what is trained: {self.masks.tasks}")
        self.register_buffer("scale", torch.tensor(1.0))

    def prepare(self, datamodule: Any) -> None:
        """Scale latents to a standard deviation of one, by the first batch; pixels stay as they are."""
        if self.autoencoder is not None:
            batch = next(iter(datamodule.train_dataloader()))
            self.scale.fill_(1.0)
            self.scale.fill_(1 / float(self._to_state(batch.frames.to(self.scale.device)).std().clamp(min=1e-6)))

    def encode(self, batch: ClipBatch, generator: torch.Generator) -> tuple[State, Layout]:
        """Clips and the part of them that is learnt.

        Raises:
            ConfigurationError: if clips have another format than the codec.
        """
        clips = self._to_state(self._check(batch.frames))
        cells = (self.size // self.cell,) * 2
        given = self._spread(self.masks.draw(len(batch), self.frames, cells, generator)).to(clips.device)
        return {VIDEO: clips}, self._arrange(clips, given)

    def sizes(self, requests: Sequence[Request]) -> list[int]:
        """All samples are of one size."""
        return [0] * len(requests)

    def layout(self, requests: Sequence[Request]) -> Layout:
        """Layout of wanted clips, with what is given in it.

        Raises:
            UserError: if a wish cannot be met.
            DataError: if a file cannot be read.
        """
        wishes = [ClipWish.parse(request.wishes, self.masks.tasks) for request in requests]
        sources = [wish.read(self.frames, self.size, self.frame_rate) for wish in wishes]
        blank = np.zeros((self.frames, self.size, self.size, 3), np.uint8)
        shown = torch.stack([to_tensor(blank if source is None else source.frames) for source in sources])
        given = torch.stack([self._give(wish.task, wish.given, wish.region) for wish in wishes])
        return self._ask(shown, given, tuple(request.seed for request in requests), {
            "tasks": [wish.task for wish in wishes], "truths": sources, "names": [wish.name for wish in wishes],
        })

    def known(self, layout: Layout) -> tuple[State, State]:
        """The given part, where it is."""
        return {VIDEO: layout.labels["given_values"]}, {VIDEO: ~layout.loss_masks[VIDEO]}

    def decode(self, state: State, layout: Layout) -> list[ClipAnswer]:
        """One `ClipAnswer` per sample; given pixels are as they were given."""
        facts = layout.extras
        return [
            ClipAnswer(Clip(frames, self.frame_rate, name=name), task, given, truth)
            for frames, given, task, truth, name in zip(
                self._to_clips(state[VIDEO], layout), self._given_pixels(layout), facts["tasks"], facts["truths"],
                facts["names"], strict=True,
            )
        ]

    def question(self, batch: ClipBatch) -> Layout:
        """Held-out clips, each with the seed of its place in the split and the task of its turn."""
        tasks = [self.questions[place % len(self.questions)] for place in batch.index.tolist()]
        given = torch.stack([self._give(task, None, None) for task in tasks])
        return self._ask(self._check(batch.frames), given, tuple(batch.index.tolist()), {"tasks": tasks})

    def compare(self, batch: ClipBatch, answers: Sequence[State], layout: Layout) -> list[Sample]:
        """Held-out clips beside what was made of a part of them."""
        made = [self._to_clips(answer[VIDEO], layout) for answer in answers]
        samples = []
        for row, (given, task) in enumerate(zip(self._given_pixels(layout), layout.extras["tasks"], strict=True)):
            facts = batch.clips[row]
            truth = Clip(
                np.ascontiguousarray(batch.frames[row].permute(0, 2, 3, 1).cpu().numpy()), self.frame_rate,
                bodies=facts.bodies, name=facts.name, group=facts.group,
            )
            clips = [Clip(each[row], self.frame_rate, name=facts.name, group=facts.group) for each in made]
            answer = ClipAnswer(clips[0], task, given, truth, tuple(clips[1:]))
            samples.append(Sample(Request(layout.seeds[row], {"task": task, "name": facts.name}), answer))
        return samples

    def present(self, item: ClipAnswer) -> Frames:
        """The frames [F, h, w, 3] uint8."""
        return item.clip.frames

    @property
    def _encoder(self) -> FrameAutoencoder:
        return cast(FrameAutoencoder, self.autoencoder)

    def _check(self, frames: Tensor) -> Tensor:
        wanted = (self.frames, 3, self.size, self.size)
        if tuple(frames.shape[1:]) != wanted:
            raise ConfigurationError(
                f"clips are {tuple(frames.shape[1:])} and the codec's {wanted} (frames, colours, height, width): give "
                "data and codec the same frames and size"
            )
        return frames

    def _give(
        self, task: str, frames: Sequence[int] | None, region: tuple[float, float, float, float] | None
    ) -> Tensor:
        """[F, Y, X]."""
        cells = (self.size // self.cell,) * 2
        given = give_frames(task, self.frames, frames)[:, None, None].expand(self.frames, *cells)
        if task == "complete":
            given = given | ~mask_region(region, cells)
        return self._spread(given[None])[0]

    def _spread(self, cells: Tensor) -> Tensor:
        """[B, F, Y, X] of cells [B, F, R, K]."""
        side = self.cell if self.autoencoder is None else self.cell // self._encoder.factor
        return cells.repeat_interleave(side, dim=2).repeat_interleave(side, dim=3)

    def _arrange(self, clips: Tensor, given: Tensor) -> Layout:
        return Layout(
            {VIDEO: tuple(clips.shape)}, labels={"given_values": clips}, loss_masks={VIDEO: ~given[:, :, None]}
        )

    def _ask(self, frames: Tensor, given: Tensor, seeds: tuple[int, ...], extras: dict[str, Any]) -> Layout:
        layout = self._arrange(self._to_state(frames.to(self.scale.device)), given.to(self.scale.device))
        layout.labels["given_frames"] = frames
        return Layout(
            layout.shapes, labels=layout.labels, loss_masks=layout.loss_masks, seeds=seeds, extras=extras
        )

    @torch.no_grad()
    def _to_state(self, frames: Tensor) -> Tensor:
        values = frames.to(torch.float32) / 127.5 - 1
        if self.autoencoder is None:
            return values
        latents = self._encoder.encode(values.flatten(0, 1))
        return self.scale * latents.unflatten(0, frames.shape[:2])

    @torch.no_grad()
    def _to_clips(self, state: Tensor, layout: Layout) -> list[Frames]:
        if self.autoencoder is not None:
            state = self._encoder.decode((state / self.scale).flatten(0, 1)).unflatten(0, state.shape[:2])
        kept = to_clips_of_bytes(layout.labels["given_frames"])
        return [
            np.where(given[..., None], known, made)
            for made, known, given in zip(to_frames(state), kept, self._given_pixels(layout), strict=True)
        ]

    def _given_pixels(self, layout: Layout) -> list[Any]:
        """[F, h, w] of each sample."""
        given = ~layout.loss_masks[VIDEO][:, :, 0]
        factor = self.size // given.shape[-1]
        return list(given.repeat_interleave(factor, dim=2).repeat_interleave(factor, dim=3).cpu().numpy())


def to_clips_of_bytes(frames: Tensor) -> list[Frames]:
    """Frames [F, h, w, 3] of [B, F, 3, h, w] uint8."""
    return list(frames.permute(0, 1, 3, 4, 2).cpu().numpy())
