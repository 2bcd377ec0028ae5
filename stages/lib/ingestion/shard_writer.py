"""Writes shards: tars in webdataset's layout whose bytes depend on their images alone, not on the order they are written in."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from stages.lib.core import files
from stages.lib.ingestion import payloads, raw, shard_copy
from stages.lib.ingestion.index_writer import Place
from stages.lib.ingestion.manifest import Row
from stages.lib.ingestion.raw import RawReader
from stages.lib.ingestion.sample import assembled, end, image_at, sample, size


@dataclass(frozen=True)
class Job:
    """One shard to be written, by any process."""

    source: raw.Place
    target: Path
    split: str
    rows: Sequence[Row]


@dataclass(frozen=True)
class Shard:
    """A finished shard, as its sidecar remembers it."""

    sha256: str
    bytes: int
    offsets: list[int]
    """Of each image's first byte."""


def places(job: Job, shard: Shard) -> Iterator[Place]:
    """The index's rows of a shard."""
    name = job.target.name
    for row, offset in zip(job.rows, shard.offsets, strict=True):
        yield Place(
            row.key, row.split, row.label, name, offset, row.stored_bytes, row.stored_sha256, row.width, row.height,
            row.orientation,
        )  # fmt: skip


def build(job: Job) -> Shard:
    """Write a shard of images that can be read by themselves, or take over the one an earlier, killed build finished.

    It is not flushed here: a shard is believed after a crash only if its bytes have the sha256 its sidecar tells.
    Raises Refusal where a raw image has changed.
    """
    if shard := finished(job):
        return shard
    with _fresh(job.target) as temporary, temporary.open("wb", buffering=0) as file:
        shard = _copied(job, file) if shard_copy.possible(job.source, job.rows) else _assembled(job, file)
    return _remembered(job, shard)


def _copied(job: Job, file: IO[bytes]) -> Shard:
    """Files as they are, natively."""
    try:
        return Shard(*shard_copy.Copier(job.source, job.rows, file.fileno()).copy())
    except shard_copy.Changed as changed:
        row = changed.row
        with RawReader(job.source) as reader:  # it says what is wrong
            reader.read(row.member, row.container, row.offset, row.bytes, row.sha256)
        raise payloads.changed(job.source, row, "while it was read") from None


def _assembled(job: Job, file: IO[bytes]) -> Shard:
    """The same bytes, sample by sample: for remote sources, for what is stored as other bytes, and without a compiler."""
    digest, written, offsets = hashlib.sha256(), 0, []
    with RawReader(job.source) as reader:
        for row in job.rows:
            data = sample(row, reader.read(row.member, row.container, row.offset, row.bytes, row.sha256))
            offsets.append(written + image_at(row))
            _put(file, data)
            digest.update(data)
            written += len(data)
    rest = bytes(end(written))
    _put(file, rest)
    digest.update(rest)
    return Shard(digest.hexdigest(), written + len(rest), offsets)


def missing(job: Job) -> list[tuple[Row, int]]:
    """(image, start of its sample) of all that a killed `scatter` has not yet put into the shard; none where it is finished."""
    if finished(job):
        return []
    starts, start = [], 0
    for row in job.rows:
        starts.append((row, start))
        start += size(row)
    part = _part(job)
    if not part.exists():
        return starts
    with part.open("rb") as file:
        return [(row, at) for row, at in starts if not _is_there(file.fileno(), row, at)]


def scatter(
    jobs: Sequence[Job], images: Iterable[tuple[Row, bytes]], start_of: dict[str, tuple[Job, int]]
) -> Iterator[Row]:
    """Put images into their places in whatever order they come; yields each when it is there. `seal` the shards then.

    start_of: key -> shard and start of its sample. Raises Refusal as `sample` does.
    """
    for job in jobs:
        part = _part(job)
        part.parent.mkdir(parents=True, exist_ok=True)
        whole = sum(map(size, job.rows))
        with part.open("ab") as file:
            file.truncate(whole + end(whole))  # zeros, which is what stands between and behind the samples
    for row, original in images:
        job, at = start_of[row.key]
        descriptor = os.open(_part(job), os.O_WRONLY)
        try:
            os.pwrite(descriptor, sample(row, original), at)
        finally:
            os.close(descriptor)
        yield row


def seal(job: Job) -> Shard:
    """Give a shard that `scatter` has filled its name."""
    if shard := finished(job):
        return shard
    part = _part(job)
    with part.open("rb") as file:
        digest, offsets, start = hashlib.file_digest(file, "sha256").hexdigest(), [], 0
    for row in job.rows:
        offsets.append(start + image_at(row))
        start += size(row)
    shard = Shard(digest, part.stat().st_size, offsets)
    part.replace(job.target)
    return _remembered(job, shard)


def finished(job: Job) -> Shard | None:
    """The shard its sidecar tells of, if every byte is there."""
    try:
        found = json.loads(job.target.with_suffix(".json").read_text())
        whole = job.target.stat().st_size == found["bytes"] and files.sha256(job.target) == found["sha256"]
        return Shard(**found) if whole else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def flush(job: Job) -> None:
    """Make a shard survive a power cut. Once, when all are written: the kernel has been writing meanwhile."""
    with job.target.open("rb") as file:
        os.fsync(file.fileno())


def _remembered(job: Job, shard: Shard) -> Shard:
    with _fresh(job.target.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(asdict(shard)))
    return shard


@contextlib.contextmanager
def _fresh(path: Path) -> Iterator[Path]:
    """A temporary path that takes the name `path` when all went well; not flushed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _put(file: IO[bytes], data: bytes) -> None:
    """The whole of data: a raw file may take less at once."""
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]


def _part(job: Job) -> Path:
    return job.target.with_suffix(".part")


def _is_there(descriptor: int, row: Row, at: int) -> bool:
    """Whether the whole sample was written."""
    found = os.pread(descriptor, size(row), at)
    image = found[image_at(row) :][: row.stored_bytes]
    return hashlib.sha256(image).hexdigest() == row.stored_sha256 and found == assembled(row, image)
