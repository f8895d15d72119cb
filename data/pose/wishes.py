"""What can be asked of a pose model: heatmaps of a file, or a frame of the test split; parsed and checked."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polydit.platform.errors import DataError, UserError

from .arrays import read_arrays
from .heatmaps import check_heatmaps
from .skeleton import JOINTS

KEYS = ("heatmaps", "frame", "hypotheses")


@dataclass(frozen=True)
class HeatmapInput:
    """Heatmaps of one person in one picture.

    Args:
        name: where they come from.
        maps: [16, 64, 64] float32 in the order of `skeleton.HEATMAP_JOINTS`.
        pose: [17, 3] the true pose in metres from the pelvis, in camera axes; None if unknown.
    """

    name: str
    maps: NDArray[np.float32] = field(repr=False)
    pose: NDArray[np.float32] | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class PoseWishes:
    """One request, checked.

    Args:
        heatmaps: what is seen.
        hypotheses: how many poses are wanted; None: as many as the system says.
    """

    heatmaps: HeatmapInput
    hypotheses: int | None = None

    @staticmethod
    def parse(raw: Mapping[str, Any]) -> PoseWishes:
        """Wishes from a request's plain values.

        Args:
            raw: ``heatmaps``, the path of an npz file (see `read_heatmaps`), an array or a `HeatmapInput`; ``frame``,
                which of the file's; ``hypotheses``.

        Raises:
            UserError: naming the wish, its limit and the fix.
        """
        check_keys(raw)
        hypotheses = check_count(raw)
        given, frame = raw.get("heatmaps"), raw.get("frame")
        if given is None:
            raise UserError(
                "a request names heatmaps: give heatmaps: file.npz, or in the requests of a data module "
                "frame: 0 for one of its test split"
            )
        if isinstance(given, HeatmapInput):
            return PoseWishes(given, hypotheses)
        if isinstance(given, str | Path):
            held = read_heatmaps(given)
        else:
            held = [HeatmapInput(f"heatmaps[{i}]", maps) for i, maps in enumerate(check_heatmaps(given, "the request"))]
        if frame is None and len(held) > 1:
            raise UserError(f"{given} holds heatmaps of {len(held)} frames: say which, as frame: 0")
        place = 0 if frame is None else check_frame(frame, len(held), str(given))
        return PoseWishes(held[place], hypotheses)


def check_keys(raw: Mapping[str, Any]) -> None:
    """Refuse wishes that there are not.

    Raises:
        UserError: naming the nearest that there is.
    """
    for key in raw:
        if key not in KEYS:
            near = difflib.get_close_matches(key, KEYS, 1)
            raise UserError(
                f"unknown wish {key!r} in a request: "
                + (f"did you mean {near[0]!r}?" if near else f"known are {', '.join(KEYS)}")
            )


def check_count(raw: Mapping[str, Any]) -> int | None:
    """Number of hypotheses that a request asks for; None if it does not.

    Raises:
        UserError: if it is no positive integer.
    """
    count = raw.get("hypotheses")
    if count is not None and (not isinstance(count, int) or isinstance(count, bool) or count < 1):
        raise UserError(f"hypotheses is a number of poses, 1 or more, not {count!r}")
    return count


def check_frame(frame: Any, count: int, where: str) -> int:
    """Place of a frame.

    Raises:
        UserError: if there is none of that number.
    """
    if not isinstance(frame, int) or isinstance(frame, bool) or not 0 <= frame < count:
        raise UserError(f"frame {frame!r} is none of the {count} of {where}: count from 0 to {count - 1}")
    return frame


def read_heatmaps(path: str | Path) -> list[HeatmapInput]:
    """Heatmaps of an npz file.

    The file holds ``heatmaps`` [N, 16, 64, 64] or, of one frame, [16, 64, 64], and maybe the true ``poses`` [N, 17, 3]
    in metres.

    Raises:
        DataError: if the file is missing or torn, or of another shape, or has values that are no numbers.
    """
    held = read_arrays(path, ("heatmaps",), ("poses",))
    maps = check_heatmaps(held["heatmaps"], str(path))
    poses: list[NDArray[np.float32] | None] = [None] * len(maps)
    if "poses" in held:
        known = held["poses"].astype(np.float32).reshape(-1, *held["poses"].shape[-2:])
        if known.shape != (len(maps), len(JOINTS), 3) or not np.isfinite(known).all():
            raise DataError(
                f"{path}: poses have shape {held['poses'].shape} beside heatmaps of {len(maps)} frames: give finite "
                f"[{len(maps)}, {len(JOINTS)}, 3]"
            )
        poses = list(known - known[:, :1])
    name = Path(path).name
    return [HeatmapInput(f"{name}[{i}]", each, pose) for i, (each, pose) in enumerate(zip(maps, poses, strict=True))]


def write_heatmaps(path: str | Path, inputs: list[HeatmapInput]) -> None:
    """Write heatmaps as `read_heatmaps` reads them, with the poses if all are known."""
    arrays = {"heatmaps": np.stack([each.maps for each in inputs])}
    known = [each.pose for each in inputs if each.pose is not None]
    if len(known) == len(inputs):
        arrays["poses"] = np.stack(known)
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
