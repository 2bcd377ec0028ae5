"""Goes from header to header of a plain tar, within bounds: whatever is wrong with one is a tarfile.ReadError.

Python's tarfile reads a header of any length into memory, goes backwards where a size is negative, and lets errors of number,
text and recursion out of damaged ones (tests/fuzz has the files). Payloads are never touched here.
"""

import contextlib
import errno
import tarfile
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

MOST_HEADER_BYTES = 1 << 20
"""Of one member, with its long name and its PAX records; real ones have a few thousand at most."""
MOST_GLOBAL = 1000
"""PAX records that hold for all members."""
FARTHEST = 1 << 60
DAMAGE = (ValueError, KeyError, IndexError, TypeError, ArithmeticError, RecursionError)
"""What tarfile lets out of damaged headers beside its own errors."""


class Headers:
    """The members of a tar, in its order; `end` is the place behind the last one once they are through."""

    def __init__(self, file: BinaryIO) -> None:
        """file: stands at 0 and can seek."""
        self.file, self.end = file, 0

    def __iter__(self) -> Iterator[tarfile.TarInfo]:
        """Between two of them the caller may move the file. Raises tarfile.ReadError, and whatever the file itself raises."""
        bounded = _Bounded(self.file)
        try:
            with tarfile.open(fileobj=cast(Any, bounded), mode="r:") as tar:
                while (info := tar.next()) is not None:
                    if not 0 <= info.size <= FARTHEST - info.offset_data:
                        raise tarfile.ReadError(f"{info.name!r} has {info.size:,} bytes by its header")
                    if len(tar.pax_headers) > MOST_GLOBAL:
                        raise tarfile.ReadError(f"more than {MOST_GLOBAL:,} records for all members")
                    yield info
                    tar.members = []  # type: ignore[attr-defined]  # else a million of them pile up
                    bounded.left = MOST_HEADER_BYTES
                self.end = tar.offset
        except DAMAGE as error:
            raise tarfile.ReadError(f"a damaged header: {type(error).__name__}: {str(error)[:100]}") from None
        except tarfile.TarError as error:
            raise tarfile.ReadError(str(error)) from None


class _Bounded:
    """What tarfile reads headers through: no more than MOST_HEADER_BYTES for one member."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.left = file, MOST_HEADER_BYTES

    def read(self, size: int) -> bytes:
        if not 0 <= size <= self.left:
            raise tarfile.ReadError(f"a header of more than {MOST_HEADER_BYTES:,} bytes, or one that claims to be")
        self.left -= size
        with _somewhere():
            return self.file.read(size)

    def seek(self, place: int) -> int:
        with _somewhere():
            return self.file.seek(place)

    def tell(self) -> int:
        return self.file.tell()


@contextlib.contextmanager
def _somewhere() -> Iterator[None]:
    """A place where no file ends is what the system calls an invalid argument; other failures of the file are its own."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise tarfile.ReadError("a header leads to where no file ends") from None
