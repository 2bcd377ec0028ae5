"""How a global batch is divided."""

import pytest
import torch

from stages.lib.core import load
from stages.lib.core.outcome import Refusal
from stages.lib.core.ranks import Rank
from stages.lib.params.everything import Everything
from stages.lib.training.launcher import wanted
from stages.lib.training.partition import Partition, partition
from tests.training.test_device import system


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


@pytest.mark.parametrize(
    ("gpus", "ranks", "groups", "count"),
    [
        (8, 0, 16, 8),
        (8, 0, 4, 4),
        (8, 0, 1, 1),
        (8, 0, 6, 6),
        (7, 0, 16, 4),
        (8, 2, 4, 2),
        (0, 0, 16, 1),
        (0, 3, 16, 3),
        (8, 0, 0, 8),
    ],
)
def test_wanted__as_many_gpus_as_the_groups_of_a_batch_divide_over(
    monkeypatch: pytest.MonkeyPatch, gpus: int, ranks: int, groups: int, count: int
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    chosen = system("auto", 1).model_copy(update={"ranks": ranks})
    assert wanted(chosen, groups) == count
    if gpus:
        with pytest.raises(Refusal, match=f"system.ranks 9 needs a GPU for each, and {gpus} are visible"):
            wanted(chosen.model_copy(update={"ranks": 9}), groups)


@pytest.mark.parametrize(("block", "groups"), [("teacher", 1), ("pretrain", 128), ("train", 2), ("finetune", 64)])
def test_groups__of_the_default_blocks(block: str, groups: int) -> None:
    """64 images with statistics over 64; single images; mixing groups of 32; nothing that binds."""
    assert getattr(load.whole(Everything), block).groups == groups


@pytest.mark.parametrize("count", [0, 1, 2, 5, 8])
@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_share__every_number_once_in_order_and_the_first_is_never_left_out(count: int, world: int) -> None:
    parts = [Rank(index, world).share(count) for index in range(world)]
    assert [n for part in parts for n in part] == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert not count or 0 in parts[0]
