"""Memory is used again when nobody can see it any more, and never before."""

import numpy as np
import torch

from stages.lib.data.recycled import KEPT, Recycled


def address(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


def test_take__gives_the_same_memory_when_it_is_free_again() -> None:
    pool = Recycled()
    first = pool.take((4, 5), np.float32)
    where = address(first)
    del first
    again = pool.take((4, 5), np.float32)
    assert address(again) == where and again.shape == (4, 5) and again.dtype == np.float32


def test_take__never_gives_what_a_tensor_or_a_view_of_it_still_shows() -> None:
    pool = Recycled()
    view = torch.from_numpy(pool.take((4, 5), np.uint8)).view(2, 10)[1]  # neither array nor first tensor is held
    view.fill_(7)
    for _ in range(3 * KEPT):
        pool.take((4, 5), np.uint8).fill(9)
    assert view.eq(7).all()
    slice_ = pool.take((4, 5), np.uint8)[2:, 1:]
    slice_.fill(7)
    held = [pool.take((4, 5), np.uint8) for _ in range(3 * KEPT)]
    for array in held:
        array.fill(9)
    assert (slice_ == 7).all() and len({address(array) for array in held}) == len(held)


def test_take__other_shapes_and_types_are_other_memory_and_few_are_kept() -> None:
    pool = Recycled()
    for side in range(50):
        pool.take((side, 3), np.uint8)
        pool.take((side, 3), np.int64)
    assert len(pool._arrays) <= 4
