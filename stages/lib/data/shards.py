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
        self._open: OrderedDict[str, _Tar] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, i: int) -> bytes:
        """The image file at row `i` of the index. Raises Refusal where its shard is missing or too short."""
        name = self.index.shards[self.index.shard_of[i]]
        offset, size = int(self.index.offset[i]), int(self.index.size[i])
        tar = self._tar(name)  # held while it is read: another thread's read may drop it from those kept open
        data = os.pread(tar.descriptor, size, offset)
        if len(data) < size:
            raise Refusal(
                f"{self.folder / name} is cut off: {self.index.keys[i]} should have {size:,} bytes at offset {offset:,}, "
                f"and {len(data):,} are there. {self._remedy()}"
            )
        return data

    def announce(self, rows: np.ndarray) -> None:
        """These rows are read soon: the system begins to bring what is not in memory, so that a slow disk works ahead."""
        for i in rows.tolist():
            name = self.index.shards[self.index.shard_of[i]]
            if self.streamed and name in self.streamed.wanted:
                continue  # whole shards are fetched ahead
            tar = self._tar(name)
            os.posix_fadvise(tar.descriptor, int(self.index.offset[i]), int(self.index.size[i]), os.POSIX_FADV_WILLNEED)

    def expect(self, order: np.ndarray, position: int) -> None:
        """The images at order[position:] (rows of the index) are about to be read; shards from elsewhere are fetched ahead.

        Called by one thread. Raises Refusal where the order cannot be streamed.
        """
        if self.streamed:
            self.streamed.expect(order, position)

    def _tar(self, name: str) -> "_Tar":
        """The open tar, among the last used; one that drops out is closed when the last thread has read from it."""
        if self.streamed and name in self.streamed.wanted:
            return _Tar(
                self.streamed.open(name)
            )  # not kept open: a shard dropped from the cache would go on taking room
        with self._lock:
            tar = self._open.pop(name, None) or self._opened(name)
            self._open[name] = tar
            if len(self._open) > MOST_OPEN:
                self._open.popitem(last=False)
            return tar

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
