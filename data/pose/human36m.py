"""Human3.6M and MPI-INF-3DHP in the npz layouts that their users commonly share.

Neither set may be passed on; who has registered for them makes the files with the public converters of VideoPose3D and
P-STMO, whose layouts these are.

Shape legend: T frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polydit.platform.errors import DataError

from .arrays import read_object
from .motion import Motion, MotionSource
from .skeleton import HUMAN36M_INDEX, MPI_INF_3DHP_INDEX


class Human36MSource(MotionSource):
    """``data_3d_h36m.npz``: ``positions_3d``, a dict subject -> action -> [T, 32, 3] in metres, z up, at 50 Hz.

    Args:
        path: the file.
        test_subjects: whose clips are the test split; S9 and S11 in the common protocol.
        every: of how many frames one is kept.
    """

    def __init__(self, path: str, test_subjects: Sequence[str] = ("S9", "S11"), every: int = 1) -> None:
        self.path, self.test_subjects, self.every = Path(path), tuple(test_subjects), every

    def read(self) -> list[Motion]:
        """Every action of every subject."""
        held = read_object(self.path, "positions_3d")
        motions = []
        for subject, actions in _items(held, self.path, "positions_3d"):
            for action, positions in _items(actions, self.path, subject):
                where = f"{self.path}: {subject}, {action}"
                array = _joints(positions, 32, where)[:: self.every, list(HUMAN36M_INDEX)]
                upright = np.stack([array[..., 0], array[..., 2], -array[..., 1]], axis=-1)
                split = "test" if subject in self.test_subjects else ""
                motions.append(Motion(f"{subject}/{action}", subject, upright, 50.0 / self.every, split))
        return motions


class MPIInf3DHPSource(MotionSource):
    """``data_train_3dhp.npz`` or ``data_test_3dhp.npz``: ``data``, a dict of sequences in camera coordinates.

    Training: ``"S1 Seq1"`` -> [camera -> {``data_3d`` [T, 17, 3] in millimetres}]; test: ``"TS1"`` -> {``data_3d``,
    ``valid`` [T]}, of which invalid frames are left out. y points down in both, as cameras have it; of the cameras of a
    sequence, which film one motion, the first is taken.

    Args:
        path: the file.
        every: of how many frames one is kept.
    """

    def __init__(self, path: str, every: int = 1) -> None:
        self.path, self.every = Path(path), every

    def read(self) -> list[Motion]:
        """Every sequence; those of test subjects are the test split."""
        motions = []
        for name, entry in _items(read_object(self.path, "data"), self.path, "data"):
            where = f"{self.path}: {name}"
            testing = isinstance(entry, dict)
            if not testing:
                cameras = entry[0] if isinstance(entry, list | tuple | np.ndarray) and len(entry) else {}
                entry = next((view for _, view in _items(cameras, self.path, name)), {})
            if not isinstance(entry, dict) or "data_3d" not in entry:
                raise DataError(f"{where} lacks data_3d: this is another layout than P-STMO's")
            array = _joints(entry["data_3d"], 17, where)
            if "valid" in entry:
                array = array[np.asarray(entry["valid"]).astype(bool).reshape(-1)[: len(array)]]
            upright = array[:: self.every, list(MPI_INF_3DHP_INDEX)] * np.array([1, -1, -1], np.float32)
            if len(upright):
                subject = name.partition(" ")[0]
                split = "test" if testing else ""
                motions.append(Motion(name, subject, upright / np.float32(1000), 25.0 / self.every, split))
        return motions


def _items(value: Any, path: Path, where: str) -> list[tuple[str, Any]]:
    if not isinstance(value, dict) or not value:
        raise DataError(f"{path}: {where} holds {type(value).__name__}, not a dict of entries: this is another layout")
    return [(str(name), entry) for name, entry in sorted(value.items(), key=lambda item: str(item[0]))]


def _joints(value: Any, count: int, where: str) -> NDArray[np.float32]:
    array = np.asarray(value)
    if array.dtype == object or array.ndim != 3 or array.shape[1:] != (count, 3):
        raise DataError(f"{where}: positions have shape {array.shape}: give [frames, {count}, 3]")
    return array.astype(np.float32)
