"""Clips: frames and, where there is any, their sound; and where they come from.

Shape legend: F frames, h, w height and width in pixels, S samples of sound, n bodies, B clips, C = 3 colour channels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Frames = NDArray[np.uint8]
"""RGB frames [F, h, w, 3]."""

Sound = NDArray[np.float32]
"""Mono sound [S] in [-1, 1]."""


@dataclass(frozen=True)
class Clip:
    """A clip.

    Args:
        frames: [F, h, w, 3] RGB.
        frame_rate: frames per second; frame f shows the moment f / frame_rate.
        sound: [S] mono, beginning with the first frame; None: there is none.
        sample_rate: samples per second; 0 without sound.
        onsets: [m] seconds at which something visible is known to make its sound; None: unknown.
        bodies: number of bodies to be seen, where that is known.
        name: of the clip.
        group: what clips of one origin share, such as a file or a speaker; they never stand in two splits.
    """

    frames: Frames
    frame_rate: float
    sound: Sound | None = None
    sample_rate: int = 0
    onsets: NDArray[np.float64] | None = None
    bodies: int | None = None
    name: str = ""
    group: str = ""

    @property
    def seconds(self) -> float:
        """Duration of the frames."""
        return len(self.frames) / self.frame_rate


@dataclass
class ClipBatch:
    """Clips of one size, as batches hold them.

    Args:
        frames: [B, F, 3, h, w] uint8.
        sound: [B, S] float32 in [-1, 1]; None: no sound is used.
        index: [B] place of each clip in its split.
        clips: what else is known of each, without frames and sound.
        frame_rate: frames per second.
        sample_rate: samples per second; 0 without sound.
    """

    frames: Tensor
    sound: Tensor | None
    index: Tensor
    clips: list[ClipFacts]
    frame_rate: float
    sample_rate: int = 0

    def __len__(self) -> int:
        return len(self.index)

    def to(self, device: Any, **options: Any) -> ClipBatch:
        """The batch with its tensors on another device."""
        sound = None if self.sound is None else self.sound.to(device, **options)
        return ClipBatch(
            self.frames.to(device, **options), sound, self.index.to(device, **options), self.clips, self.frame_rate,
            self.sample_rate,
        )


@dataclass(frozen=True)
class ClipFacts:
    """What is known of a clip beside what is seen and heard; see `Clip`."""

    name: str = ""
    group: str = ""
    onsets: NDArray[np.float64] | None = field(default=None, compare=False)
    bodies: int | None = None


class ClipSet(ABC):
    """Clips of one source, opened."""

    @abstractmethod
    def __len__(self) -> int:
        """How many there are."""

    @abstractmethod
    def read(self, index: int) -> Clip:
        """One of them.

        Raises:
            DataError: if it cannot be read.
        """

    @abstractmethod
    def group(self, index: int) -> str:
        """Its group, without decoding it."""

    def describe(self) -> list[str]:
        """What was left out on opening, one line each, and why; nothing by default."""
        return []


class ClipSource(ABC):
    """Where clips come from."""

    @abstractmethod
    def open(self, wanted: ClipFormat) -> ClipSet:
        """The clips in the wanted format.

        Raises:
            DataError: if there are none, or they cannot be made so.
        """


@dataclass(frozen=True)
class ClipFormat:
    """What all clips of a data module are alike in.

    Args:
        frames: F.
        size: h and w.
        frame_rate: frames per second.
        sample_rate: samples per second of sound; 0: sound is not read.
        cache_dir: folder of what sources make or decode once.
    """

    frames: int
    size: int
    frame_rate: float
    sample_rate: int = 0
    cache_dir: str = "cache"

    @property
    def samples(self) -> int:
        """S, of all frames together."""
        return round(self.frames / self.frame_rate * self.sample_rate)


def to_tensor(frames: Frames) -> Tensor:
    """[F, 3, h, w] of frames [F, h, w, 3]."""
    return torch.from_numpy(np.ascontiguousarray(frames.transpose(0, 3, 1, 2)))


def to_frames(values: Tensor) -> list[Frames]:
    """Frames [F, h, w, 3] uint8 of values [B, F, 3, h, w] in [-1, 1]."""
    grey = ((values.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return list(grey.permute(0, 1, 3, 4, 2).cpu().numpy())
