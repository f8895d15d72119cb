"""The codec of PAD: chunks of actions, and the frames of one camera that follow.

Shape legend: B batch, K future frames, T observed steps, h, w pixels, H actions of a chunk, A action size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polydit.data.robotics.batch import TrajectoryBatch
from polydit.platform.errors import ConfigurationError, DataError
from polydit.platform.normalisers import Kind
from polydit.platform.state import Layout, State

from .codec import ActionChunkCodec, History
from .comparison import ChunkComparison, measure_psnr
from .instructions import InstructionLabels


class FrameActionCodec(ActionChunkCodec):
    """Chunks as the field ``action`` [B, H, A], future frames as ``image`` [B, K, 3, h, w] in [-1, 1].

    The frames seen are the label ``current_image`` [B, T, 3, h, w], in the same unit. Windows whose actions are all
    masked, as those of video without a robot, teach the frames alone; frames past the end are masked like actions.

    Args:
        camera: the camera whose frames are predicted.
        frames: K; the data module must give as many future frames of the camera.
        action_size, vectors, horizon, history, instruction, actions, states: see `ActionChunkCodec`.
    """

    def __init__(
        self,
        action_size: int,
        camera: str,
        frames: int = 3,
        vectors: dict[str, int] | None = None,
        horizon: int = 8,
        history: int = 1,
        instruction: InstructionLabels | None = None,
        actions: Kind = "range",
        states: Kind = "standard",
    ) -> None:
        super().__init__(action_size, vectors or {}, (camera,), horizon, history, instruction, actions, states)
        self.camera, self.frames = camera, frames

    def encode(self, batch: TrajectoryBatch, generator: torch.Generator) -> tuple[State, Layout]:
        """Normalised chunks, future frames, and the labels of what was observed.

        Raises:
            ConfigurationError: if the batch has no such frames, or more or fewer.
        """
        state, layout = super().encode(batch, generator)
        future = batch.future.get(self.camera)
        given = 0 if future is None else future.shape[1]
        if future is None or given != self.frames:
            raise ConfigurationError(
                f"the data module gives {given} future frames of {self.camera!r} and the codec predicts {self.frames}: "
                "ask the data module for as many"
            )
        frames = to_signed(future)
        shapes, masks = {**layout.shapes, "image": tuple(frames.shape)}, dict(layout.masks)
        if batch.future_mask is not None:
            masks["image"] = batch.future_mask
            frames = frames * batch.future_mask[:, :, None, None, None]
        return {**state, "image": frames}, replace(layout, shapes=shapes, masks=masks)

    def observe(self, histories: Sequence[History], instructions: Sequence[str], seeds: Sequence[int]) -> Layout:
        """Layout of one chunk and its frames for each of B situations; see `ActionChunkCodec.observe`."""
        layout = super().observe(histories, instructions, seeds)
        size = layout.labels["current_image"].shape[-2:]
        return replace(layout, shapes={**layout.shapes, "image": (len(histories), self.frames, 3, *size)})

    def labels(self, observations: Mapping[str, Tensor], instructions: Sequence[str]) -> dict[str, Tensor]:
        """Labels of observations [B, T, ...] and what was told.

        Raises:
            DataError: if the camera's images are no 8-bit RGB.
        """
        labels = super().labels(observations, instructions)
        labels["current_image"] = to_signed(labels.pop(self.camera))
        return labels

    def compare(self, batch: TrajectoryBatch, answers: Sequence[State], layout: Layout) -> list[ChunkComparison]:
        """Held-out windows beside what was sampled for them; frames past the end of an episode are left out.

        Frames are those of the first answer: a mean over answers would be a blur that no answer shows.
        """
        predicted, truth = self.decode_frames(answers[0]), batch.future[self.camera].cpu().numpy()
        now = batch.observations[self.camera][:, -1:].cpu().numpy()
        real = np.ones(truth.shape[:2], bool) if batch.future_mask is None else batch.future_mask.cpu().numpy()
        return [
            comparison if not real[i].any() else replace(
                comparison,
                psnr=measure_psnr(predicted[i, real[i]], truth[i, real[i]]),
                copied_psnr=measure_psnr(np.broadcast_to(now[i], truth[i].shape)[real[i]], truth[i, real[i]]),
            )
            for i, comparison in enumerate(super().compare(batch, answers, layout))
        ]

    def decode_frames(self, state: State) -> NDArray[np.uint8]:
        """Predicted frames [B, K, h, w, 3] as 8-bit RGB, the earliest first."""
        return to_bytes(state["image"])

    def normalise_actions(self, actions: Sequence[NDArray[np.float32]], device: torch.device) -> State:
        """Not to be had: a guess of actions alone leaves the frames open.

        Raises:
            ConfigurationError: always.
        """
        raise ConfigurationError("frames cannot be guessed from the last answer: set execution.guess_from to 0")


def to_signed(images: Tensor) -> Tensor:
    """[..., 3, h, w] float32 in [-1, 1] of 8-bit RGB images [..., h, w, 3].

    Raises:
        DataError: if they are no such images.
    """
    if images.dtype != torch.uint8 or images.shape[-1] != 3:
        raise DataError(f"images of shape {tuple(images.shape)} and {images.dtype} are no 8-bit RGB [..., h, w, 3]")
    return images.movedim(-1, -3).float() / 127.5 - 1


def to_bytes(images: Tensor) -> NDArray[np.uint8]:
    """8-bit RGB [..., h, w, 3] of images [..., 3, h, w] in [-1, 1], clipped."""
    scaled = ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return scaled.movedim(-3, -1).cpu().numpy()
