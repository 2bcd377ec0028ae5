"""Orders, mixing groups and the published sampler."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.lib.core.outcome import Refusal
from stages.lib.data import order


def test_permutation__every_image_once_and_new_each_epoch() -> None:
    first, second = order.permutation(1000, 0, 0), order.permutation(1000, 0, 1)
    assert np.array_equal(np.sort(first), np.arange(1000))
    assert first.dtype == np.int64
    assert not np.array_equal(first, second)
    assert np.array_equal(first, order.permutation(1000, 0, 0))
    assert not np.array_equal(first, order.permutation(1000, 1, 0))


@given(st.lists(st.integers(0, 9), min_size=1, max_size=80), st.integers(1, 12), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_block__every_image_once_from_a_window_of_shards_at_a_time(shards: list[int], window: int, epoch: int) -> None:
    shard_of = np.array(shards, np.int32)
    images = order.block(shard_of, window, 7, epoch)
    assert np.array_equal(np.sort(images), np.arange(len(shards)))
    assert images.dtype == np.int64
    met: list[int] = []
    for image in images:
        if shard_of[image] not in met:
            met.append(int(shard_of[image]))
    windows = [set(met[start : start + window]) for start in range(0, len(met), window)]
    places = np.array([next(w for w, one in enumerate(windows) if shard_of[image] in one) for image in images])
    assert np.all(np.diff(places) >= 0) or window == 1


def test_block__windows_follow_each_other_whole() -> None:
    shard_of = np.repeat(np.arange(8), 50)
    images = order.block(shard_of, 2, 0, 0)
    pairs = [set(shard_of[part].tolist()) for part in images.reshape(4, 100)]
    assert [len(pair) for pair in pairs] == [2, 2, 2, 2]
    assert set.union(*pairs) == set(range(8))
    mixed = shard_of[images[:100]]
    assert 20 < np.count_nonzero(np.diff(mixed)) < 80  # shuffled together, not one after the other


def test_block__other_epochs_pair_other_shards() -> None:
    shard_of = np.repeat(np.arange(20), 5)
    first, second = order.block(shard_of, 4, 0, 0), order.block(shard_of, 4, 0, 1)
    assert not np.array_equal(shard_of[first], shard_of[second])
    assert np.array_equal(first, order.block(shard_of, 4, 0, 0))


def test_repeated__views_are_adjacent_and_an_epoch_keeps_its_length() -> None:
    assert order.repeated(np.array([5, 3, 9, 1, 7]), 3).tolist() == [5, 5, 5, 3, 3]
    assert order.repeated(np.array([5, 3, 9]), 1).tolist() == [5, 3, 9]


def test_grouped__known() -> None:
    """12 places, groups of 2, two views: 6 groups in 3 chunks of 2, dealt in turn."""
    assert order.grouped(12, 2, 2).tolist() == [0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11]
    assert order.grouped(8, 4, 1).tolist() == list(range(8))
    assert order.grouped(10, 2, 3).tolist() == [0, 5, 1, 6, 2, 7, 3, 8, 4, 9]


@given(st.integers(1, 20), st.integers(1, 40), st.integers(1, 5), st.integers(0, 1000))
@settings(max_examples=200, deadline=None)
def test_grouped__images_of_a_group_are_distinct(half: int, groups: int, repeats: int, step: int) -> None:
    mix_group, batch = 2 * half, 2 * half * groups
    if groups < repeats:
        with pytest.raises(Refusal, match="mix_group"):
            order.grouped(batch, mix_group, repeats)
        return
    places = order.grouped(batch, mix_group, repeats)
    assert np.array_equal(np.sort(places), np.arange(batch))
    shown = (step * batch + places) // repeats  # what `repeated` shows there, wherever the batch begins
    assert all(len(set(group)) == mix_group for group in shown.reshape(groups, mix_group).tolist())


def test_grouped__without_it_views_meet() -> None:
    shown = np.arange(12) // 3
    assert any(len(set(group)) < 2 for group in shown.reshape(6, 2).tolist())


def test_grouped__a_group_that_does_not_divide_is_refused() -> None:
    with pytest.raises(Refusal, match="at most 10"):
        order.grouped(10, 4, 1)


def test_deit_untruncated__known_by_hand() -> None:
    """5 images twice make 10, filled up to 12 for 4 processes from the front."""
    lists = [order.deit_untruncated(5, 2, 4, rank, 0, shuffle=False).tolist() for rank in range(4)]
    assert lists == [[0, 2, 4], [0, 2, 4], [1, 3, 0], [1, 3, 0]]


def test_deit_replica__one_epoch_sees_a_third_three_times() -> None:
    """16 processes on a small ImageNet: entries as recipes 3.7 counts them."""
    lists = [order.deit_replica(12_811, 3, 16, rank, 4) for rank in range(16)]
    assert {len(one) for one in lists} == {12_800 // 16}
    images, counts = np.unique(np.concatenate(lists), return_counts=True)
    assert len(images) == 12_800 // 3 + 1
    assert sorted(set(counts.tolist())) == [2, 3]  # the last image is cut


def test_deit_replica__depends_on_the_epoch_alone() -> None:
    assert np.array_equal(order.deit_replica(300, 3, 2, 0, 1), order.deit_replica(300, 3, 2, 0, 1))
    assert not np.array_equal(order.deit_replica(300, 3, 2, 0, 1), order.deit_replica(300, 3, 2, 0, 2))


@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_deit__global_batches_are_the_replicas_side_by_side(replicas: int) -> None:
    batch = 24
    images = order.deit(600, 3, replicas, batch, 2)
    steps = 512 // batch
    assert len(images) == steps * batch
    for step, together in enumerate(images.reshape(steps, replicas, batch // replicas)):
        for rank, part in enumerate(together):
            start = step * batch // replicas
            own = order.deit_replica(600, 3, replicas, rank, 2)[start : start + batch // replicas]
            assert np.array_equal(part, own)


def test_deit__refuses_what_no_epoch_holds() -> None:
    with pytest.raises(Refusal, match="none of 255"):
        order.deit(255, 3, 1, 8, 0)
    with pytest.raises(Refusal, match="at most 256"):
        order.deit(300, 3, 2, 258, 0)
    with pytest.raises(Refusal, match="not a multiple of 3 replicas; try 6"):
        order.deit(300, 3, 3, 8, 0)
    assert len(order.deit(300, 3, 2, 256, 0)) == 256


def test_steps_per_epoch__floors_and_refuses_zero() -> None:
    assert order.steps_per_epoch(100, 32) == 3
    assert order.steps_per_epoch(32, 32) == 1
    with pytest.raises(Refusal, match=r"batch_size 33 .* 32 images; take at most 32"):
        order.steps_per_epoch(32, 33)
