"""How a global batch is divided."""

import pytest

from stages.lib.core.outcome import Refusal
from stages.lib.core.ranks import Rank
from stages.lib.training.partition import Partition, partition, together


@pytest.mark.parametrize(
    ("batch", "processes", "group", "most", "images", "passes"),
    [
        (1024, 1, 1, 0, 1024, 1),
        (1024, 8, 1, 0, 128, 1),
        (1024, 8, 1, 50, 128, 4),  # 32 at a time: the largest divisor of 128 up to 50
        (1024, 4, 64, 100, 256, 4),  # whole groups of 64
        (1024, 4, 64, 128, 256, 2),
        (96, 1, 32, 64, 96, 3),  # 64 would leave 32 over
        (7, 1, 1, 2, 7, 7),
    ],
)
def test_partition__known(batch: int, processes: int, group: int, most: int, images: int, passes: int) -> None:
    found = partition(batch, processes, group, most)
    assert found == Partition(processes, images, passes)
    per_pass = images // passes
    assert per_pass * passes * processes == batch and per_pass % group == 0 and (not most or per_pass <= most)


@pytest.mark.parametrize(
    ("batch", "processes", "group", "most", "words"),
    [
        (96, 2, 32, 0, r"cannot be divided among 2 processes; take 1 or 3 \(system\.ranks\)"),
        (64, 3, 1, 0, r"take 2 or 4"),
        (64, 100, 1, 0, r"take 64 \(system\.ranks\)"),
        (64, 1, 64, 32, r"device_batch 32 is less than a group of 64 .* take 64 or more, or 0"),
        (65, 1, 2, 0, "65 images is not whole groups of 2"),
    ],
)
def test_partition__what_cannot_be_is_refused_with_what_can(
    batch: int, processes: int, group: int, most: int, words: str
) -> None:
    with pytest.raises(Refusal, match=words):
        partition(batch, processes, group, most)


def test_together__whole_groups_of_every_size() -> None:
    assert together(0, 1) == 1 and together(32, 0) == 32 and together(4, 6) == 12 and together() == 1


@pytest.mark.parametrize("count", [0, 1, 2, 5, 8])
@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_share__every_number_once_in_order_and_the_first_is_never_left_out(count: int, world: int) -> None:
    parts = [Rank(index, world).share(count) for index in range(world)]
    assert [n for part in parts for n in part] == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert not count or 0 in parts[0]
