"""Writes shards: tars in webdataset's layout whose bytes depend on their images alone, not on the order they are written in."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from stages.lib.core import files
from stages.lib.ingestion import raw
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


def places(job: Job) -> Iterator[Place]:
    """The index's rows of a shard: they follow from the manifest."""
    start = 0
    for row in job.rows:
        yield Place(
            row.key, row.split, row.label, job.target.name, start + image_at(row), row.stored_bytes, row.stored_sha256,
            row.width, row.height, row.orientation,
        )  # fmt: skip
        start += size(row)


def build(job: Job) -> Shard:
    """Write a shard of images that can be read by themselves, or take over the one an earlier, killed build finished.

    Raises Refusal where a raw image has changed.
    """
    if shard := finished(job):
        return shard
    with files.replace(job.target) as temporary, RawReader(job.source) as reader, temporary.open("wb") as file:
        digest, written = hashlib.sha256(), 0
        for row in job.rows:
            data = sample(row, reader.read(row.member, row.container, row.offset, row.bytes, row.sha256))
            file.write(data)
            digest.update(data)
            written += len(data)
        file.write(bytes(end(written)))
        digest.update(bytes(end(written)))
    return _remembered(job, Shard(digest.hexdigest(), written + end(written)))


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
        os.fsync(file.fileno())
        shard = Shard(hashlib.file_digest(file, "sha256").hexdigest(), part.stat().st_size)
    part.replace(job.target)
    return _remembered(job, shard)


def finished(job: Job) -> Shard | None:
    """The shard its sidecar tells of, if every byte is there."""
    try:
        found = json.loads(job.target.with_suffix(".json").read_text())
        whole = job.target.stat().st_size == found["bytes"] and files.sha256(job.target) == found["sha256"]
        return Shard(found["sha256"], found["bytes"]) if whole else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remembered(job: Job, shard: Shard) -> Shard:
    with files.replace(job.target.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(asdict(shard)))
    return shard


def _part(job: Job) -> Path:
    return job.target.with_suffix(".part")


def _is_there(descriptor: int, row: Row, at: int) -> bool:
    """Whether the whole sample was written."""
    found = os.pread(descriptor, size(row), at)
    image = found[image_at(row) :][: row.stored_bytes]
    return hashlib.sha256(image).hexdigest() == row.stored_sha256 and found == assembled(row, image)
