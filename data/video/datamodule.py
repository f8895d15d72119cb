"""The data module of clips: sources to batches, and requests."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from polydit.data.splitting import SplitDataModule
from polydit.platform.errors import ConfigurationError
from polydit.platform.requests import Request, expand_requests

from .clips import Clip, ClipBatch, ClipFacts, ClipFormat, ClipSet, ClipSource, to_tensor
from .splitting import check_splits, divide_clips
from .wishes import ClipWish, expand_folders


class VideoDataModule(SplitDataModule):
    """Clips of one format from any number of sources.

    Args:
        sources: where clips come from.
        frames: F, in a clip.
        size: height and width of a frame in pixels.
        frame_rate: frames per second; recordings of another rate are brought to it.
        sample_rate: of the sound, samples per second; 0: frames alone are used.
        batch_size: clips in a batch.
        splits: three fractions of the groups for train, val and test, divided by seed.
        limit: at most this many clips of each source in each split, drawn by seed, for quick runs.
        requests: clips that `predict` makes: ``task``, and but for ``unconditional`` a ``clip`` (a file) or ``folder``
            (every video in it), ``start`` (a second of it), ``given`` (numbers of frames), ``region`` (of task
            complete); ``count``, how many times with another seed.
        request_batch_size: requests handed over at a time.
        request_seed: seed of the first request; the others count up.
        cache_dir: folder of what sources make or decode once.
        seed: of splits and shuffling.
        num_workers: processes that read; 0: the training process.

    Raises:
        ConfigurationError: if arguments contradict each other.
        UserError: if a request is malformed or names a missing file.
    """

    def __init__(
        self,
        sources: list[ClipSource],
        frames: int = 16,
        size: int = 32,
        frame_rate: float = 12.5,
        sample_rate: int = 0,
        batch_size: int = 16,
        splits: list[float] = [0.8, 0.1, 0.1],  # noqa: B006  # jsonargparse shows it; never changed
        limit: int | None = None,
        requests: list[dict[str, Any]] | None = None,
        request_batch_size: int = 64,
        request_seed: int = 0,
        cache_dir: str = "cache",
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        if not sources and not requests:
            raise ConfigurationError("sources is empty: name one, such as polydit.data.video.builtin.BouncingBodies")
        if frames < 1 or size < 4 or not frame_rate > 0 or sample_rate < 0 or batch_size < 1:
            raise ConfigurationError(
                f"frames {frames}, size {size}, frame_rate {frame_rate}, sample_rate {sample_rate}, batch_size "
                f"{batch_size} must be at least 1, 4, above 0, 0 and 1"
            )
        check_splits(splits)
        self.sources, self.batch_size, self.splits, self.limit = sources, batch_size, splits, limit
        self.format = ClipFormat(frames, size, frame_rate, sample_rate, cache_dir)
        self._request_entries, self._request_seed = requests or [], request_seed
        self.request_batch_size, self.seed, self.num_workers = request_batch_size, seed, num_workers

    nothing_asked = "nothing to make: add data.requests, such as [{task: unconditional, count: 16}]"

    @cached_property
    def requests(self) -> list[Request]:
        """The requests, one for each clip, checked."""
        requests = expand_requests(expand_folders(self._request_entries), self._request_seed)
        for request in requests:
            ClipWish.parse(request.wishes)
        return requests

    def describe_empty(self) -> str:
        """How much there is, and what to do where a split got nothing of it."""
        groups = {clips.group(i) for clips in self.opened for i in range(len(clips))}
        return (
            f"{len(groups)} groups in all, splits={list(self.splits)}; groups are never divided, so give more of "
            "them, or a larger fraction"
        )

    @cached_property
    def opened(self) -> list[ClipSet]:
        """The opened clips of each source; what was left out is said once."""
        opened = [source.open(self.format) for source in self.sources]
        for clips in opened:
            if notes := clips.describe():
                more = f"; and {len(notes) - 5} more" if len(notes) > 5 else ""
                warnings.warn(f"{len(notes)} remarks on clips: {'; '.join(notes[:5])}{more}", stacklevel=2)
        return opened

    def divide(self, items: Any) -> dict[str, NDArray[np.int64]]:
        """Split -> places of one source's clips."""
        return divide_clips(items, self.splits, self.seed)

    def open_split(self, split: str) -> Dataset[Any]:
        """The clips of a split."""
        return self.clips(split)

    def clips(self, split: str) -> ClipDataset:
        """The clips of a split."""
        return ClipDataset(self.opened, self.chosen[split], self.format)


class ClipDataset(Dataset[ClipBatch]):
    """Clips of a split; indexed by lists of places.

    Args:
        sets: clips of each source.
        chosen: places in each of them.
        format: what they are alike in.
    """

    def __init__(self, sets: Sequence[ClipSet], chosen: Sequence[NDArray[np.int64]], format: ClipFormat) -> None:
        self.sets, self.format = list(sets), format
        self.places = [
            (number, int(index)) for number, indices in enumerate(chosen) for index in indices
        ]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, places: Sequence[int]) -> ClipBatch:
        """The batch of these clips."""
        clips = [self.read(place) for place in places]
        sound = None
        if self.format.sample_rate:
            sound = torch.stack([torch.from_numpy(np.asarray(clip.sound)) for clip in clips])
        facts = [ClipFacts(clip.name, clip.group, clip.onsets, clip.bodies) for clip in clips]
        return ClipBatch(
            torch.stack([to_tensor(clip.frames) for clip in clips]), sound, torch.tensor(list(places)), facts,
            self.format.frame_rate, self.format.sample_rate,
        )

    def read(self, place: int) -> Clip:
        """One clip of the split."""
        number, index = self.places[place]
        return self.sets[number].read(index)
