"""Heatmaps as a detector might give them, with the doubts that a picture leaves: made from known places of joints.

Shape legend: B views, J heatmap joints, P peaks of a heatmap, S pixels along each side.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from polydit.platform.errors import ConfigurationError, DataError

from .skeleton import HEATMAP_INDEX, HEATMAP_JOINTS, JOINTS, LIMBS, MIRRORED, limb_joints

SIZE = 64
"""Pixels along each side of a heatmap, those of HRNet on a crop of 256 pixels."""

UNIFORM_DRAWS = 2 * len(LIMBS) + 3 * len(JOINTS)
NORMAL_DRAWS = 4 * len(JOINTS) + 3
"""Random numbers that the heatmaps of a view take."""


@dataclass(frozen=True)
class Doubts:
    """Which joints of B views are in doubt.

    Args:
        exchanged: [B, 17], whether the heatmap has a second peak at the joint's counterpart.
        weight: [B, 17], mass of the peak at the true place, 1 where there is no other.
        occluded: [B, 17], whether the joint is hidden.
        missing: [B, 17], whether its heatmap is empty; a part of the hidden ones.
    """

    exchanged: NDArray[np.bool_]
    weight: NDArray[np.float64]
    occluded: NDArray[np.bool_]
    missing: NDArray[np.bool_]


@dataclass(frozen=True)
class HeatmapRecipe:
    """How heatmaps are made: a peak for each joint, and doubts with stated probabilities.

    Persons are cut out by the square about their joints, enlarged by `margin`. In an exchange, joints have a peak at
    their own place and one at their counterpart's, with mass w and 1 - w; w is drawn from `exchange_mass`, and the true
    one is the heavier with probability w, so that the heatmap says what there is to know. Where a limb is exchanged,
    the rest of the body often tells left from right; where all of a person is, nothing does but w. A hidden joint's
    peak is low, broad and off its place, or it is missing altogether.

    Args:
        blur: standard deviation of a peak, pixels; 2 in HRNet's training.
        jitter: standard deviation of a peak's displacement, pixels.
        height: [low, high] of a clear peak's height, which raw heatmaps have near 1.
        exchange: probability that the arms are in doubt, and as much for the legs.
        exchange_sides: probability that all of a person is, as one who may face the camera or turn the back to it.
        exchange_mass: [low, high] of w.
        occlusion: probability that a joint is hidden.
        missing: probability that a hidden joint has no peak at all.
        hidden_blur: standard deviation of a hidden joint's peak, pixels.
        hidden_height: [low, high] of its height.
        margin: side of the cut-out over that of the square about the joints.
        shift: standard deviation of the cut-out's displacement and, twice this, of its relative size, in its sides.
    """

    blur: float = 2.0
    jitter: float = 0.5
    height: tuple[float, float] = (0.7, 1.0)
    exchange: float = 0.2
    exchange_sides: float = 0.1
    exchange_mass: tuple[float, float] = (0.5, 0.8)
    occlusion: float = 0.1
    missing: float = 0.3
    hidden_blur: float = 6.0
    hidden_height: tuple[float, float] = (0.05, 0.2)
    margin: float = 1.25
    shift: float = 0.02

    def __post_init__(self) -> None:
        for name in ("exchange", "exchange_sides", "occlusion", "missing"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigurationError(f"{name} is a probability, not {getattr(self, name)}: choose one from 0 to 1")
        if min(self.blur, self.hidden_blur, self.margin) <= 0:
            raise ConfigurationError(
                f"blur {self.blur}, hidden_blur {self.hidden_blur} and margin {self.margin} must be above 0"
            )
        low, high = self.exchange_mass
        if not 0 < low <= high < 1:
            raise ConfigurationError(f"exchange_mass {[low, high]} must rise within (0, 1), such as [0.5, 0.8]")

    def doubt(self, draws: NDArray[np.float64]) -> Doubts:
        """Doubts of B views from `UNIFORM_DRAWS` numbers each, uniform in [0, 1)."""
        count, joints = len(draws), len(JOINTS)
        exchanged, weight = np.zeros((count, joints), dtype=bool), np.ones((count, joints))
        low, high = self.exchange_mass
        for number, limb in enumerate(LIMBS):  # the sides last, for they take the limbs along
            chance, mass = draws[:, 2 * number], draws[:, 2 * number + 1]
            probability = self.exchange_sides if limb == "sides" else self.exchange
            places = list(limb_joints(limb))
            doubtful = (chance < probability)[:, None]
            heavy = low + (high - low) * mass
            # What remains of the first number is uniform again, given that there is a doubt.
            right = chance / max(probability, 1e-12) < heavy
            exchanged[:, places] |= doubtful
            weight[:, places] = np.where(doubtful, np.where(right, heavy, 1 - heavy)[:, None], weight[:, places])
        rest = draws[:, 2 * len(LIMBS) :].reshape(count, 3, joints)
        occluded = rest[:, 0] < self.occlusion
        return Doubts(exchanged, weight, occluded, occluded & (rest[:, 1] < self.missing))

    def render(
        self, places: NDArray[np.float64], doubts: Doubts, draws: NDArray[np.float64], normals: NDArray[np.float64]
    ) -> NDArray[np.float32]:
        """Heatmaps [B, J, S, S] of joints at `places` [B, 17, 2] in the picture, rows downwards.

        Args:
            places: in any unit.
            doubts: what `doubt` gave.
            draws: the same numbers.
            normals: `NORMAL_DRAWS` normal numbers each.
        """
        count, joints = places.shape[:2]
        pixels = self._cut_out(places, normals[:, :3])
        noise = normals[:, 3:].reshape(count, 2, joints, 2)
        blur = np.where(doubts.occluded, self.hidden_blur, self.blur)
        # A hidden joint is looked for where it may be: about as far off as its peak is broad.
        spread = np.where(doubts.occluded, self.hidden_blur / 2, self.jitter)[..., None]
        first = pixels + spread * noise[:, 0]
        second = pixels[:, list(MIRRORED)] + spread * noise[:, 1]
        level = draws[:, 2 * len(LIMBS) :].reshape(count, 3, joints)[:, 2]
        clear, hidden = (low + (high - low) * level for low, high in (self.height, self.hidden_height))
        height = np.where(doubts.missing, 0.0, np.where(doubts.occluded, hidden, clear))
        peaks = np.stack([first, second], axis=2)
        heights = height[..., None] * np.stack([doubts.weight, 1 - doubts.weight], axis=-1)
        chosen = list(HEATMAP_INDEX)
        return draw_peaks(peaks[:, chosen], heights[:, chosen], blur[:, chosen])

    def _cut_out(self, places: NDArray[np.float64], normals: NDArray[np.float64]) -> NDArray[np.float64]:
        low, high = places.min(axis=1), places.max(axis=1)
        side = self.margin * (high - low).max(axis=1) * np.exp(2 * self.shift * normals[:, 2])
        middle = (low + high) / 2 + self.shift * side[:, None] * normals[:, :2]
        return (places - middle[:, None]) / side[:, None, None] * SIZE + SIZE / 2


def draw_peaks(
    peaks: NDArray[np.float64], heights: NDArray[np.float64], blur: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Sums of Gaussian peaks, [B, J, S, S] with rows downwards.

    Args:
        peaks: [B, J, P, 2] places (x, y), pixels; a pixel's middle is its whole number.
        heights: [B, J, P].
        blur: [B, J] standard deviations, pixels.
    """
    grid = np.arange(SIZE, dtype=np.float32)
    scale = (-0.5 / blur**2)[..., None, None].astype(np.float32)
    profiles = np.exp(scale[..., None] * (grid - peaks.astype(np.float32)[..., None]) ** 2)  # [B, J, P, 2, S]
    # Peaks lie apart along the product of their profiles, so that a matrix product adds them up.
    return np.matmul(
        (profiles[..., 1, :] * heights.astype(np.float32)[..., None]).swapaxes(-1, -2), profiles[..., 0, :]
    )


def check_heatmaps(maps: NDArray[np.floating], where: str) -> NDArray[np.float32]:
    """Heatmaps [N, J, S, S] of a user, checked; one alone may come without the first axis.

    Raises:
        DataError: naming what is wrong of number, joints, size or values.
    """
    maps = np.asarray(maps)
    if maps.dtype.kind not in "fiu":
        raise DataError(f"{where}: heatmaps are {maps.dtype}: give numbers")
    maps = maps[None] if maps.ndim == 3 else maps
    joints = len(HEATMAP_JOINTS)
    if maps.ndim != 4 or maps.shape[1] != joints:
        raise DataError(
            f"{where}: heatmaps have shape {maps.shape}: give [frames, {joints}, {SIZE}, {SIZE}], one for each of "
            f"{', '.join(HEATMAP_JOINTS)}"
        )
    if maps.shape[2:] != (SIZE, SIZE):
        raise DataError(
            f"{where}: heatmaps have {maps.shape[2]} x {maps.shape[3]} pixels: resize them to {SIZE} x {SIZE}"
        )
    if not len(maps):
        raise DataError(f"{where}: heatmaps of no frame: give one at least")
    bad = np.argwhere(~np.isfinite(maps))
    if len(bad):
        frame, joint = bad[0, :2]
        raise DataError(
            f"{where}: frame {frame}, {HEATMAP_JOINTS[joint]}: {len(bad)} values are no finite numbers: look at the "
            "detector, or set them to 0"
        )
    return np.ascontiguousarray(maps, dtype=np.float32)
