"""Bodies of the built-in set found again in frames, by their colours; and the moments at which they turn.

Made or true clips alike are measured so, pixel by pixel and without a network.

Shape legend: F frames, h, w height and width in pixels, K = 4 colours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .clips import Frames
from .rasteriser import COLOURS, GROUND

LEAST_AREA = 0.006
"""Share of the frame from which on a colour counts as a body: a disc of a radius of 0.044."""

LEAST_SHARE = 0.25
"""Of a body's colour in a pixel, below which the pixel is noise."""

LEAST_TURN = 0.16
"""Change of velocity in boxes per second from which on a body turns: three times the error of tracking true clips."""

NORMAL_MEDIAN = 0.6745
"""Median of the absolute value of a standard normal variable."""


@dataclass(frozen=True)
class Tracks:
    """Where bodies are.

    Args:
        places: [F, K, 2] centres, right and down, as shares of the frame; NaN where there is none.
        areas: [F, K] share of the frame that each covers.
        frame_rate: frames per second.
    """

    places: NDArray[np.float64]
    areas: NDArray[np.float64]
    frame_rate: float

    @property
    def present(self) -> NDArray[np.bool_]:
        """[F, K]."""
        return np.asarray(self.areas >= LEAST_AREA)

    @property
    def radii(self) -> NDArray[np.float64]:
        """[K] of discs of the median area over the frames where they are."""
        areas = np.where(self.present, self.areas, np.nan)
        known = self.present.any(axis=0)
        radii = np.full(self.areas.shape[1], np.nan)
        radii[known] = np.sqrt(np.nanmedian(areas[:, known], axis=0) / np.pi)
        return radii

    @property
    def jitter(self) -> NDArray[np.float64]:
        """[K] standard deviation of each body's places about straight runs; NaN where it is not seen three times.

        Places of independent error σ have second differences of variance 6 σ²; their median absolute value, made a
        standard deviation as of Gaussians, hardly heeds the few over which a body truly turns.
        """
        bend = np.abs(np.diff(self.places, n=2, axis=0))
        spread = np.full(self.places.shape[1], np.nan)
        for body in np.flatnonzero(np.isfinite(bend).any(axis=(0, 2))):
            spread[body] = np.nanmedian(bend[:, body]) / NORMAL_MEDIAN / np.sqrt(6)
        return spread


@dataclass(frozen=True)
class Turn:
    """A change of a body's velocity.

    Args:
        time: in seconds.
        body: its colour.
        size: of the change, boxes per second.
        gap: from its rim to the nearest wall or body, in boxes; about 0 where something was hit.
    """

    time: float
    body: int
    size: float
    gap: float


def track_bodies(frames: Frames, frame_rate: float) -> Tracks:
    """Centres and areas of the bodies of each colour in frames [F, h, w, 3]."""
    ground, colours = np.asarray(GROUND, float), np.asarray(COLOURS, float) - np.asarray(GROUND, float)
    light = frames.astype(float) - ground
    lengths = np.linalg.norm(colours, axis=1)
    along = light @ (colours / lengths[:, None]).T
    nearest = along.argmax(axis=-1)
    shares = np.clip(along / lengths, 0, 1)
    shares = np.where((np.arange(len(colours)) == nearest[..., None]) & (shares >= LEAST_SHARE), shares, 0.0)
    height, width = frames.shape[1:3]
    total = shares.sum(axis=(1, 2))
    x, y = (np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height
    with np.errstate(invalid="ignore", divide="ignore"):
        sums = np.stack([np.einsum("fyxk,x->fk", shares, x), np.einsum("fyxk,y->fk", shares, y)], axis=-1)
        places = sums / total[..., None]
    areas = total / (height * width)
    return Tracks(np.where((areas >= LEAST_AREA)[..., None], places, np.nan), areas, frame_rate)


def find_turns(tracks: Tracks) -> list[Turn]:
    """Moments at which a body's velocity changes, in order of time.

    Bodies run straight between impacts, so lines through two frames before and two frames after cross at the impact; a
    change that reaches over two intervals of frames is one turn. Impacts in the first and last interval go unseen.
    """
    turns = []
    for body in range(tracks.places.shape[1]):
        path = tracks.places[:, body]
        velocity = np.diff(path, axis=0) * tracks.frame_rate
        change = np.linalg.norm(np.diff(velocity, axis=0), axis=1)  # between intervals f and f + 1, at frame f + 1
        frame = 0
        while frame < len(change):
            if not change[frame] > LEAST_TURN:
                frame += 1
                continue
            # the impact lies in interval f or f + 1; with that interval in between, the next change is part of it
            spans = frame + 1 < len(change) and change[frame + 1] > LEAST_TURN
            before, after = frame, min(frame + 1 + spans, len(velocity) - 1)
            turns.append(_cross(tracks, body, velocity, before, after))
            frame += 2 if spans else 1
    return sorted((turn for turn in turns if turn is not None), key=lambda turn: turn.time)


def _cross(tracks: Tracks, body: int, velocity: NDArray[np.float64], before: int, after: int) -> Turn:
    """The turn between the straight runs of intervals `before` and `after`."""
    change = velocity[after] - velocity[before]
    start, end = tracks.places[before, body], tracks.places[after, body]
    # p_before + v_before (t - t_before) and p_after + v_after (t - t_after) meet, in the least-squares sense
    offset = start - end + (after * velocity[after] - before * velocity[before]) / tracks.frame_rate
    time = float(offset @ change / (change @ change))
    low, high = (before + 0.5) / tracks.frame_rate, (after + 0.5) / tracks.frame_rate
    time = min(max(time, low), high)
    place = start + velocity[before] * (time - before / tracks.frame_rate)
    return Turn(time, body, float(np.linalg.norm(change)), _measure_gap(tracks, body, place, time))


def _measure_gap(tracks: Tracks, body: int, place: NDArray[np.float64], time: float) -> float:
    radii = tracks.radii
    gaps = [float(np.min([place, 1 - place])) - radii[body]]
    frame = min(round(time * tracks.frame_rate), len(tracks.places) - 1)
    for near in {frame, max(frame - 1, 0), min(frame + 1, len(tracks.places) - 1)}:
        distance = np.linalg.norm(tracks.places[near] - tracks.places[near, body], axis=-1) - radii - radii[body]
        others = np.delete(distance, body)
        gaps += others[np.isfinite(others)].tolist()
    return float(min(gaps))
