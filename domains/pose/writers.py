"""Hypotheses as files: NPZ for programs, BVH for animation software."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from polydit.data.pose.skeleton import JOINTS, PARENTS
from polydit.platform.evaluation.writer import Writer
from polydit.platform.requests import Sample

from .bvh import write_bvh
from .hypotheses import PoseHypotheses


class PoseNPZWriter(Writer):
    """Writes ``<index>_<name>.npz``: ``poses`` [hypotheses, 17, 3], metres, camera axes, and how to read them."""

    def write(self, samples: list[Sample], folder: Path, start: int = 0) -> list[Path]:
        """One file for each set of hypotheses."""
        paths = []
        for index, sample in enumerate(samples, start):
            item = sample.item
            if not isinstance(item, PoseHypotheses):
                continue
            arrays = {
                "poses": item.poses, "joints": np.array(JOINTS), "parents": np.array(PARENTS, dtype=np.int8),
                "seed": np.array(sample.request.seed), "name": np.array(item.name),
            }
            if item.truth is not None:
                arrays["truth"] = item.truth
            path = name_file(folder, index, item, "npz")
            np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
            paths.append(path)
        return paths


class PoseBVHWriter(Writer):
    """Writes ``<index>_<name>.bvh``, one motion whose frames are the hypotheses; see `write_bvh` for units and axes.

    Args:
        limit: most hypotheses of a file.
    """

    def __init__(self, limit: int = 200) -> None:
        if limit < 1:
            raise ValueError(f"a limit of {limit} hypotheses writes nothing: give at least 1")
        self.limit = limit

    def write(self, samples: list[Sample], folder: Path, start: int = 0) -> list[Path]:
        """One file for each set of hypotheses."""
        paths = []
        for index, sample in enumerate(samples, start):
            if isinstance(sample.item, PoseHypotheses):
                path = name_file(folder, index, sample.item, "bvh")
                write_bvh(path, sample.item.poses[: self.limit])
                paths.append(path)
        return paths


def name_file(folder: Path, index: int, item: PoseHypotheses, suffix: str) -> Path:
    """Path of an item's file; what does not belong in names becomes a line."""
    name = re.sub(r"[^A-Za-z0-9]+", "_", item.name.removesuffix(".npz")).strip("_")
    return folder / f"{index:05d}_{name}.{suffix}"
