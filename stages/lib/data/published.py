"""Shards that are not on this machine, streamed from where they were published: whole ones, in the order of reading.

An epoch is made of rows of the index and never of what a bucket happens to hold, so a shard that is missing at both places is
an error, not a shorter epoch; and each shard is compared with its sha256 in the index, so the pixels are those of local files.
"""

import functools
import logging
import os
import threading
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stages.lib.core.objects import join
from stages.lib.core.outcome import Refusal
from stages.lib.data import shard_cache
from stages.lib.data.index import Index
from stages.lib.data.shard_cache import ShardCache, Wanted
from stages.lib.params.published import PublishedUri
from stages.lib.params.system import System

log = logging.getLogger(__name__)
FETCHERS = 4  # shards on their way at once


@dataclass(frozen=True)
class Published:
    """Where the shards of a set lie: in a folder, and what it lacks at `uri`."""

    folder: Path
    uri: str
    """Of the set's shards themselves: <shard.published_uri>/shards/<set>."""
    cache: ShardCache

    def stream(self, index: Index) -> "Streamed":
        """For reading the images of `index`."""
        return Streamed(index, self)


def shards_of(set_name: str, uri: PublishedUri, system: System) -> Path | Published:
    """Where a stage's ShardReader looks: the set's folder alone, unless it was published."""
    folder = Path(f"data/shards/{set_name}")
    if uri.root is None:
        return folder
    return Published(folder, join(uri.root, f"shards/{set_name}"), shard_cache.here(system.shard_cache_gb))


class Streamed:
    """The shards of an index that its folder lacks. `open` may be called from any thread, `expect` from one."""

    def __init__(self, index: Index, place: Published) -> None:
        self.index, self.place = index, place
        facts = zip(index.shards, index.shard_sha256, index.shard_bytes, strict=True)
        self.wanted = {
            name: Wanted(join(place.uri, name), sha256, size)
            for name, sha256, size in facts
            if not (place.folder / name).is_file()
        }
        self._ahead = _Ahead(place.cache)
        self._order: np.ndarray | None = None
        self._uses: list[tuple[int, int, Wanted]] = []
        self._next = 0

    def open(self, name: str) -> int:
        """A descriptor of the shard, fetched first where it has to be. Raises Refusal, also where it is at neither place."""
        try:
            descriptor = self.place.cache.open(self.wanted[name])
            assert descriptor is not None
            return descriptor
        except Refusal as refusal:
            raise Refusal(
                f"The shard {self.place.folder / name} is not here, and shard.published_uri does not help: {refusal}"
            ) from None

    def expect(self, order: np.ndarray, position: int) -> None:
        """The images order[position:] are about to be read: fetch their shards, as far ahead as the cache has room.

        order: rows of the index; the same array until another epoch begins. Raises Refusal where the cache cannot hold
        the shards that the order uses at the same time.
        """
        if order is not self._order:
            self._order, self._next = order, 0
            self._uses = self._used(order)
            self._must_fit()
        if position >= self._next:
            soon = self._soon(position)
            self._next = min((last for _, last, _ in soon), default=len(order)) + 1
            self._ahead.bring([wanted for _, _, wanted in soon])

    def _used(self, order: np.ndarray) -> list[tuple[int, int, Wanted]]:
        """(first position, last position, shard) of the shards that come from elsewhere, by first position."""
        places, shards = np.arange(len(order)), self.index.shard_of[order]
        first, last = np.full(len(self.index.shards), len(order)), np.full(len(self.index.shards), -1)
        np.minimum.at(first, shards, places)
        np.maximum.at(last, shards, places)
        names = enumerate(self.index.shards)
        uses = [(int(first[n]), int(last[n]), self.wanted[name]) for n, name in names if name in self.wanted]
        return sorted(use for use in uses if use[1] >= 0)

    def _soon(self, position: int) -> list[tuple[int, int, Wanted]]:
        """What is in use at a position and what follows, as much as the cache holds."""
        found, total = [], 0
        for use in self._uses:
            if use[1] < position:
                continue
            total += use[2].bytes
            if total > self.place.cache.limit:
                break
            found.append(use)
        return found

    def _must_fit(self) -> None:
        limit, uses = self.place.cache.limit, self._uses
        if not uses:
            return
        first, last, size = (np.array(column) for column in zip(*((a, b, w.bytes) for a, b, w in uses), strict=True))
        together = [(first <= start) & (last >= start) for start in first]
        most = max(together, key=lambda alive: int(size[alive].sum()))
        if (need := int(size[most].sum())) > limit:
            window = limit // int(size.max())
            raise Refusal(
                f"This order reads {int(most.sum())} shards of {self.index.set_name} ({self.index.split}) at the same time, "
                f"{need / 1e9:.3g} GB, and system.shard_cache_gb is {limit / 1e9:.3g}. Raise it to {need / 1e9:.3g} or more, set "
                f"order: block with a window of at most {window}, or bring the shards here: `dvc pull {self.place.folder}`."
            )


class _Ahead:
    """Brings shards into the cache in the background; its threads end with their work, and never keep a process alive."""

    def __init__(self, cache: ShardCache) -> None:
        self.cache = cache
        self._queue: deque[Wanted] = deque()
        self._soon: frozenset[Wanted] = frozenset()
        self._lock = threading.Lock()
        self._threads = 0

    def bring(self, shards: list[Wanted]) -> None:
        """These, in this order, instead of what is still queued."""
        absent = [wanted for wanted in shards if not self.cache.keep(wanted)]
        with self._lock:
            self._queue, self._soon = deque(absent), frozenset(shards)
            while self._threads < min(FETCHERS, len(absent)):
                self._threads += 1
                threading.Thread(target=self._work, daemon=True, name="shards-ahead").start()

    def _work(self) -> None:
        while wanted := self._taken():
            try:
                # A thread that slept since it took the shard must not bring what is read by now, in place of what is not.
                descriptor = self.cache.open(wanted, functools.partial(self._is_soon, wanted))
                if descriptor is not None:
                    os.close(descriptor)
            except Exception as error:  # who needs the shard tries again, and says what is wrong
                log.info("%s could not be fetched ahead: %s", wanted.uri, error)
                with self._lock:
                    self._queue.clear()

    def _is_soon(self, wanted: Wanted) -> bool:
        return wanted in self._soon

    def _taken(self) -> Wanted | None:
        with self._lock:
            if self._queue:
                return self._queue.popleft()
            self._threads -= 1
            return None
