"""Laws of bucketed batches: a partition of the items, few padded tokens, the same again from seed and epoch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import Dataset

from polydit.data.batching import BucketBatchSampler, ResumableDataLoader

LENGTHS = st.lists(st.integers(1, 30), min_size=1, max_size=200)


@settings(max_examples=60, deadline=None)
@given(LENGTHS, st.integers(1, 40), st.booleans(), st.booleans(), st.integers(0, 3))
def test_batches_partition_the_items(
    lengths: list[int], batch_size: int, bucket: bool, shuffle: bool, epoch: int
) -> None:
    sampler = BucketBatchSampler(lengths, batch_size, bucket=bucket, shuffle=shuffle)
    sampler.set_epoch(epoch)
    batches = list(sampler)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert max(map(len, batches)) <= batch_size
    assert len(sampler) == len(batches)


@settings(max_examples=60, deadline=None)
@given(lengths=LENGTHS, budget=st.integers(30, 300), epoch=st.integers(1, 5))
def test_token_budget_holds_and_the_number_of_batches_is_fixed(lengths: list[int], budget: int, epoch: int) -> None:
    sampler = BucketBatchSampler(lengths, max_tokens=budget)
    first = len(sampler)
    sampler.set_epoch(epoch)
    batches = list(sampler)
    assert len(batches) == first
    assert all(len(batch) * max(lengths[i] for i in batch) <= budget for batch in batches)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))


def test_order_depends_on_seed_and_epoch_alone() -> None:
    lengths = np.random.default_rng(0).integers(1, 30, 500)

    def order(seed: int, epoch: int) -> list[list[int]]:
        sampler = BucketBatchSampler(lengths, 16, seed=seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(1, 2) == order(1, 2)
    assert order(1, 2) != order(1, 3)
    assert order(1, 2) != order(2, 2)


def test_buckets_cut_padding() -> None:
    lengths = np.random.default_rng(0).integers(1, 30, 20_000)
    assert BucketBatchSampler(lengths, 64).padding_fraction() < 0.10
    assert BucketBatchSampler(lengths, 64, bucket=False).padding_fraction() > 0.40


@pytest.mark.parametrize("count", [1, 7, 64, 100])
def test_replicas_share_an_epoch_and_wait_for_none(count: int) -> None:
    parts = [list(BucketBatchSampler(np.arange(1, count + 1), 8, num_replicas=3, rank=rank)) for rank in range(3)]
    assert len({len(part) for part in parts}) == 1
    assert {i for part in parts for batch in part for i in batch} == set(range(count))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 4, "max_tokens": 100}, "not both or neither"),
        ({}, "not both or neither"),
        ({"max_tokens": 5}, "length 9 exceeds max_tokens 5"),
        ({"max_tokens": 50, "bucket": False}, "needs bucket=True"),
        ({"batch_size": 0}, "at least 1, not 0"),
    ],
)
def test_contradictions_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BucketBatchSampler([3, 9], **options)


def test_no_items_are_refused() -> None:
    with pytest.raises(ValueError, match="lengths are empty"):
        BucketBatchSampler([], 4)


class Lengths(Dataset[torch.Tensor]):
    """Batches of positions, as they are."""

    def __getitem__(self, positions: list[int]) -> torch.Tensor:
        return torch.tensor(positions)


def make_loader() -> ResumableDataLoader:
    sampler = BucketBatchSampler(np.random.default_rng(0).integers(1, 30, 200), 8)
    return ResumableDataLoader(Lengths(), sampler=sampler, batch_size=None)


@pytest.mark.parametrize("stop", [1, 10, 24])
def test_a_loader_resumes_with_the_next_batch(stop: int) -> None:
    straight = make_loader()
    straight.sampler.set_epoch(3)
    whole = [batch.tolist() for batch in straight]
    broken = make_loader()
    broken.sampler.set_epoch(3)
    iterator = iter(broken)
    seen = [next(iterator).tolist() for _ in range(stop)]
    state = broken.state_dict()
    resumed = make_loader()
    resumed.load_state_dict(state)
    rest = [batch.tolist() for batch in resumed]
    assert len(whole) > stop
    assert seen + rest == whole
    assert [batch.tolist() for batch in resumed] == whole


@pytest.mark.parametrize("told", [3, 4])
def test_a_resumed_epoch_is_the_interrupted_one_however_it_is_counted(told: int) -> None:
    straight = make_loader()
    straight.sampler.set_epoch(4)
    next_epoch = list(straight.sampler)
    resumed = make_loader()
    resumed.load_state_dict({"epoch": 3, "handed_out": 5, "epoch_offset": 0})
    resumed.sampler.set_epoch(told)
    assert len(list(resumed)) == len(next_epoch) - 5
    resumed.sampler.set_epoch(told + 1)
    assert list(resumed.sampler) == next_epoch


def test_a_finished_epoch_is_not_resumed() -> None:
    loader = make_loader()
    loader.load_state_dict({"epoch": 3, "handed_out": len(loader), "epoch_offset": 0})
    loader.sampler.set_epoch(4)
    assert len(list(loader)) == len(loader)
    assert loader.sampler.epoch == 4
