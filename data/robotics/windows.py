"""Chunked windows: what was seen up to a step, and what was done from there on. Every step of every episode is a start.

Shape legend: B windows, T_obs observations of the history, H actions, F future frames, N steps of all chosen episodes.

At the start of an episode the first observation stands in for those before it, at the end the last action and the last
frame for those after it; masks say where. Nothing is cut away: the first and the last actions are as much a part of a
task as the rest.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from polydit.platform.errors import ConfigurationError

from .batch import TrajectoryBatch
from .demonstrations import DemonstrationSet, check_finite


class WindowDataset(Dataset[TrajectoryBatch]):
    """Maps a list of positions to one `TrajectoryBatch`; position i is the i-th step, through all chosen episodes.

    Args:
        sets: opened demonstrations, with equal fields and action sizes.
        episodes: for each set, the places of the episodes to take.
        fields: observation fields of the batches.
        history: T_obs, observations up to and with the current one.
        horizon: H, actions from the current one on.
        history_stride: steps between observations of the history; 1: consecutive ones.
        future_frames: F; 0: none.
        future_stride: steps between the current observation and the first future frame, and between future frames.
        future_fields: fields of the future frames; None: the cameras among `fields`.

    Raises:
        ConfigurationError: if a count is too small, or future frames of no field are asked for.
        DataError: if an action is not finite, naming the episode and the step.
    """

    def __init__(
        self, sets: Sequence[DemonstrationSet], episodes: Sequence[NDArray[np.int64]], fields: Sequence[str],
        history: int = 1, horizon: int = 16, history_stride: int = 1, future_frames: int = 0, future_stride: int = 1,
        future_fields: Sequence[str] | None = None,
    ) -> None:
        strides = {"history_stride": history_stride, "future_stride": future_stride}
        for name, value in {"history": history, "horizon": horizon, **strides}.items():
            if value < 1:
                raise ConfigurationError(f"{name} must be at least 1, not {value}")
        if future_frames < 0:
            raise ConfigurationError(f"future_frames must be 0 or more, not {future_frames}")
        self.sets = list(sets)
        self.fields = tuple(fields)
        self.future_fields = self._choose_future_fields(future_fields) if future_frames else ()
        self.history_offsets = history_stride * np.arange(1 - history, 1)
        self.action_offsets = np.arange(horizon)
        self.future_offsets = future_stride * np.arange(1, future_frames + 1)
        self._index_episodes(episodes)

    def _choose_future_fields(self, wanted: Sequence[str] | None) -> tuple[str, ...]:
        specs = self.sets[0].fields
        chosen = tuple(wanted) if wanted is not None else tuple(n for n in self.fields if specs[n].is_camera)
        if not chosen:
            raise ConfigurationError(
                f"future_frames needs a camera and the fields are {', '.join(self.fields)}: add one, or name "
                "future_fields"
            )
        return chosen

    def _index_episodes(self, episodes: Sequence[NDArray[np.int64]]) -> None:
        """Lay the chosen episodes out one after another: owner, place and length of each, and all their actions."""
        self.owners = np.repeat(np.arange(len(episodes)), [len(chosen) for chosen in episodes])
        self.places: NDArray[np.int64] = np.concatenate([np.asarray(chosen, dtype=np.int64) for chosen in episodes])
        pairs = [(self.sets[owner], place) for owner, place in zip(self.owners, self.places.tolist(), strict=True)]
        self.lengths: NDArray[np.int64] = np.array([opened.lengths[place] for opened, place in pairs], dtype=np.int64)
        self.ends = np.cumsum(self.lengths)
        self.starts = self.ends - self.lengths
        self.instructions = [opened.instruction(place) for opened, place in pairs]
        self.tasks = [opened.task(place) for opened, place in pairs]
        frequencies = [opened.frequency(place) for opened, place in pairs]
        self.frequencies = torch.tensor([float("nan") if value is None else value for value in frequencies])
        self.has_actions = torch.tensor([opened.has_actions for opened, _ in pairs])
        # Actions are small beside frames; held together, a batch of chunks is one look-up.
        self.actions = torch.empty(int(self.lengths.sum()), self.sets[0].action_size)
        for (opened, place), start, end in zip(pairs, self.starts.tolist(), self.ends.tolist(), strict=True):
            actions = opened.read_actions(place)
            check_finite(actions, opened.episode_name(place), "actions")
            self.actions[start:end] = torch.from_numpy(actions)

    def __len__(self) -> int:
        return len(self.actions)

    def __getitem__(self, positions: int | Sequence[int]) -> TrajectoryBatch:
        chosen: NDArray[np.int64] = np.atleast_1d(np.asarray(positions, dtype=np.int64))
        rows = np.searchsorted(self.ends, chosen, side="right")
        steps = chosen - self.starts[rows]
        last = self.lengths[rows, None] - 1
        history = steps[:, None] + self.history_offsets
        actions = steps[:, None] + self.action_offsets
        future = steps[:, None] + self.future_offsets
        # Frames of the history and of the future are read together, so that a file is opened once for both.
        wanted = np.concatenate([history, future], axis=1).clip(0, last)
        seen = self._read(rows, wanted, self.fields, self.future_fields)
        split = len(self.history_offsets)
        return TrajectoryBatch(
            observations={name: seen[name][:, :split] for name in self.fields},
            observation_mask=torch.from_numpy(history >= 0),
            actions=self.actions[torch.from_numpy(self.starts[rows, None] + actions.clip(0, last))],
            action_mask=torch.from_numpy(actions <= last) & self.has_actions[rows, None],
            instructions=[self.instructions[row] for row in rows.tolist()],
            tasks=[self.tasks[row] for row in rows.tolist()],
            future={name: seen[name][:, split:] for name in self.future_fields},
            future_mask=torch.from_numpy(future <= last),
            frequency=self.frequencies[rows],
            index=torch.from_numpy(chosen),
        )

    def _read(
        self, rows: NDArray[np.int64], steps: NDArray[np.int64], fields: Sequence[str], future_fields: Sequence[str]
    ) -> dict[str, Tensor]:
        """Field -> [B, T_obs + F, ...]; of a field without future only the history is read."""
        split = len(self.history_offsets)
        groups = [
            ([name for name in fields if name in future_fields], slice(None)),
            ([name for name in fields if name not in future_fields], slice(0, split)),
            ([name for name in future_fields if name not in fields], slice(None)),
        ]
        read: dict[str, Tensor] = {}
        for names, part in groups:
            if names:
                read |= self._read_group(rows, steps[:, part], names)
        return read

    def _read_group(self, rows: NDArray[np.int64], steps: NDArray[np.int64], names: list[str]) -> dict[str, Tensor]:
        owners = self.owners[rows]
        present = np.unique(owners).tolist()
        if len(present) == 1:
            values = self.sets[present[0]].read_windows(self.places[rows], steps, names)
            return {name: torch.from_numpy(value) for name, value in values.items()}
        joined: dict[str, Tensor] = {}
        for owner in present:
            mine = owners == owner
            for name, value in self.sets[owner].read_windows(self.places[rows[mine]], steps[mine], names).items():
                if name not in joined:
                    joined[name] = torch.empty(len(rows), *value.shape[1:], dtype=torch.from_numpy(value).dtype)
                joined[name][torch.from_numpy(mine)] = torch.from_numpy(value)
        return joined
