"""Reading a raw source in place: a folder, one file, or objects under an s3:// prefix."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from stages.lib.core import files, objects
from stages.lib.core.outcome import Refusal
from stages.lib.ingestion.listing import Entry
from stages.lib.params.sources import Source


class Absent(Refusal):
    """The source cannot be reached from here; a listing that was recorded before may still serve."""


IN_ORDER = (".tgz", ".tar.gz", ".parquet")
"""Files that come out in their own order only; as a source of their own they are listed whole."""


@dataclass(frozen=True)
class Place:
    """Where a source lies."""

    uri: str
    """A local path, or s3://bucket/prefix."""

    def __str__(self) -> str:
        return self.uri

    @property
    def remote(self) -> bool:
        """Whether it lies on S3."""
        return objects.is_remote(self.uri)

    @property
    def path(self) -> Path:
        """Of a local one."""
        return Path(self.uri)

    @property
    def is_tar(self) -> bool:
        """One plain local tar: `scan` lists its members, and they are read by offset."""
        return not self.remote and self.path.is_file() and not self.uri.lower().endswith(IN_ORDER)

    @property
    def is_one_object(self) -> bool:
        """Whether a remote source is one archive, not a prefix."""
        return self.remote and self.uri.lower().endswith((".tar", *IN_ORDER))

    def uri_of(self, name: str) -> str:
        """Of a listed object."""
        return self.uri if self.is_one_object else f"{self.uri.rstrip('/')}/{name}"

    def open(self, entry: Entry) -> BinaryIO:
        """One listed file, front to back; on S3 in large ranges, of the version that was listed."""
        if self.remote:
            return cast(BinaryIO, objects.open(self.uri_of(entry.member), etag(entry)))
        return (self.path / entry.member if self.path.is_dir() else self.path).open("rb", buffering=1 << 20)


def locate(source: Source) -> Place:
    """Where the source lies; a relative path starts at the raw root."""
    if objects.is_remote(source.path):
        return Place(source.path)
    return Place(str(files.raw_root() / Path(source.path).expanduser()))


def etag(entry: Entry) -> str:
    """Of a listed object; empty for a local file."""
    return entry.sha256.removeprefix("etag:") if entry.sha256.startswith("etag:") else ""


def must_exist(place: Place) -> Place:
    """`place`. Raises Absent saying how to bring the images."""
    if not place.remote and not place.path.exists():
        raise Absent(
            f"The raw images are not at {place}. Put them there, or set TUTELAGE_RAW to the folder that relative paths of "
            "`sources` start at. (Only `scan` goes on without them, with the listing it recorded.)"
        )
    return place


class RawReader:
    """Payloads of one source that have a place of their own; every byte is compared with the sha256 that was recorded."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.one_file = not place.remote and not place.path.is_dir()
        self.descriptors: dict[str, int] = {}

    def __enter__(self) -> "RawReader":
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in self.descriptors.values():
            os.close(descriptor)
        self.descriptors = {}

    def read(self, member: str, container: str, offset: int, size: int, sha256: str) -> bytes:
        """The bytes of a member. Raises Refusal where they are not those that were recorded.

        container: the listed file it lies in at `offset`; empty: the source's only file (with an offset), or a file of its
        own (without). sha256: hex; empty or an etag where nothing is known yet: then the size alone is compared.
        """
        try:
            data = self._bytes(member, container, offset, size, sha256)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise self._changed(member, "it is gone") from None
        except PermissionError:
            raise Refusal(f"{member} in {self.place} may not be read by this user; change its permissions.") from None
        known = sha256 and not sha256.startswith("etag:")
        if len(data) != size or (known and hashlib.sha256(data).hexdigest() != sha256):
            raise self._changed(
                member, f"{size:,} bytes were recorded, {len(data):,} are there now, and their sha256 differs"
            )
        return data

    def _bytes(self, member: str, container: str, offset: int, size: int, sha256: str) -> bytes:
        if self.place.remote:
            version = sha256.removeprefix("etag:") if sha256.startswith("etag:") else ""
            return objects.read(self.place.uri_of(container or member), max(0, offset), size, version)
        if (self.one_file and offset < 0) or (not self.one_file and not container and offset >= 0):
            raise self._changed(member, "a folder has become a file, or a file a folder")
        if offset < 0:
            return (self.place.path / member).read_bytes()
        return os.pread(self._descriptor(container if not self.one_file else ""), size, offset)

    def _descriptor(self, container: str) -> int:
        if container not in self.descriptors:
            path = self.place.path / container if container else self.place.path
            self.descriptors[container] = os.open(path, os.O_RDONLY)
        return self.descriptors[container]

    def _changed(self, member: str, how: str) -> Refusal:
        return Refusal(
            f"{member} in {self.place} has changed since it was scanned ({how}). If that is meant, `dvc repro` scans and "
            "ingests again; if not, restore the file."
        )
