"""The plan of shards: every image once, classes in proportion, nothing but params and manifest."""

import numpy as np
import pytest

from stages.lib.ingestion.plan import interleaved, plan


def example(counts: list[int]) -> tuple[list[str], list[str], list[int]]:
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    splits = ["val" if place % 5 == 0 else "train" for place in range(len(labels))]
    return [f"k{place}" for place in range(len(labels))], splits, labels


def test_plan__every_image_once_in_its_split() -> None:
    keys, splits, labels = example([50, 30, 7])
    shards = plan("s", keys, splits, labels, 16, 0)
    assert sorted(np.concatenate([one.images for one in shards]).tolist()) == list(range(87))
    assert all(splits[image] == one.split for one in shards for image in one.images)
    assert [len(one.images) for one in shards] == [16, 16, 16, 16, 5, 16, 2]
    assert [one.name for one in shards][-2:] == ["s-val-000000.tar", "s-val-000001.tar"]


def test_interleaved__by_hand() -> None:
    """Two images of class 0 at 1/4 and 3/4, one of class 1 at 1/2."""
    assert interleaved(np.array([0, 0, 1]), np.array([5, 3, 4], np.uint64)).tolist() == [1, 2, 0]


@pytest.mark.parametrize("counts", [[100, 100, 100, 100], [300, 60, 20], [977, 13]])
def test_plan__each_shard_holds_classes_in_proportion(counts: list[int]) -> None:
    keys, _, labels = example(counts)
    shards = plan("s", keys, ["train"] * len(keys), labels, 64, 3)
    for one in shards:
        found = np.bincount(np.array(labels)[one.images], minlength=len(counts))
        fair = np.array(counts) / sum(counts) * len(one.images)
        assert np.abs(found - fair).max() <= len(counts) / 2 + 1
    unsorted = np.bincount(np.array(labels)[:64], minlength=len(counts))  # negative control: manifest order is not fair
    assert np.abs(unsorted - np.array(counts) / sum(counts) * 64).max() > len(counts) / 2 + 1 or counts[0] == 977


def test_plan__seed_moves_images_and_nothing_else_does() -> None:
    keys, splits, labels = example([40, 40])

    def order(seed: int) -> list[int]:
        return [int(image) for one in plan("s", keys, splits, labels, 8, seed) for image in one.images]

    assert order(0) == order(0)
    assert order(0) != order(1)
