"""The built-in set: walking people made by rule. They are plausible and measured of nobody.

Shape legend: T frames.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from polydit.platform.errors import ConfigurationError

from .motion import Motion, MotionSource
from .skeleton import JOINTS


class WalkingSource(MotionSource):
    """People of drawn size and gait who walk, each along an arc of their own.

    Hips, knees, shoulders and elbows swing as sums of the first two harmonics of the stride, with amplitudes near those
    of level walking (hip 20 to 30 degrees, knee up to 60); the pelvis is carried at the height at which the lower foot
    touches the ground.

    Args:
        people: how many; every one is a subject with one clip.
        seconds: length of a clip.
        fps: frames per second.
        seed: of everything drawn.
    """

    def __init__(self, people: int = 40, seconds: float = 4.0, fps: float = 30.0, seed: int = 0) -> None:
        if people < 1 or seconds * fps < 1:
            raise ConfigurationError(f"{people} people for {seconds} s at {fps} Hz make no frame: raise them")
        self.people, self.seconds, self.fps, self.seed = people, seconds, fps, seed

    def read(self) -> list[Motion]:
        """One clip for each person; the same seed makes the same people."""
        return [
            Motion(f"walk_{number:03d}", f"person_{number:03d}", self._walk(number), self.fps)
            for number in range(self.people)
        ]

    def _walk(self, number: int) -> NDArray[np.float32]:
        generator = np.random.default_rng((self.seed, number))
        size = generator.uniform(0.88, 1.12)
        cadence = generator.uniform(0.75, 1.1)  # strides a second
        vigour = generator.uniform(0.6, 1.3)
        lean, carry = generator.uniform(-0.03, 0.15), generator.uniform(0.1, 0.7)
        phase0 = generator.uniform(0, 2 * math.pi)
        turn, heading = generator.normal(0, 0.25), generator.uniform(0, 2 * math.pi)
        asymmetry = generator.normal(0, 0.06, 2)
        time = np.arange(round(self.seconds * self.fps)) / self.fps
        phase = 2 * math.pi * cadence * time + phase0
        frames = walk_in_place(phase, size, vigour, lean, carry, asymmetry)
        return _travel(frames, time, 1.25 * size * cadence * vigour, turn, heading)


def walk_in_place(
    phase: NDArray[np.float64], size: float, vigour: float, lean: float, carry: float, asymmetry: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Positions [T, 17, 3] in metres of someone who walks towards z without moving on, x to the left, y up.

    Args:
        phase: [T] of the stride, radians.
        size: 1 for a person of 1.75 m.
        vigour: factor on all swings.
        lean: of the trunk, radians forwards.
        carry: of the elbows, radians bent.
        asymmetry: [2] by how much of the left side's swing that of legs and arms differs.
    """
    joints = {name: np.zeros((len(phase), 3)) for name in JOINTS}
    sway = np.stack([0.02 * np.sin(phase), np.zeros_like(phase), np.zeros_like(phase)], axis=-1)
    for side, sign, shift in (("left", 1.0, 0.0), ("right", -1.0, math.pi)):
        leg, arm = (vigour * (1 + sign * value) for value in asymmetry)
        angle = phase + shift
        hip = leg * (0.42 * np.cos(angle) + 0.05 * np.cos(2 * angle) + 0.06)
        knee = leg * (0.42 - 0.38 * np.cos(angle - 2.2) + 0.16 * np.cos(2 * angle - 1.2)).clip(0.02)
        twist = 0.06 * vigour * np.cos(phase)
        joints[f"{side}_hip"] = _offset(sign * 0.1, -0.06, sign * -twist * 0.1)
        joints[f"{side}_knee"] = joints[f"{side}_hip"] + _swing(hip, 0.44)
        joints[f"{side}_ankle"] = joints[f"{side}_knee"] + _swing(hip - knee, 0.43)
        shoulder = _bend(_offset(sign * 0.17, 0.45, 0.0 * phase), lean)
        shoulder[:, 2] += sign * twist
        swing = -arm * 0.4 * np.cos(angle) + 0.05
        splay = sign * np.array([0.07, 0.0, 0.0])
        joints[f"{side}_shoulder"] = shoulder
        joints[f"{side}_elbow"] = shoulder + _swing(swing, 0.29) + splay
        bent = swing + carry + 0.25 * arm * (1 - np.cos(angle))
        joints[f"{side}_wrist"] = joints[f"{side}_elbow"] + _swing(bent, 0.26)
    for name, height in (("spine", 0.24), ("thorax", 0.48), ("neck", 0.57)):
        joints[name] = _bend(_offset(0.0, height, 0.0 * phase), lean)
    joints["head"] = joints["neck"] + _offset(0.0, 0.2, 0.01 + 0.0 * phase)
    frames = size * (np.stack([joints[name] + sway for name in JOINTS], axis=1))
    ankles = [JOINTS.index("left_ankle"), JOINTS.index("right_ankle")]
    lowest = frames[:, ankles, 1].min(axis=1)
    frames[..., 1] += (0.08 * size - lowest)[:, None]
    return frames


def _offset(x: float, y: float, z: NDArray[np.float64] | float) -> NDArray[np.float64]:
    z = np.atleast_1d(np.asarray(z, dtype=np.float64))
    return np.stack([np.full_like(z, x), np.full_like(z, y), z], axis=-1)


def _swing(angle: NDArray[np.float64], length: float) -> NDArray[np.float64]:
    """A bone that hangs down, turned forwards by `angle`."""
    return length * np.stack([np.zeros_like(angle), -np.cos(angle), np.sin(angle)], axis=-1)


def _bend(points: NDArray[np.float64], angle: float) -> NDArray[np.float64]:
    """Points turned forwards about the hips."""
    y, z = points[..., 1], points[..., 2]
    return np.stack([points[..., 0], y * math.cos(angle) - z * math.sin(angle), y * math.sin(angle) + z], axis=-1)


def _travel(
    frames: NDArray[np.float64], time: NDArray[np.float64], speed: float, turn: float, heading: float
) -> NDArray[np.float32]:
    angle = heading + turn * time
    step = np.diff(time, prepend=time[0])
    path = np.stack([np.cumsum(speed * step * np.sin(angle)), np.cumsum(speed * step * np.cos(angle))], axis=-1)
    c, s = np.cos(angle)[:, None], np.sin(angle)[:, None]
    x, z = frames[..., 0] * c + frames[..., 2] * s, -frames[..., 0] * s + frames[..., 2] * c
    moved = np.stack([x + path[:, :1], frames[..., 1], z + path[:, 1:]], axis=-1)
    return moved.astype(np.float32)
