"""Fills a shard with files as they are, natively (shard.c): the same bytes as sample.py gives, and most of the time saved."""

import ctypes
import functools
import os
from array import array
from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np

from stages.lib.core import native
from stages.lib.data.endings import ENDINGS
from stages.lib.ingestion import sample
from stages.lib.ingestion.manifest import Row
from stages.lib.ingestion.raw import Place

BUFFER = 1 << 20  # bytes handed to the kernel at once
CHUNK = 128  # images whose texts are made ahead: they are still in the processor's cache when they are copied
START = (
    0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19,
)  # fmt: skip
"""sha256 of nothing yet."""


class Changed(Exception):
    """An image is not the one that was recorded, or cannot be read."""

    def __init__(self, row: Row) -> None:
        super().__init__(row.member)
        self.row = row


@functools.cache
def library() -> ctypes.CDLL | None:
    """shard.c, where this machine can run it."""
    found = native.library("stages/lib/ingestion/shard.c")
    if found is None or not found.shard_able():
        return None
    found.shard_write.restype = found.shard_end.restype = ctypes.c_int64
    return found


def possible(place: Place, rows: Sequence[Row]) -> bool:
    """Whether all of a shard's images are local and stored as they came."""
    return not place.remote and all(row.format in ENDINGS for row in rows) and library() is not None


class Copier:
    """Writes one shard to an open file."""

    def __init__(self, place: Place, rows: Sequence[Row], out: int) -> None:
        """Rows' images have places of their own, see raw.RawReader."""
        self.place, self.rows, self.out = place, rows, out
        self.state = (ctypes.c_uint32 * 8)(*START)
        self.descriptors: dict[str, int] = {}
        self.folder = -1
        self.buffer = np.empty(0, np.uint8)

    def copy(self) -> tuple[str, int, list[int]]:
        """(sha256, bytes of the tar, where each image begins). Raises Changed, OSError where writing fails."""
        offsets: list[int] = []
        written = 0
        with ExitStack() as stack:
            self._open(stack)
            for first in range(0, len(self.rows), CHUNK):
                written = self._write(self.rows[first : first + CHUNK], written, offsets)
        zeros, digest = sample.end(written), ctypes.create_string_buffer(64)
        whole = written + zeros
        wrong = _library().shard_end(self.state, self.out, ctypes.c_int64(zeros), ctypes.c_int64(whole), digest)
        if wrong:
            raise OSError(-wrong, os.strerror(-wrong))
        return digest.raw.decode(), whole, offsets

    def _open(self, stack: ExitStack) -> None:
        """The files that images lie in, and the folder that files of their own lie in."""
        root = self.place.path
        if root.is_dir():
            self.folder = os.open(root, os.O_RDONLY)
            stack.callback(os.close, self.folder)
        for container in {row.container for row in self.rows if row.offset >= 0}:
            path = root if self.folder < 0 else root / container
            if path.is_file():
                self.descriptors[container] = os.open(path, os.O_RDONLY)
                stack.callback(os.close, self.descriptors[container])

    def _write(self, rows: Sequence[Row], written: int, offsets: list[int]) -> int:
        """Bytes of the tar with these rows; appends where their images begin."""
        texts: list[bytes] = []
        table: list[int] = []
        paths = bytearray()
        begun, largest = written, 0
        for row in rows:
            (front, back), size = sample.around(row, row.bytes), row.bytes
            before, behind = len(front), len(back)
            texts += (front, back)
            if row.offset < 0:
                table += (before, behind, len(paths), -1, 0, size)
                paths += row.member.encode("utf-8", "surrogateescape") + b"\0"
            else:
                table += (before, behind, -1, self.descriptors.get(row.container, -1), row.offset, size)
            offsets.append(written + before)
            whole = before + size + -size % sample.BLOCK + behind
            written += whole
            if whole > largest:
                largest = whole
        self._call(rows, texts, table, paths, max(min(BUFFER, written - begun), largest) + 1)
        return written

    def _call(
        self, rows: Sequence[Row], texts: Sequence[bytes], table: Sequence[int], paths: bytearray, room: int
    ) -> None:
        """shard_write. Raises Changed, OSError."""
        if len(self.buffer) < room:
            self.buffer = np.empty(room, np.uint8)
        digests = "".join([row.sha256 for row in rows]).encode()
        assert len(digests) == 64 * len(rows)
        numbers = array("q", table)
        done = _library().shard_write(
            self.state, self.out, ctypes.c_void_p(self.buffer.ctypes.data), ctypes.c_int64(len(self.buffer)), self.folder,
            ctypes.c_int64(len(rows)), b"".join(texts), ctypes.c_void_p(numbers.buffer_info()[0]), bytes(paths),
            digests,
        )  # fmt: skip
        if done < 0:
            raise OSError(-done, os.strerror(-done))
        if done < len(rows):
            raise Changed(rows[done])


def _library() -> ctypes.CDLL:
    found = library()
    assert found is not None
    return found
