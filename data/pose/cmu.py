"""Motion capture of the CMU database in npz files: joint positions with names, clip after clip.

The data used in this project was obtained from mocap.cs.cmu.edu.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from polydit.platform.errors import DataError

from .arrays import read_arrays
from .motion import Motion, MotionSource
from .skeleton import CMU_ASF, CMU_BVH, select_joints


class CMUSource(MotionSource):
    """Clips of an npz file or of all in a folder.

    A file holds ``joints`` [frames, K, 3] in metres, y up, all clips one after another; ``clip`` [n] their names,
    ``clip_length`` [n], ``joint_names`` [K] of the database's ASF skeleton or of its BVH conversion, ``fps``, and maybe
    ``is_test`` [n]. A clip named ``02_01`` is of subject 02; of another the subject is not known, and each clip counts
    as one by itself.

    Args:
        path: the file or folder.
        clips: pattern that names of clips must match from their beginning, such as ``walking``; empty: all.
    """

    def __init__(self, path: str, clips: str = "") -> None:
        self.path = Path(path)
        self.clips = clips

    def read(self) -> list[Motion]:
        """Every clip of every file, in the order of the files' names."""
        files = sorted(self.path.glob("*.npz")) if self.path.is_dir() else [self.path]
        if not files:
            raise DataError(f"there is no npz file in {self.path}: give a file, or a folder that holds some")
        motions = [motion for file in files for motion in self._read_file(file)]
        chosen = [motion for motion in motions if re.match(self.clips, motion.name)]
        if not chosen:
            raise DataError(f"none of {len(motions)} clips in {self.path} matches {self.clips!r}: change `clips`")
        return chosen

    def _read_file(self, path: Path) -> list[Motion]:
        held = read_arrays(path, ("joints", "clip", "clip_length", "joint_names", "fps"), ("is_test",))
        names, lengths = [_text(name) for name in held["clip"]], held["clip_length"].astype(np.int64)
        joints = held["joints"]
        if joints.ndim != 3 or joints.shape[1:] != (len(held["joint_names"]), 3) or len(joints) != lengths.sum():
            raise DataError(
                f"{path}: joints have shape {joints.shape}, but there are {len(held['joint_names'])} joint_names and "
                f"clips of {lengths.sum()} frames in all: give [frames, joints, 3]"
            )
        positions = select_joints(joints, [_text(name) for name in held["joint_names"]], (CMU_ASF, CMU_BVH), str(path))
        marks = held["is_test"] if "is_test" in held else np.zeros(len(names), dtype=bool)
        parts = np.split(positions, np.cumsum(lengths)[:-1])
        return [
            Motion(name, _subject(name, number), part, float(held["fps"]), "test" if mark else "")
            for number, (name, part, mark) in enumerate(zip(names, parts, marks.tolist(), strict=True))
        ]


def _text(name: bytes | str) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


def _subject(name: str, number: int) -> str:
    numbered = re.fullmatch(r"(\d+)_\d+", name)
    return numbered[1] if numbered else f"{name}#{number}"
