"""Goes through an archive in its own order and hands out what is in it, archives inside archives too.

Plain tars inside plain tars keep their places: a payload's offset counts from the first byte of the outermost file, so that
it can be read again by itself. What is compressed or converted on the way has no place and comes with its bytes.
"""

import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple, cast

from stages.lib.core.outcome import Refusal
from stages.lib.ingestion.folder_walk import hidden
from stages.lib.ingestion.tar_walk import walk

Reader = Callable[[str, BinaryIO], Iterator[tuple[str, bytes]]]
"""(name, file) -> (path inside, payload) of a container that is no tar."""
GZIPPED = (".tgz", ".tar.gz")
LARGEST = 1 << 30  # bytes of one file that is read out of an archive
KEPT = 1 << 16  # bytes behind the current one that a stream can go back to


class Member(NamedTuple):
    """One file inside."""

    path: str
    """<file>/<path inside>, through every level."""
    offset: int
    """Of its first byte in the outermost file; -1: it has no place there."""
    size: int
    """Bytes."""
    data: bytes | None
    """None: read it at its place."""


def opens(path: str, reader_of: Callable[[str], Reader | None]) -> bool:
    """Whether a file of this name is a container."""
    return path.lower().endswith((".tar", *GZIPPED)) or reader_of(path) is not None


def expand(path: str, file: BinaryIO, reader_of: Callable[[str], Reader | None], in_place: bool) -> Iterator[Member]:
    """Every file inside, in order; hidden ones are passed over. Raises Refusal naming what cannot be read.

    file: stands at 0 and can seek forwards. reader_of: the reader of a container that is no tar, by its name.
    in_place: leave data None where the payload has a place (a local file, which is cheap to read there).
    """
    yield from _inside(path, file, 0, reader_of, in_place)


def _inside(
    path: str, file: BinaryIO, start: int, reader_of: Callable[[str], Reader | None], in_place: bool
) -> Iterator[Member]:
    """As `expand`; start: place of the file's first byte in the outermost file, -1 for none."""
    name = path.lower()
    if name.endswith(GZIPPED):
        with gzip.GzipFile(fileobj=file) as plain:
            yield from _unzipped(path, cast(BinaryIO, Sequential(cast(BinaryIO, plain))), reader_of)
    elif name.endswith(".tar"):
        yield from _tar(path, file, start, reader_of, in_place)
    elif reader := reader_of(path):
        for inner, data in reader(path, file):
            yield Member(f"{path}/{inner}", -1, len(data), data)
    else:
        raise AssertionError(f"{path} is no container")


def _unzipped(path: str, plain: BinaryIO, reader_of: Callable[[str], Reader | None]) -> Iterator[Member]:
    """A gzipped tar; what is wrong with the compression is said in its name."""
    members = _tar(path, plain, -1, reader_of, False)
    while True:
        try:
            yield next(members)
        except StopIteration:
            return
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise Refusal(f"{path} is no whole gzip file ({error}). Get it again.") from None


def _tar(
    path: str, file: BinaryIO, start: int, reader_of: Callable[[str], Reader | None], in_place: bool
) -> Iterator[Member]:
    seen: set[str] = set()
    for name, info in walk(path, file):
        if info.isdir() or any(hidden(part) for part in name.split("/")):
            continue
        inner, offset = f"{path}/{name}", start + info.offset_data if start >= 0 else -1
        if inner in seen:
            raise Refusal(f"{path} holds {name!r} twice, and it is not clear which counts. Write the tar anew.")
        seen.add(inner)
        part = cast(BinaryIO, Part(file, info.offset_data, info.size, inner))
        if opens(inner, reader_of):
            yield from _inside(inner, part, offset, reader_of, in_place)
        elif in_place and offset >= 0:
            yield Member(inner, offset, info.size, None)
        elif info.size > LARGEST:
            raise Refusal(
                f"{inner} would unfold to {info.size:,} bytes in memory; the most is {LARGEST:,}. An image or a text is "
                "smaller: write the archive anew without it."
            )
        else:
            yield Member(inner, offset, info.size, part.read())


class Part(io.RawIOBase):
    """`size` bytes of a file from `start` on, as a file of its own."""

    def __init__(self, file: BinaryIO, start: int, size: int, name: str) -> None:
        super().__init__()
        self.file, self.start, self.size, self.place, self.where = file, start, size, 0, name

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """As far as the file below is."""
        return True

    def tell(self) -> int:
        """Place in the part."""
        return self.place

    def seek(self, offset: int, whence: int = 0) -> int:
        """Nothing moves below until the next read."""
        self.place = offset + (0, self.place, self.size)[whence]
        return self.place

    def read(self, size: int | None = -1) -> bytes:
        """Raises Refusal where the file below ends too early."""
        left = max(0, self.size - self.place)
        wanted = left if size is None or size < 0 else min(size, left)
        self.file.seek(self.start + self.place)
        data = self.file.read(wanted)
        if len(data) < wanted:
            raise Refusal(
                f"{self.where} is cut off: {wanted - len(data):,} of its {self.size:,} bytes are missing. Get it again."
            )
        self.place += len(data)
        return data


class Sequential(io.RawIOBase):
    """A stream that only goes forwards, with enough of what it passed to look back a little, as tar readers do."""

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__()
        self.stream, self.place, self.ahead = stream, 0, b""
        self.passed = b""

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """Forwards, and a little back."""
        return True

    def tell(self) -> int:
        """Bytes from the start."""
        return self.place

    def read(self, size: int | None = -1) -> bytes:
        """To the end for -1."""
        wanted = -1 if size is None else size
        data, self.ahead = (self.ahead, b"") if wanted < 0 else (self.ahead[:wanted], self.ahead[wanted:])
        if wanted < 0 or len(data) < wanted:
            more = self.stream.read(wanted - len(data) if wanted >= 0 else -1)
            data = data + more if data else more
        self.place += len(data)
        self.passed = (self.passed + data[-KEPT:])[-KEPT:]
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        """Forwards by reading; backwards as far as is kept. Raises OSError beyond that."""
        target = offset + (0, self.place, 0)[whence]
        if whence == 2:
            raise OSError("a stream does not know its end")
        back = self.place - target
        if back > len(self.passed):
            raise OSError(f"{back} bytes back are no longer there")
        if back > 0:
            self.ahead = self.passed[-back:] + self.ahead
            self.passed = self.passed[:-back]
            self.place = target
        while self.place < target and self.read(min(1 << 20, target - self.place)):
            pass
        return self.place
