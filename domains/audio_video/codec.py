"""The codec of clips with sound: frames and a mel spectrogram to a state and back, one of them given or none.

Shape legend: B clips, F frames, h, w height and width in pixels, S samples, N tokens of sound of P steps, M mel bands.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polydit.data.video.clips import Clip, ClipBatch, Frames, Sound, to_frames, to_tensor
from polydit.data.video.samples import ClipAnswer
from polydit.data.video.wishes import ClipWish
from polydit.platform.codec import Codec
from polydit.platform.errors import ConfigurationError, DataError
from polydit.platform.requests import Request, Sample
from polydit.platform.state import Layout, State

from .bridgedit import SOUND, VIDEO
from .mel import MelSpectrogram

TASKS = ("unconditional", "sound", "frames")
"""Both from noise; the sound of given frames; the frames of given sound."""

GIVEN = {"unconditional": None, "sound": VIDEO, "frames": SOUND}
"""Task -> the field that is given."""

STATISTICS = 256
"""Clips that the spectrogram's mean and standard deviation are taken of."""


class SoundClipCodec(Codec):
    """Frames as the field ``video`` [B, F, 3, h, w] and their sound as ``sound`` [B, N, P M], with seconds.

    Args:
        frames: F.
        size: h and w in pixels.
        frame_rate: frames per second.
        mel: makes and undoes spectrograms; default `MelSpectrogram`.
        given: chance that training gives the frames clean and asks for the sound, and the other way round. Published
            are 0 and 0, both at one noise level always; with some of either, one model also adds sound to clips.
        questions: what `test` asks of held-out clips, in turn.
        turned: whether training shows every clip mirrored and turned by quarters at random, eight clips for one: for
            what is seen from above, where nothing is up or left and its sound is the same.
        standardised: whether frames are brought to mean 0 and standard deviation 1 over the training split, as
            spectrograms always are. Else they lie in [-1, 1], where noise drowns scenes of little contrast: their
            sound is settled before they are.

    Raises:
        ConfigurationError: if chances are none, or a question needs training that they leave out.
    """

    pads = False
    shows_known = True
    frame_mean: Tensor
    frame_std: Tensor

    def __init__(
        self,
        frames: int = 16,
        size: int = 32,
        frame_rate: float = 12.5,
        mel: MelSpectrogram | None = None,
        given: Sequence[float] = (0.25, 0.25),
        questions: Sequence[str] = ("unconditional", "sound"),
        turned: bool = False,
        standardised: bool = False,
    ) -> None:
        super().__init__()
        self.frames, self.size, self.frame_rate = frames, size, frame_rate
        self.mel = mel or MelSpectrogram()
        if len(given) != 2 or min(given) < 0 or sum(given) > 1:
            raise ConfigurationError(f"given is two chances of at most 1 in all, for frames and for sound, not {given}")
        self.given, self.questions = tuple(given), tuple(questions)
        self.tasks = ("unconditional", *(task for task, chance in zip(TASKS[1:], given, strict=True) if chance > 0))
        unknown = sorted(set(questions) - set(self.tasks))
        if unknown or not questions:
            raise ConfigurationError(
                f"questions {list(questions)} must be of {', '.join(self.tasks)}, all that the chances {given} train"
            )
        self.turned, self.standardised = turned, standardised
        self.register_buffer("frame_mean", torch.zeros(()), persistent=standardised)
        self.register_buffer("frame_std", torch.ones(()), persistent=standardised)
        self.samples = round(frames / frame_rate * self.mel.sample_rate)

    def prepare(self, datamodule: Any) -> None:
        """Take means and standard deviations of spectrograms, and of frames if wanted, from the training split.

        Raises:
            ConfigurationError: if the data have no sound, or of another rate.
        """
        self._check_rate(datamodule.format.sample_rate)
        dataset = datamodule.clips("train")
        places = np.linspace(0, len(dataset) - 1, min(STATISTICS, len(dataset))).astype(int)
        clips = [dataset.read(int(place)) for place in places]
        sounds = [torch.from_numpy(np.array(clip.sound)) for clip in clips]
        self.mel.fit(torch.stack(sounds).to(self.mel.mean.device))
        if self.standardised:
            pixels = np.stack([clip.frames for clip in clips]) / 127.5 - 1
            self.frame_mean.fill_(float(pixels.mean()))
            self.frame_std.fill_(max(float(pixels.std()), 1e-3))

    def encode(self, batch: ClipBatch, generator: torch.Generator) -> tuple[State, Layout]:
        """Frames and spectrograms, and which of them is learnt.

        Raises:
            ConfigurationError: if clips have another format than the codec.
        """
        state = self._to_state(batch)
        if self.turned and self.training:
            state[VIDEO] = turn_frames(state[VIDEO], generator)
        draws = torch.rand(len(batch), generator=generator, device=generator.device)
        shown = {VIDEO: draws < self.given[0], SOUND: draws >= 1 - self.given[1]}
        return state, self._arrange(state, {name: value.to(state[name].device) for name, value in shown.items()})

    def sizes(self, requests: Sequence[Request]) -> list[int]:
        """All samples are of one size."""
        return [0] * len(requests)

    def layout(self, requests: Sequence[Request]) -> Layout:
        """Layout of wanted clips, with what is given in it.

        Raises:
            UserError: if a wish cannot be met.
            DataError: if a file cannot be read, or has no sound where sound is given.
        """
        wishes = [ClipWish.parse(request.wishes, self.tasks) for request in requests]
        blank = Clip(np.zeros((self.frames, self.size, self.size, 3), np.uint8), self.frame_rate)
        truths = [wish.read(self.frames, self.size, self.frame_rate, self.mel.sample_rate) for wish in wishes]
        for wish, truth in zip(wishes, truths, strict=True):
            if wish.task == "frames" and (truth is None or truth.sound is None):
                raise DataError(f"{wish.name} has no sound to make frames from: give a clip with sound")
        shown = [blank if truth is None else truth for truth in truths]
        silence = np.zeros(self.samples, np.float32)
        sounds = [silence if clip.sound is None else clip.sound for clip in shown]
        batch = ClipBatch(
            torch.stack([to_tensor(clip.frames) for clip in shown]),
            torch.stack([torch.from_numpy(np.array(sound)) for sound in sounds]), torch.arange(len(wishes)), [],
            self.frame_rate, self.mel.sample_rate,
        )
        tasks = [wish.task for wish in wishes]
        return self._ask(batch, tasks, tuple(request.seed for request in requests), {
            "tasks": tasks, "truths": truths, "names": [wish.name for wish in wishes],
        })

    def known(self, layout: Layout) -> tuple[State, State]:
        """The given field, where one is."""
        values = {name: layout.labels[f"given_{name}"] for name in (VIDEO, SOUND)}
        return values, {name: ~layout.loss_masks[name] for name in values}

    def decode(self, state: State, layout: Layout) -> list[ClipAnswer]:
        """One `ClipAnswer` per sample; what was given is as it was."""
        facts = layout.extras
        return [
            self._make(frames, sound, task, truth, name)
            for frames, sound, task, truth, name in zip(
                *self._to_clips(state, layout), facts["tasks"], facts["truths"], facts["names"], strict=True
            )
        ]

    def question(self, batch: ClipBatch) -> Layout:
        """Held-out clips, each with the seed of its place in the split and the task of its turn."""
        tasks = [self.questions[place % len(self.questions)] for place in batch.index.tolist()]
        return self._ask(batch, tasks, tuple(batch.index.tolist()), {"tasks": tasks})

    def compare(self, batch: ClipBatch, answers: Sequence[State], layout: Layout) -> list[Sample]:
        """Held-out clips beside what was made of a part of them, or from nothing."""
        made = [self._to_clips(answer, layout) for answer in answers]
        assert batch.sound is not None
        samples = []
        for row, task in enumerate(layout.extras["tasks"]):
            facts = batch.clips[row]
            truth = Clip(
                np.ascontiguousarray(batch.frames[row].permute(0, 2, 3, 1).cpu().numpy()), self.frame_rate,
                batch.sound[row].cpu().numpy(), self.mel.sample_rate, facts.onsets, facts.bodies, facts.name,
                facts.group,
            )
            first, *others = [self._make(frames[row], sounds[row], task, truth, facts.name) for frames, sounds in made]
            answer = ClipAnswer(first.clip, task, first.given, truth, tuple(other.clip for other in others))
            samples.append(Sample(Request(layout.seeds[row], {"task": task, "name": facts.name}), answer))
        return samples

    def present(self, item: ClipAnswer) -> tuple[Frames, Sound | None]:
        """The frames [F, h, w, 3] uint8 and the sound [S]."""
        return item.clip.frames, item.clip.sound

    def _check_rate(self, sample_rate: int) -> None:
        if sample_rate != self.mel.sample_rate:
            raise ConfigurationError(
                f"the data have {sample_rate} samples of sound per second and the codec {self.mel.sample_rate}: set "
                "data.sample_rate to the codec's"
            )

    def _to_state(self, batch: ClipBatch) -> State:
        wanted = (self.frames, 3, self.size, self.size)
        self._check_rate(batch.sample_rate)
        if tuple(batch.frames.shape[1:]) != wanted or batch.sound is None or batch.sound.shape[1] != self.samples:
            sound = None if batch.sound is None else batch.sound.shape[1]
            raise ConfigurationError(
                f"clips are {tuple(batch.frames.shape[1:])} with {sound} samples, the codec's {wanted} with "
                f"{self.samples}: give data and codec the same frames, size and frame_rate"
            )
        device = self.mel.mean.device
        pixels = batch.frames.to(device, torch.float32) / 127.5 - 1
        return {
            VIDEO: (pixels - self.frame_mean) / self.frame_std, SOUND: self.mel.encode(batch.sound.to(device))
        }

    def _arrange(self, state: State, shown: dict[str, Tensor]) -> Layout:
        count, device = len(state[VIDEO]), state[VIDEO].device
        frames = torch.arange(self.frames, device=device) / self.frame_rate
        seconds = {VIDEO: frames, SOUND: self.mel.seconds(self.samples).to(device)}
        learnt = {
            name: ~shown[name].reshape(-1, *(1,) * (value.ndim - 1)).expand(value.shape[:2] + (1,) * (value.ndim - 2))
            for name, value in state.items()
        }
        return Layout(
            {name: tuple(value.shape) for name, value in state.items()},
            positions={name: value.float().expand(count, -1) for name, value in seconds.items()},
            labels={f"given_{name}": value for name, value in state.items()}, loss_masks=learnt,
        )

    def _ask(
        self, batch: ClipBatch, tasks: Sequence[str], seeds: tuple[int, ...], extras: dict[str, Any]
    ) -> Layout:
        state = self._to_state(batch)
        shown = {name: torch.tensor([GIVEN[task] == name for task in tasks]).to(state[name].device) for name in state}
        layout = self._arrange(state, shown)
        assert batch.sound is not None
        layout.labels.update(given_frames=batch.frames, given_samples=batch.sound)
        return Layout(
            layout.shapes, positions=layout.positions, labels=layout.labels, seeds=seeds, extras=extras,
            loss_masks=layout.loss_masks,
        )

    def _to_clips(self, state: State, layout: Layout) -> tuple[list[Frames], list[Sound]]:
        tasks = layout.extras["tasks"]
        frames = to_frames(state[VIDEO] * self.frame_std + self.frame_mean)
        given: list[Frames] = list(layout.labels["given_frames"].permute(0, 1, 3, 4, 2).cpu().numpy())
        rows = [row for row, task in enumerate(tasks) if GIVEN[task] != SOUND]
        sounds: list[Sound] = list(layout.labels["given_samples"].float().cpu().numpy())
        made = self.mel.decode(state[SOUND][rows], self.samples) if rows else []
        for row, sound in zip(rows, made, strict=True):
            sounds[row] = sound
        shown = zip(given, frames, tasks, strict=True)
        return [known if GIVEN[task] == VIDEO else own for known, own, task in shown], sounds

    def _make(self, frames: Frames, sound: Sound, task: str, truth: Clip | None, name: str) -> ClipAnswer:
        clip = Clip(frames, self.frame_rate, sound, self.mel.sample_rate, name=name)
        given: NDArray[np.bool_] = np.full(frames.shape[:3], GIVEN[task] == VIDEO)
        return ClipAnswer(clip, task, given, truth)


def turn_frames(frames: Tensor, generator: torch.Generator) -> Tensor:
    """Square frames [B, F, C, h, w], each clip in one of the eight ways that mirrors and quarter turns allow."""
    choices = torch.randint(2, (3, len(frames), 1, 1, 1, 1), generator=generator, device=generator.device).bool()
    mirrored, upturned, transposed = choices.to(frames.device)
    frames = torch.where(mirrored, frames.flip(-1), frames)
    frames = torch.where(upturned, frames.flip(-2), frames)
    return torch.where(transposed, frames.transpose(-1, -2), frames)
