"""Reading a raw source in place: a folder, or one plain tar read by offset without unpacking."""

import hashlib
import os
from pathlib import Path

from stages.lib.core import files
from stages.lib.core.outcome import Refusal
from stages.lib.params.sources import Source


def locate(source: Source) -> Path:
    """Where the source lies; a relative path starts at the raw root."""
    return files.raw_root() / Path(source.path).expanduser()


def must_exist(path: Path) -> Path:
    """`path`, or a Refusal saying how to bring the images."""
    if not path.exists():
        raise Refusal(
            f"The raw images are not at {path}. Put them there, or set TUTELAGE_RAW to the folder that relative paths of "
            "`sources` start at. (Only `scan` goes on without them, with the listing it recorded.)"
        )
    return path


class RawReader:
    """Payloads of one source; every byte is compared with the sha256 that `scan` found."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor = None if path.is_dir() else os.open(path, os.O_RDONLY)

    def __enter__(self) -> "RawReader":
        return self

    def __exit__(self, *_: object) -> None:
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None

    def read(self, member: str, offset: int, size: int, sha256: str) -> bytes:
        """The bytes of a member. Raises Refusal where they are not those that were scanned."""
        try:
            data = self._bytes(member, offset, size)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise self._changed(member, "it is gone") from None
        except PermissionError:
            raise Refusal(f"{member} in {self.path} may not be read by this user; change its permissions.") from None
        if hashlib.sha256(data).hexdigest() != sha256:
            raise self._changed(
                member, f"{size:,} bytes were recorded, {len(data):,} are there now, and their sha256 differs"
            )
        return data

    def _bytes(self, member: str, offset: int, size: int) -> bytes:
        if (self.descriptor is None) != (offset < 0):
            raise self._changed(member, "a folder has become a tar, or a tar a folder")
        if self.descriptor is None:
            return (self.path / member).read_bytes()
        return os.pread(self.descriptor, size, offset)

    def _changed(self, member: str, how: str) -> Refusal:
        return Refusal(
            f"{member} in {self.path} has changed since it was scanned ({how}). If that is meant, `dvc repro` scans and "
            "ingests again; if not, restore the file."
        )
