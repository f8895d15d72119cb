"""Batches of items of like size, so that little of a padded batch is padding; and loaders that resume in mid-epoch.

No word of any domain here: an item is its length.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler


class BucketBatchSampler(DistributedSampler[list[int]]):
    """Yields batches of indices of like length; give it to a `DataLoader` as ``sampler`` with ``batch_size=None``.

    Every epoch shuffles anew: items of equal length change places, the sorted order is dealt into pools, each pool is
    cut into batches, and the batches are shuffled. The multiset of lengths in a pool, and so the number of batches, is
    the same in every epoch. The order depends on `seed` and the epoch alone.

    A `DistributedSampler` by type, so that Lightning leaves it in place and calls `set_epoch`; each replica takes every
    `num_replicas`-th batch.

    Args:
        lengths: [n] size of each item, such as its number of atoms.
        batch_size: items in a batch; give this or `max_tokens`.
        max_tokens: a batch of b items, the longest of length m, has b * m <= max_tokens.
        shuffle: False keeps one fixed order, longest batches last, for validation.
        bucket: False takes items in random order instead (or stored order without `shuffle`).
        pool_batches: batches cut from one pool; a larger pool means less padding and more alike items in a batch.
        seed: of the shuffling.
        num_replicas, rank: processes of the training run, and which one this is.

    Raises:
        ValueError: if both or neither of `batch_size` and `max_tokens` are given, `max_tokens` without `bucket`, or an
            item alone exceeds `max_tokens`.
    """

    def __init__(
        self,
        lengths: Sequence[int] | NDArray[np.int64],
        batch_size: int | None = None,
        max_tokens: int | None = None,
        shuffle: bool = True,
        bucket: bool = True,
        pool_batches: int = 16,
        seed: int = 0,
        num_replicas: int = 1,
        rank: int = 0,
    ) -> None:
        self.lengths = np.asarray(lengths, dtype=np.int64)
        _check_limits(self.lengths, batch_size, max_tokens, bucket)
        super().__init__(self.lengths, num_replicas, rank, shuffle, seed)  # type: ignore[arg-type]
        self.batch_size = batch_size
        self.max_tokens = max_tokens
        self.bucket = bucket
        self.pool_batches = pool_batches
        self.start = 0
        self.epoch_offset = 0
        self._resumed_epoch: int | None = None
        self._pools = self._count_pools()
        self._planned: tuple[int, list[NDArray[np.int64]]] | None = None

    def __iter__(self) -> Iterator[list[int]]:
        start, self.start = self.start, 0
        for batch in self.plan()[start:]:
            yield batch.tolist()

    def __len__(self) -> int:
        return len(self.plan())

    def set_epoch(self, epoch: int) -> None:
        """Shuffle as `epoch` says.

        A run that stopped in mid-epoch at its last step goes on with that epoch, though a trainer may count it as over;
        from there on its count is moved by the difference.
        """
        if self._resumed_epoch is not None:
            self.epoch_offset = self._resumed_epoch - epoch
            self._resumed_epoch = None
        super().set_epoch(epoch + self.epoch_offset)

    def resume(self, epoch: int, start: int) -> None:
        """Make the next pass begin with batch `start` of `epoch`, whatever epoch `set_epoch` is told first."""
        super().set_epoch(epoch)
        self.start = start
        self._resumed_epoch = epoch

    def plan(self) -> list[NDArray[np.int64]]:
        """Batches of this replica in the current epoch."""
        if self._planned is None or self._planned[0] != self.epoch:
            self._planned = (self.epoch, self._plan_epoch())
        return self._planned[1]

    def padding_fraction(self) -> float:
        """Share of padded tokens in all tokens of this replica's batches in the current epoch."""
        real = sum(int(self.lengths[batch].sum()) for batch in self.plan())
        padded = sum(len(batch) * int(self.lengths[batch].max()) for batch in self.plan())
        return 1.0 - real / padded

    def _plan_epoch(self) -> list[NDArray[np.int64]]:
        generator = np.random.default_rng((self.seed, self.epoch))
        order = generator.permutation(len(self.lengths)) if self.shuffle else np.arange(len(self.lengths))
        if not self.bucket:
            batches = self._cut(order)
        else:
            order = order[np.argsort(self.lengths[order], kind="stable")]
            batches = [batch for pool in range(self._pools) for batch in self._cut(order[pool :: self._pools])]
        if self.shuffle:
            batches = [batches[i] for i in generator.permutation(len(batches))]
        return self._share(batches)

    def _cut(self, order: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        if self.batch_size is not None:
            if self.bucket:  # near-equal parts: a short rest in every pool would waste steps
                return np.array_split(order, -(-len(order) // self.batch_size))
            return [order[i : i + self.batch_size] for i in range(0, len(order), self.batch_size)]
        batches: list[NDArray[np.int64]] = []
        start = longest = 0
        for i, length in enumerate(self.lengths[order].tolist()):
            longest = max(longest, length)
            if (i + 1 - start) * longest > (self.max_tokens or 0):
                batches.append(order[start:i])
                start, longest = i, length
        return [*batches, order[start:]]

    def _share(self, batches: list[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
        """Batches of this replica; where the count does not divide, the first are used twice so that none waits."""
        steps = -(-len(batches) // self.num_replicas)
        return list(islice(cycle(batches), self.rank, steps * self.num_replicas, self.num_replicas))

    def _count_pools(self) -> int:
        if not (self.bucket and self.shuffle):
            return 1
        mean = self.batch_size or (self.max_tokens or 0) / max(1.0, float(self.lengths.mean()))
        return max(1, round(len(self.lengths) / (mean * self.pool_batches)))


class EpochBatchSampler(BucketBatchSampler):
    """Hands out (epoch, place) instead of places, so that what is drawn for an item differs between epochs.

    Attributes:
        draws: whether anything is drawn; False hands out (None, place).
    """

    draws: bool = True

    def __iter__(self) -> Iterator[Any]:
        """Batches of keys."""
        for batch in super().__iter__():
            yield [(self.epoch if self.draws else None, place) for place in batch]


class ResumableDataLoader(DataLoader[Any]):
    """A `DataLoader` over a `BucketBatchSampler` whose state says how many batches of the epoch were handed out.

    Lightning stores the state in its checkpoints, so that a run that stops in mid-epoch goes on with the next batch.
    """

    sampler: BucketBatchSampler

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._handed_out = 0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        self._handed_out = self.sampler.start
        for batch in super().__iter__():
            self._handed_out += 1
            yield batch
        self._handed_out = 0

    def state_dict(self) -> dict[str, int]:
        """Epoch of the sampler, batches of it handed out so far, and what its count is moved by."""
        return {
            "epoch": self.sampler.epoch, "handed_out": self._handed_out, "epoch_offset": self.sampler.epoch_offset,
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Make the next pass begin after the batches that `state` counts."""
        self.sampler.epoch_offset = state["epoch_offset"]
        if 0 < state["handed_out"] < len(self.sampler):
            self.sampler.resume(state["epoch"], state["handed_out"])


def _check_limits(lengths: NDArray[np.int64], batch_size: int | None, max_tokens: int | None, bucket: bool) -> None:
    if (batch_size is None) == (max_tokens is None):
        raise ValueError(f"give one of batch_size ({batch_size}) and max_tokens ({max_tokens}), not both or neither")
    if max_tokens is not None and not bucket:
        raise ValueError(f"max_tokens {max_tokens} needs bucket=True: in random order the number of batches would vary")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    if len(lengths) == 0:
        raise ValueError("no items to batch: the lengths are empty")
    if max_tokens is not None and lengths.max() > max_tokens:
        raise ValueError(
            f"an item of length {lengths.max()} exceeds max_tokens {max_tokens}: raise it or leave longer items out"
        )
