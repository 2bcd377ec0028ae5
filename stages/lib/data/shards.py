"""Reads images out of shards at any place, from any number of threads at once."""

import os
import threading
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stages.lib.core.outcome import Refusal
from stages.lib.data.index import Index

if TYPE_CHECKING:  # how shards travel changes nothing about what is read: the stage that wants it imports it
    from stages.lib.data.published import Published

MOST_OPEN = 256  # tars; ImageNet has more than the 1,024 files a process may usually open


class ShardReader:
    """The bytes of an index's images: from a folder of shards, or from one whose missing shards are published elsewhere."""

    def __init__(self, index: Index, shards: "Path | Published") -> None:
        self.index = index
        self.folder = shards if isinstance(shards, Path) else shards.folder
        self.streamed = None if isinstance(shards, Path) else shards.stream(index)
        self._open: OrderedDict[int, _Tar] = OrderedDict()
        self._lock = threading.Lock()
        self._few = len(index.shards) <= MOST_OPEN  # all stay open, and finding one takes no lock

    def read(self, i: int) -> bytes:
        """The image file at row `i` of the index. Raises Refusal where its shard is missing or too short."""
        index = self.index
        offset, size = index.offset.item(i), index.size.item(i)
        tar = self._tar(
            index.shard_of.item(i)
        )  # held while it is read: another thread's read may drop it from those kept open
        data = os.pread(tar.descriptor, size, offset)
        if len(data) < size:
            raise Refusal(
                f"{self.folder / index.shards[index.shard_of[i]]} is cut off: {index.keys[i]} should have {size:,} bytes at "
                f"offset {offset:,}, and {len(data):,} are there. {self._remedy()}"
            )
        return data

    def announce(self, rows: np.ndarray) -> None:
        """These rows are read soon: the system begins to bring what is not in memory, so that a slow disk works ahead."""
        index = self.index
        for i in rows.tolist():
            number = index.shard_of.item(i)
            if not self._is_streamed(number):  # of those, whole shards are fetched ahead
                descriptor = self._tar(number).descriptor
                os.posix_fadvise(descriptor, index.offset.item(i), index.size.item(i), os.POSIX_FADV_WILLNEED)

    def expect(self, order: np.ndarray, position: int) -> None:
        """The images at order[position:] (rows of the index) are about to be read; shards from elsewhere are fetched ahead.

        Called by one thread. Raises Refusal where the order cannot be streamed.
        """
        if self.streamed:
            self.streamed.expect(order, position)

    def _tar(self, number: int) -> "_Tar":
        """The open tar, among the last used; one that drops out is closed when the last thread has read from it."""
        if self._few and (tar := self._open.get(number)):
            return tar
        if self.streamed and self._is_streamed(
            number
        ):  # not kept open: a shard dropped from the cache would go on taking room
            return _Tar(self.streamed.open(self.index.shards[number]))
        with self._lock:
            tar = self._open.pop(number, None) or self._opened(self.index.shards[number])
            self._open[number] = tar
            if len(self._open) > MOST_OPEN:
                self._open.popitem(last=False)
            return tar

    def _is_streamed(self, number: int) -> bool:
        return self.streamed is not None and self.index.shards[number] in self.streamed.wanted

    def _opened(self, name: str) -> "_Tar":
        try:
            return _Tar(os.open(self.folder / name, os.O_RDONLY))
        except FileNotFoundError:
            raise Refusal(f"There is no shard {self.folder / name}. {self._remedy()}") from None

    def _remedy(self) -> str:
        return f"`dvc checkout {self.folder}` restores the shards, `dvc pull {self.folder}` fetches them."


class _Tar:
    """A descriptor that is closed with its last reference."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __del__(self) -> None:
        os.close(self.descriptor)
