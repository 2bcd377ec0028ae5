"""What several training processes do together; with one process each of these is what it would be without the others.

Numbers that decide anything (stop now? save now? is the loss finite?) are the same in every process, since they come out of a
collective: a process that decided alone would leave the others waiting. Everything here but gradients travels through the CPU.
"""

import datetime
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from stages.lib.core import ranks

T = TypeVar("T")


def together() -> bool:
    """Whether there are other processes."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def join(store: dist.Store, device: torch.device, patience: datetime.timedelta) -> None:
    """Meet the other processes at `store`: gradients of a GPU travel by NCCL, all else by gloo.

    patience: how long a collective waits for the others. A process that died is noticed by the launcher, much sooner; this is for
    one that hangs. Longer than anything a process does alone: the first writes checkpoints while the others wait.
    """
    rank = ranks.current()
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank.index, world_size=rank.world, timeout=patience)


def from_first(make: Callable[[], T]) -> T:
    """What `make` returns in the first process, in every process; it is called there alone.

    For what is measured, chosen or read once: a small object of plain values.
    """
    if not together():
        return make()
    box = [make() if ranks.first() else None]
    dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]  # type: ignore[return-value]


def gathered(mine: list[T]) -> list[T]:
    """The lists of all processes one after the other, in every process; they may differ in length."""
    if not together():
        return mine
    boxes: list[list[T]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(boxes, mine)
    return [item for box in boxes for item in box]


def rows_of_all(mine: Tensor) -> Tensor:
    """f[N, ...] -> f[world * N, ...]: the rows of all processes in their order, on the device of `mine`."""
    if not together():
        return mine
    parts = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, mine.contiguous())
    return torch.cat(parts)


def mean_of_all(mine: Tensor) -> Tensor:
    """The mean over the processes of each entry of a tensor, on its device; the same bits in every process."""
    if not together():
        return mine
    total = mine.clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def bytes_from_first(read: Callable[[], bytes | memoryview | None]) -> bytes | memoryview | None:
    """What `read` returns in the first process, in every process: a checkpoint need not lie where all can read it."""
    if not together():
        return read()
    payload = read() if ranks.first() else None
    length = from_first(lambda: -1 if payload is None else len(payload))
    if length < 0:
        return None
    whole = torch.empty(length, dtype=torch.uint8)
    if payload is not None:
        whole.numpy()[:] = np.frombuffer(payload, np.uint8)
    dist.broadcast(whole, src=0)
    return whole.numpy().data


class Accord:
    """After each step: does anybody ask to stop, does the first want to save? All processes get the same answer.

    With several the answer is one step old: it travels while the next step computes, so nobody waits for it.
    """

    def __init__(self) -> None:
        self._group: Any = dist.new_group(backend="gloo") if together() else None
        self._asked: tuple[dist.Work, Tensor] | None = None

    def __call__(self, signum: int | None, due: bool) -> tuple[int | None, bool]:
        """(number of a signal or None, whether a checkpoint is due) of this process -> of all."""
        if self._group is None:
            return signum, due
        answer = self._answer()
        mine = torch.tensor([signum or 0, int(due and ranks.first())])
        work = dist.all_reduce(mine, dist.ReduceOp.MAX, group=self._group, async_op=True)
        assert work is not None
        self._asked = work, mine
        return answer

    def close(self) -> None:
        """Hear the last answer, so that no message is on its way when the processes part."""
        self._answer()
        self._asked = None

    def _answer(self) -> tuple[int | None, bool]:
        if self._asked is None:
            return None, False
        work, numbers = self._asked
        work.wait()
        signum, due = numbers.tolist()
        return signum or None, bool(due)
