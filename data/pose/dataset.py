"""Views of clips, made when they are read: the same place gives the same camera and the same heatmaps, in any batch.

Shape legend: B views, N views of the split.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from .batch import PoseBatch
from .cameras import DRAWS, CameraRange
from .heatmaps import NORMAL_DRAWS, UNIFORM_DRAWS, HeatmapRecipe
from .motion import Motion
from .skeleton import ROOT


class ViewDataset(Dataset[PoseBatch]):
    """Maps a list of places to one `PoseBatch`; place i is frame i // views, seen by its camera i modulo views.

    Args:
        motions: clips of the split.
        cameras: from where they are seen.
        heatmaps: how heatmaps are made.
        stride: of how many frames of a clip one is taken.
        views: cameras for each frame.
        limit: at most this many frames, drawn at random and in the order of the draw, so that the first differ.
        seed: of cameras, heatmaps and the draw.
    """

    def __init__(
        self, motions: Sequence[Motion], cameras: CameraRange, heatmaps: HeatmapRecipe, stride: int = 1, views: int = 1,
        limit: int | None = None, seed: int = 0,
    ) -> None:
        self.motions, self.cameras, self.heatmaps, self.views, self.seed = motions, cameras, heatmaps, views, seed
        owners = [np.full(-(-len(motion.positions) // stride), number) for number, motion in enumerate(motions)]
        frames = [np.arange(0, len(motion.positions), stride) for motion in motions]
        self.owners: NDArray[np.int64] = np.concatenate([np.zeros(0, dtype=np.int64), *owners])
        self.frames: NDArray[np.int64] = np.concatenate([np.zeros(0, dtype=np.int64), *frames])
        if limit is not None and limit < len(self.frames):
            kept = np.random.default_rng(seed).permutation(len(self.frames))[:limit]
            self.owners, self.frames = self.owners[kept], self.frames[kept]

    def __len__(self) -> int:
        return len(self.frames) * self.views

    def __getitem__(self, places: int | Sequence[int]) -> PoseBatch:
        chosen: NDArray[np.int64] = np.atleast_1d(np.asarray(places, dtype=np.int64))
        owners, frames = self.owners[chosen // self.views], self.frames[chosen // self.views]
        world = np.stack([
            self.motions[owner].positions[frame] for owner, frame in zip(owners.tolist(), frames.tolist(), strict=True)
        ])
        uniform, normal = self._draw(chosen)
        cameras = self.cameras.place(world, uniform[:, :DRAWS])
        seen = cameras.see(world)
        draws = uniform[:, DRAWS:]
        doubts = self.heatmaps.doubt(draws)
        maps = self.heatmaps.render(cameras.project(seen), doubts, draws, normal)
        return PoseBatch(
            heatmaps=torch.from_numpy(maps),
            poses=torch.from_numpy((seen - seen[:, ROOT : ROOT + 1]).astype(np.float32)),
            exchanged=torch.from_numpy(doubts.exchanged), occluded=torch.from_numpy(doubts.occluded),
            clips=[self.motions[owner].name for owner in owners.tolist()], frames=torch.from_numpy(frames),
            index=torch.from_numpy(chosen),
        )

    def _draw(self, places: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Uniform and normal numbers of each place, from a generator of its own."""
        uniform, normal = np.empty((len(places), DRAWS + UNIFORM_DRAWS)), np.empty((len(places), NORMAL_DRAWS))
        for row, place in enumerate(places.tolist()):
            generator = np.random.default_rng((self.seed, place))
            uniform[row], normal[row] = generator.random(uniform.shape[1]), generator.standard_normal(normal.shape[1])
        return uniform, normal
