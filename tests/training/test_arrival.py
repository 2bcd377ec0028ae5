"""Batches on their way to the device."""

from collections.abc import Iterator

import torch

from stages.lib.data.batch import Batch
from stages.lib.training.arrival import arriving


def test_arriving__on_a_cpu_each_comes_when_asked_for_and_in_order() -> None:
    made = []

    def batches() -> Iterator[Batch]:
        for number in range(3):
            made.append(number)
            yield Batch(torch.full((1, 3, 2, 2), number), torch.zeros(1), torch.tensor([number]))

    coming = arriving(batches(), torch.device("cpu"))
    assert made == []
    assert int(next(coming).positions) == 0 and made == [0]
    assert [int(batch.positions) for batch in coming] == [1, 2]
