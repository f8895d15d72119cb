"""Clips as still pictures: strips of frames, and sound as a waveform with its onsets.

Shape legend: F frames, h, w height and width in pixels, S samples of sound.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polydit.platform.errors import require

from .clips import Clip, Frames, Sound
from .media import EXTRA, enlarge

GAP = 2
"""White pixels between frames."""

RIM = (61, 126, 219)
"""Colour around frames that were given."""

WAVE = (61, 126, 219)
ONSET = (224, 138, 30)
PAPER = (255, 255, 255)

Picture = NDArray[np.uint8]


def make_strip(
    rows: Sequence[Frames], given: Sequence[NDArray[np.bool_] | None], side: int = 64, most: int = 32
) -> Picture:
    """Clips below each other, their frames side by side, with a blue rim around those that were given.

    Args:
        rows: frames [F, h, w, 3] of each clip, all as many and as large.
        given: for each, which frames [F] were given; None: none.
        side: smallest height of a frame; smaller ones are enlarged by a whole factor.
        most: frames shown, spread over the clip.
    """
    lines = []
    for frames, marks in zip(rows, given, strict=True):
        chosen = np.unique(np.linspace(0, len(frames) - 1, min(most, len(frames))).round().astype(int))
        big = enlarge(frames[chosen], side)
        cells = [_frame(picture, marks is not None and bool(marks[f])) for picture, f in zip(big, chosen, strict=True)]
        lines.append(np.concatenate(cells, axis=1))
    return np.concatenate(lines, axis=0)


def draw_wave(clip: Clip, width: int, height: int = 48) -> Picture:
    """The sound of a clip [height, width, 3], as a band from its least to its largest value, onsets as lines.

    Args:
        clip: with sound.
        width: in pixels, that of the strip it stands below.
        height: in pixels.
    """
    sound: Sound = np.zeros(1, np.float32) if clip.sound is None else clip.sound
    picture = np.full((height, width, 3), PAPER, np.uint8)
    if clip.onsets is not None:
        for onset in clip.onsets:
            column = int(onset / clip.seconds * width)
            picture[:, max(0, column - 1) : column + 1] = ONSET
    bounds = np.linspace(0, len(sound), width + 1).astype(int)
    for column, (start, end) in enumerate(pairwise(bounds)):
        part = sound[start : max(end, start + 1)]
        low, high = ((1 - float(value)) / 2 * (height - 1) for value in (part.max(), part.min()))
        picture[int(max(low, 0)) : int(min(high, height - 1)) + 1, column] = WAVE
    return picture


def encode_png(picture: Picture) -> bytes:
    """PNG of a picture."""
    pillow: Any = require("PIL.Image", EXTRA)
    buffer = io.BytesIO()
    pillow.fromarray(picture).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _frame(picture: Picture, given: bool) -> Picture:
    framed = np.full((picture.shape[0] + 2 * GAP, picture.shape[1] + 2 * GAP, 3), RIM if given else PAPER, np.uint8)
    framed[GAP:-GAP, GAP:-GAP] = picture
    return framed
