"""Cameras drawn at random around a person, and what they see.

Camera axes are those of computer vision: x to the right, y down, z forwards.

Shape legend: B views, J joints.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from polydit.platform.errors import ConfigurationError

DRAWS = 8
"""Random numbers that a view takes."""


@dataclass(frozen=True)
class Cameras:
    """B pinhole cameras.

    Args:
        rotation: [B, 3, 3], world to camera.
        position: [B, 3] in the world, metres.
        focal: [B] focal length in heights of the picture; the principal point is its middle.
    """

    rotation: NDArray[np.float64]
    position: NDArray[np.float64]
    focal: NDArray[np.float64]

    def see(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """Points [B, J, 3] of the world in camera axes, metres."""
        return np.einsum("bij,bkj->bki", self.rotation, points - self.position[:, None])

    def project(self, seen: NDArray[np.floating]) -> NDArray[np.float64]:
        """Places [B, J, 2] in the picture, in heights of it from its middle, of points in camera axes."""
        return self.focal[:, None, None] * seen[..., :2] / np.maximum(seen[..., 2:], 1e-3)


@dataclass(frozen=True)
class CameraRange:
    """From where people are seen; every range is [low, high] of a uniform draw.

    The azimuth is drawn from the whole circle. Persons are cut out of the picture afterwards, so that the focal length
    acts only through perspective.

    Args:
        distance: along the ground from the pelvis, metres.
        height: above the lowest joint, metres.
        focal: focal length in heights of the picture; 1.15 is that of Human3.6M's cameras.
        roll: turn about the line of sight, degrees to either side.
        aim: how far from the pelvis the camera may look past it, metres.
    """

    distance: tuple[float, float] = (3.0, 6.0)
    height: tuple[float, float] = (0.5, 2.5)
    focal: tuple[float, float] = (1.0, 1.5)
    roll: float = 5.0
    aim: float = 0.2

    def __post_init__(self) -> None:
        for name in ("distance", "height", "focal"):
            low, high = getattr(self, name)
            if not low <= high or (name != "height" and low <= 0):
                raise ConfigurationError(f"{name} of the cameras is {[low, high]}: give [low, high], rising, above 0")
        if self.distance[0] < 1.5:
            raise ConfigurationError(
                f"a distance of {self.distance[0]} m lets a camera stand within an arm's reach: begin at 1.5 or more"
            )

    def place(self, poses: NDArray[np.floating], draws: NDArray[np.float64]) -> Cameras:
        """A camera for each pose [B, 17, 3] (world, y up) from `DRAWS` numbers each, uniform in [0, 1)."""
        root = poses[:, 0].astype(np.float64)
        ground = poses[..., 1].min(axis=1)

        def between(limits: tuple[float, float], column: int) -> NDArray[np.float64]:
            return limits[0] + (limits[1] - limits[0]) * draws[:, column]

        azimuth, distance = 2 * math.pi * draws[:, 0], between(self.distance, 1)
        position = np.stack(
            [root[:, 0] + distance * np.sin(azimuth), ground + between(self.height, 2),
             root[:, 2] + distance * np.cos(azimuth)], axis=-1,
        )
        target = root + self.aim * (2 * draws[:, 3:6] - 1)
        forward = _normalise(target - position)
        right = _normalise(np.cross(forward, np.array([0.0, 1.0, 0.0])))
        down = np.cross(forward, right)
        roll = math.radians(self.roll) * (2 * draws[:, 6] - 1)
        c, s = np.cos(roll)[:, None], np.sin(roll)[:, None]
        rotation = np.stack([c * right + s * down, -s * right + c * down, forward], axis=1)
        return Cameras(rotation, position, between(self.focal, 7))


def _normalise(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
