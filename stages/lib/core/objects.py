"""Reads objects of S3 as files are read: listed, by range, as a stream, or copied to disk. Right bytes, or an error.

Bodies that are cut, stalls and answers of 500 and above are continued where they broke off, with If-Match, so that no two
versions of an object are ever mixed. A flipped byte shows where the sha256 is known: say it wherever you know it.
"""

import contextlib
import fcntl
import hashlib
import io
import os
import shutil
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from stages.lib.core import files, s3
from stages.lib.core.outcome import Refusal
from stages.lib.core.s3 import PastEnd, is_remote, join, patiently, split

__all__ = ["Object", "download", "fill", "is_remote", "join", "listing", "open", "read", "split", "stat"]
MOST_BYTES = 16 << 30  # of an object that is copied whole: three times the largest RegNetY in single precision
BLOCK = 8 << 20  # bytes of one request of a stream
AHEAD = 2  # blocks of a stream fetched in the background
PIECE = 1 << 18  # bytes taken from a connection at a time: what a cut body loses at most


class Object(NamedTuple):
    """One object; `name` is relative to the prefix that was listed."""

    name: str
    bytes: int
    etag: str
    """Of its content, without quotes; what If-Match compares."""


def listing(uri: str) -> Iterator[Object]:
    """Everything under the prefix, sorted by name; keys that end in `/` (folders made by a console) are passed over.

    Raises Refusal where nothing is there.
    """
    bucket, key = split(uri)
    prefix = key if not key or key.endswith("/") else key + "/"
    found, last = False, ""
    more: dict[str, str] = {}
    while True:
        page = patiently(uri, lambda client: client.list_objects_v2(Bucket=bucket, Prefix=prefix, **more))  # noqa: B023
        for entry in page.get("Contents", []):
            name = entry["Key"].removeprefix(prefix)
            if name and not name.endswith("/"):
                if name < last:
                    raise Refusal(f"{uri} is not listed in order of name (a directory bucket?); use a general one.")
                found, last = True, name
                yield Object(name, entry["Size"], entry["ETag"].strip('"'))
        if not page.get("IsTruncated"):
            break
        more = {"ContinuationToken": page["NextContinuationToken"]}
    if not found:
        raise Refusal(f"There is nothing under {prefix!r} in the bucket {bucket!r} ({uri}). Check the prefix.")


def stat(uri: str, etag: str = "") -> Object:
    """What is known of one object; its name is the last part of its key. Raises Refusal."""
    bucket, key = split(uri)
    about = patiently(uri, lambda client: client.head_object(Bucket=bucket, Key=key, **_match(etag)))
    return Object(key.rsplit("/", 1)[-1], about["ContentLength"], about["ETag"].strip('"'))


def read(uri: str, start: int, size: int, etag: str = "", sha256: str = "") -> bytes:
    """`size` bytes from `start`, all of them, of the version `etag` and with this sha256 where they are given. Raises Refusal."""
    before = ""
    for _ in range(s3.PATIENCE.attempts):
        data = bytes(_Block(uri, start, size, etag).data) if size else b""
        if len(data) < size:
            raise Refusal(f"{uri} has only {start + len(data):,} bytes; {size:,} from {start:,} on were asked for.")
        found = hashlib.sha256(data).hexdigest() if sha256 else ""
        if found == sha256:
            return data
        if found == before:
            break
        before = found  # a byte that flipped on its way is right the next time
    raise _other(f"{uri} (bytes {start:,} to {start + size:,})", sha256, before)


def open(uri: str, etag: str = "", start: int = 0, sha256: str = "") -> io.BufferedReader:  # noqa: A001
    """The object from `start` on, as a file that can seek; for reading in order, the next blocks are fetched ahead.

    With sha256, bytes that were read in order from the first to the last are compared at the end. Raises Refusal.
    """
    return io.BufferedReader(_Stream(uri, etag, start, sha256), 1 << 18)


def download(uri: str, path: Path, sha256: str = "") -> None:
    """Copy to `path`, whole or not at all; a file that has this sha256 already is kept. Raises Refusal.

    With a sha256 a copy that was broken off goes on where it stopped, also in another process.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    with _held(part) as file:
        if sha256 and path.is_file() and files.sha256(path) == sha256:
            part.unlink()
            return
        if not sha256:
            file.truncate(0)
        fill(uri, file, sha256)
        part.replace(path)
        files.flush_folder(path.parent)


def fill(uri: str, file: io.BufferedRandom, sha256: str = "", size: int | None = None) -> None:
    """Append to `file` what it lacks of the object, compare, and flush. Raises Refusal where the object is another one."""
    before = ""
    for _ in range(s3.PATIENCE.attempts):
        with open(uri, start=file.seek(0, os.SEEK_END)) as source:
            there = source.seek(0, os.SEEK_END)
            if size is not None and there != size:
                raise Refusal(f"{uri} has {there:,} bytes instead of {size:,}: it is not what was recorded.")
            if size is None and there > MOST_BYTES:
                raise Refusal(f"{uri} has {there:,} bytes, more than the {MOST_BYTES:,} that are fetched at once.")
            source.seek(file.tell())
            shutil.copyfileobj(source, file, PIECE)
        file.flush()
        os.fsync(file.fileno())
        file.seek(0)
        found = hashlib.file_digest(file, "sha256").hexdigest() if sha256 else ""
        if found == sha256:
            return
        file.truncate(0)
        if found == before:  # twice the same: so it lies there
            break
        before = found
    raise _other(uri, sha256, before)


def _other(what: str, expected: str, found: str) -> Refusal:
    return Refusal(
        f"{what} has the sha256 {found}, and {expected} is expected: it is damaged, or not what was recorded. Put the right "
        "one there, or record this one (scan again, publish again, correct the sha256)."
    )


def _match(etag: str) -> dict[str, str]:
    return {"IfMatch": f'"{etag}"'} if etag else {}


class _Block:
    """Up to `size` bytes of an object from `start` on: fewer only where it ends. Raises PastEnd where it has none there."""

    def __init__(self, uri: str, start: int, size: int, etag: str) -> None:
        self.uri, self.start, self.size, self.etag = uri, start, size, etag
        self.total = -1
        """Bytes of the whole object."""
        self.data = bytearray()
        patiently(uri, self._go_on)

    def _go_on(self, client: Any) -> None:
        """Ask for what is not there yet; called again after a fault."""
        from botocore.exceptions import FlexibleChecksumError

        bucket, key = split(self.uri)
        at, end = self.start + len(self.data), self.start + self.size
        if self.total >= 0 and at >= min(end, self.total):
            return
        answer = client.get_object(Bucket=bucket, Key=key, Range=f"bytes={at}-{end - 1}", **_match(self.etag))
        self.etag = answer["ETag"].strip('"')
        place, _, total = answer.get("ContentRange", "").removeprefix("bytes ").partition("/")
        if not place.startswith(f"{at}-"):
            raise Refusal(f"The server of {self.uri} does not answer ranges; another one, or a proxy less, is needed.")
        self.total = int(total)
        before = len(self.data)
        try:
            with contextlib.closing(answer["Body"]) as body:
                while piece := body.read(PIECE):
                    self.data += piece
        except FlexibleChecksumError:  # the server's sum of the whole object: all of this answer is in doubt
            del self.data[before:]
            raise
        if self.start + len(self.data) != min(end, self.total):
            raise ConnectionError(f"the body ended after {len(self.data):,} of {self.size:,} bytes")


class _Coming(threading.Thread):
    """A block on its way. A daemon: a process that leaves does not wait for a server that stalls."""

    def __init__(self, uri: str, start: int, etag: str) -> None:
        super().__init__(daemon=True, name="s3-ahead")
        self.uri, self.from_byte, self.etag = uri, start, etag
        self.block: _Block | None = None
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            self.block = _Block(self.uri, self.from_byte, BLOCK, self.etag)
        except Exception as error:  # whatever it is, it is raised where the block is needed
            self.error = error

    def result(self) -> _Block:
        self.join()
        if self.error:
            raise self.error
        assert self.block is not None
        return self.block


class _Stream(io.RawIOBase):
    """The object as raw bytes: one block at hand, and the next ones on their way while it is read in order."""

    def __init__(self, uri: str, etag: str, start: int, sha256: str) -> None:
        self.uri, self.at = uri, start
        self.block_start, self.block = start, bytearray()
        self.ahead: deque[_Coming] = deque()
        self.sha256, self.digest, self.digested = sha256, hashlib.sha256(), 0
        try:
            first = _Block(uri, start, BLOCK, etag)
            self.block, self.bytes, self.etag = first.data, first.total, first.etag
        except PastEnd:
            self.bytes, self.etag = stat(uri, etag)[1:]
        self._compare()  # an empty object has no byte that would trigger it

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        place = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.at, os.SEEK_END: self.bytes}[whence]
        if place < 0:
            raise ValueError(f"{place} is before the first byte")
        self.at = place
        return place

    def readinto(self, buffer: Any) -> int:
        if self.at >= self.bytes:
            return 0
        if not self.block_start <= self.at < self.block_start + len(self.block):
            self._turn()
        place = self.at - self.block_start
        piece = memoryview(self.block)[place : place + len(buffer)]
        buffer[: len(piece)] = piece
        if self.sha256 and self.at == self.digested:
            self.digest.update(piece)
            self.digested += len(piece)
            self._compare()
        self.at += len(piece)
        return len(piece)

    def close(self) -> None:
        self.ahead.clear()
        super().close()

    def _turn(self) -> None:
        """Bring the block that holds `at`, and if it follows the last one, send for the next."""
        in_order = self.at == self.block_start + len(self.block)
        while self.ahead and self.at >= self.ahead[0].from_byte + BLOCK:
            self.ahead.popleft()
        if self.ahead and self.ahead[0].from_byte <= self.at:
            in_order = True
            block = self.ahead.popleft().result()
        else:
            self.ahead.clear()
            block = _Block(self.uri, self.at, BLOCK, self.etag)
        self.block_start, self.block = block.start, block.data
        if in_order:
            following = (self.ahead[-1].from_byte if self.ahead else self.block_start) + BLOCK
            while len(self.ahead) < AHEAD and following < self.bytes:
                self.ahead.append(_Coming(self.uri, following, self.etag))
                following += BLOCK

    def _compare(self) -> None:
        if self.sha256 and self.digested == self.bytes and self.digest.hexdigest() != self.sha256:
            raise _other(self.uri, self.sha256, self.digest.hexdigest())


@contextlib.contextmanager
def _held(part: Path) -> Iterator[io.BufferedRandom]:
    """The unfinished file, held by this process alone; who comes second waits, and then meets what the first has made."""
    while True:
        with part.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), part.stat()):  # else it has been renamed meanwhile
                    yield file
                    return
