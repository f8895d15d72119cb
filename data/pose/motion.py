"""Clips of motion, what reads them, and how they are divided into splits.

Shape legend: T frames.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from polydit.data.splitting import SPLITS, check_splits
from polydit.platform.errors import DataError

from .skeleton import JOINTS

LONGEST_BONES = 3.0
"""Metres that a person's joints may lie apart; more says that the unit is another."""


@dataclass(frozen=True)
class Motion:
    """One clip of one person.

    Args:
        name: of the clip, unique within its source.
        subject: who moves; clips of one subject are never divided between splits.
        positions: [T, 17, 3] float32 metres, y up; the order is that of `skeleton.JOINTS`.
        fps: frames per second.
        split: the split that the origin puts it in; "": none.
    """

    name: str
    subject: str
    positions: NDArray[np.float32]
    fps: float
    split: str = ""

    def __post_init__(self) -> None:
        if self.positions.ndim != 3 or self.positions.shape[1:] != (len(JOINTS), 3) or not len(self.positions):
            raise DataError(
                f"{self.name}: positions have shape {self.positions.shape}: give [frames, {len(JOINTS)}, 3], one "
                "frame at least"
            )
        bad = np.asarray(~np.isfinite(self.positions).all(axis=(1, 2)))
        if bad.any():
            raise DataError(
                f"{self.name}: {bad.sum()} of {len(bad)} frames hold positions that are no finite numbers, first frame "
                f"{int(bad.argmax())}: cut them out"
            )
        reach = float(np.ptp(self.positions, axis=1).max())
        if reach > LONGEST_BONES or reach < 0.1:
            raise DataError(
                f"{self.name}: joints of one frame lie up to {reach:.3g} m apart, and a person's 0.1 to "
                f"{LONGEST_BONES:g}: give metres"
            )


class MotionSource(ABC):
    """Reads or makes clips."""

    @abstractmethod
    def read(self) -> list[Motion]:
        """Every clip.

        Raises:
            DataError: if a file is missing or wrong, naming what it lacks.
        """


def divide_motions(
    motions: Sequence[Motion], splits: str | Sequence[float], seed: int
) -> dict[str, list[int]]:
    """Places of the clips in each split, ascending; a subject's clips stay together.

    Args:
        motions: all clips.
        splits: "stored" keeps the clips that their origin puts into a split there, and divides the others 80/10/10, or
            90/10/0 where the origin names a test split; three fractions divide all anew.
        seed: of the division.
    """
    check_splits(splits)
    stored = isinstance(splits, str)
    parts: dict[str, list[int]] = {name: [] for name in SPLITS}
    free = []
    for place, motion in enumerate(motions):
        if stored and motion.split:
            parts[motion.split].append(place)
        else:
            free.append(place)
    fractions = splits if not isinstance(splits, str) else (0.9, 0.1, 0.0) if parts["test"] else (0.8, 0.1, 0.1)
    for place, name in zip(free, _deal([motions[i] for i in free], list(fractions), seed), strict=True):
        parts[name].append(place)
    return {name: sorted(places) for name, places in parts.items()}


def _deal(motions: Sequence[Motion], fractions: Sequence[float], seed: int) -> list[str]:
    """Split of each clip: subjects in random order fill test, then val, until each has its share of frames."""
    frames: dict[str, int] = {}
    for motion in motions:
        frames[motion.subject] = frames.get(motion.subject, 0) + len(motion.positions)
    subjects = sorted(frames)
    total, chosen = sum(frames.values()), dict.fromkeys(subjects, "train")
    order = [subjects[i] for i in np.random.default_rng(seed).permutation(len(subjects))]
    for name, fraction in (("test", fractions[2]), ("val", fractions[1])):
        filled = 0
        # The last subject trains, whatever the fractions: with one subject there is nothing to hold out.
        while order and filled < fraction * total and (len(order) > 1 or fractions[0] == 0):
            subject = order.pop()
            chosen[subject], filled = name, filled + frames[subject]
    return [chosen[motion.subject] for motion in motions]
