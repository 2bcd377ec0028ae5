"""Writes shards: tars in webdataset's layout whose bytes depend on their images alone, not on the order they are written in."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

from stages.lib.core import files
from stages.lib.ingestion import payloads, raw, reencode, shard_copy, spool
from stages.lib.ingestion.index_writer import Place
from stages.lib.ingestion.manifest import Row
from stages.lib.ingestion.raw import RawReader
from stages.lib.ingestion.reencode import Anew
from stages.lib.ingestion.sample import as_it_is, assembled, before, end, image_at, sample, size
from stages.lib.params.shard import Store

Piece = tuple[Row, bytes, Anew | None]
"""An image, what is stored of it, and what is known of that if the store has made it anew."""


@dataclass(frozen=True)
class Job:
    """One shard to be written, by any process."""

    source: raw.Place
    target: Path
    split: str
    rows: Sequence[Row]
    store: Store | None = None
    """None: every image as it is."""
    measured: frozenset[str] = frozenset()
    """Keys of the images whose loss is measured."""

    def __getstate__(self) -> dict[str, Any]:
        """For another process: rows as columns, which pickle in a third of the time."""
        return {**self.__dict__, "rows": list(zip(*self.rows, strict=True))}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, rows=list(map(Row._make, zip(*state["rows"], strict=True))))


@dataclass(frozen=True)
class Shard:
    """A finished shard, as its sidecar remembers it."""

    sha256: str
    bytes: int
    offsets: list[int]
    """Of each image's first byte."""
    anew: dict[str, Anew]
    """By key, of images that the store has made anew."""


def places(job: Job, shard: Shard) -> Iterator[Place]:
    """The index's rows of a shard."""
    name = job.target.name
    for row, offset in zip(job.rows, shard.offsets, strict=True):
        if anew := shard.anew.get(row.key):
            here = anew.bytes, anew.sha256, anew.width, anew.height
        else:
            here = row.stored_bytes, row.stored_sha256, row.width, row.height
        yield Place(row.key, row.split, row.label, name, offset, *here, row.orientation)


def build(job: Job) -> Shard:
    """Write a shard of images that can be read by themselves, or take over the one an earlier, killed build finished.

    It is not flushed here: a shard is believed after a crash only if its bytes have the sha256 its sidecar tells.
    Raises Refusal where a raw image has changed.
    """
    if shard := finished(job):
        return shard
    with files.replace(job.target, flush=False) as temporary, temporary.open("wb", buffering=0) as file:
        anew = any(reencode.is_stored_anew(row, job.store) for row in job.rows) if job.store else False
        native = not anew and shard_copy.possible(job.source, job.rows)
        shard = _copied(job, file) if native else _assembled(file, _read(job))
    return _remembered(job, shard)


def _copied(job: Job, file: IO[bytes]) -> Shard:
    """Files as they are, natively."""
    try:
        return Shard(*shard_copy.Copier(job.source, job.rows, file.fileno()).copy(), {})
    except shard_copy.Changed as changed:
        row = changed.row
        with RawReader(job.source) as reader:  # it says what is wrong
            reader.read(row.member, row.container, row.offset, row.bytes, row.sha256)
        raise payloads.changed(job.source, row, "while it was read") from None


def _read(job: Job) -> Iterator[Piece]:
    """A shard's images by their places."""
    with RawReader(job.source) as reader:
        for row in job.rows:
            data = reader.read(row.member, row.container, row.offset, row.bytes, row.sha256)
            yield row, *made(row, data, job.store, row.key in job.measured)


def made(row: Row, original: bytes, store: Store | None, measured: bool) -> tuple[bytes, Anew | None]:
    """What is stored of an image. Raises Refusal as `sample` does."""
    if store is not None and reencode.is_stored_anew(row, store):
        return reencode.encode(original, row, store, measured)
    return as_it_is(row, original), None


def _assembled(file: IO[bytes], pieces: Iterable[Piece]) -> Shard:
    """Sample by sample: for remote sources, for what is stored as other bytes, and without a compiler."""
    digest, written, offsets, known = hashlib.sha256(), 0, [], {}
    for row, data, anew in pieces:
        whole = assembled(row, data, anew)
        offsets.append(written + len(before(row, len(data), anew)))
        if anew:
            known[row.key] = anew
        _put(file, whole)
        digest.update(whole)
        written += len(whole)
    rest = bytes(end(written))
    _put(file, rest)
    digest.update(rest)
    return Shard(digest.hexdigest(), written + len(rest), offsets, known)


@dataclass(frozen=True)
class Encoding:
    """An image of an ordered source on its way through any process."""

    job: Job
    """Without rows and keys, which no process needs to be sent."""
    number: int
    """Of the image in its shard."""
    row: Row
    original: bytes
    measured: bool


def encodings(jobs: Sequence[Job], images: Iterable[tuple[Row, bytes]]) -> Iterator[Encoding]:
    """A task for each image."""
    short = {job.target: replace(job, rows=(), measured=frozenset()) for job in jobs}
    place_of = {row.key: (job, number) for job in jobs for number, row in enumerate(job.rows)}
    for row, original in images:
        job, number = place_of[row.key]
        yield Encoding(short[job.target], number, row, original, row.key in job.measured)


def encoded(task: Encoding) -> tuple[Encoding, bytes, Anew | None]:
    """(the task without its bytes, what is stored, what is known of that)."""
    return replace(task, original=b""), *made(task.row, task.original, task.job.store, task.measured)


def spooled(task: Encoding, data: bytes, anew: Anew | None) -> None:
    """Keep it until `seal` puts the shard together."""
    spool.append(_spool(task.job), task.number, data, anew)


def unspooled(job: Job) -> list[Row]:
    """The images that a killed build has not yet spooled; none where the shard is finished."""
    if finished(job):
        return []
    there = spool.recover(_spool(job))
    return [row for number, row in enumerate(job.rows) if number not in there]


def _spooled(job: Job) -> Iterator[Piece]:
    """A shard's images out of its spool."""
    pieces = spool.recover(_spool(job))
    with _spool(job).open("rb") as file:
        for number, row in enumerate(job.rows):
            piece = pieces[number]
            yield row, os.pread(file.fileno(), piece.bytes, piece.at), piece.anew


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
    """Give a shard that `scatter` has filled its name; put one together that was spooled."""
    if shard := finished(job):
        return shard
    if job.store is not None:
        with files.replace(job.target, flush=False) as temporary, temporary.open("wb", buffering=0) as file:
            shard = _assembled(file, _spooled(job))
        shard = _remembered(job, shard)
        _spool(job).unlink()
        return shard
    part = _part(job)
    with part.open("rb") as file:
        digest, offsets, start = hashlib.file_digest(file, "sha256").hexdigest(), [], 0
    for row in job.rows:
        offsets.append(start + image_at(row))
        start += size(row)
    shard = Shard(digest, part.stat().st_size, offsets, {})
    part.replace(job.target)
    return _remembered(job, shard)


def finished(job: Job) -> Shard | None:
    """The shard its sidecar tells of, if every byte is there."""
    try:
        found = json.loads(job.target.with_suffix(".json").read_text())
        whole = job.target.stat().st_size == found["bytes"] and files.sha256(job.target) == found["sha256"]
        found["anew"] = {key: Anew(*facts) for key, facts in found["anew"].items()}
        return Shard(**found) if whole else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def flush(job: Job) -> None:
    """Make a shard survive a power cut. Once, when all are written: the kernel has been writing meanwhile."""
    with job.target.open("rb") as file:
        os.fsync(file.fileno())


def _remembered(job: Job, shard: Shard) -> Shard:
    with files.replace(job.target.with_suffix(".json"), flush=False) as temporary:
        temporary.write_text(json.dumps(asdict(shard)))
    return shard


def _put(file: IO[bytes], data: bytes) -> None:
    """The whole of data: a raw file may take less at once."""
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]


def _part(job: Job) -> Path:
    return job.target.with_suffix(".part")


def _spool(job: Job) -> Path:
    return job.target.with_suffix(".spool")


def _is_there(descriptor: int, row: Row, at: int) -> bool:
    """Whether the whole sample was written."""
    found = os.pread(descriptor, size(row), at)
    image = found[image_at(row) :][: row.stored_bytes]
    return hashlib.sha256(image).hexdigest() == row.stored_sha256 and found == assembled(row, image)
