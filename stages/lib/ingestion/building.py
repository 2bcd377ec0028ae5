"""Builds some shards of a set from the raw source: what `shard` does for all of them, and a repair for those that are damaged."""

import logging
import time
from collections.abc import Sequence

from stages.lib.core.signals import Stopped
from stages.lib.ingestion import payloads, shard_writer
from stages.lib.ingestion.parallel import Crew
from stages.lib.ingestion.shard_writer import Job, Shard
from stages.lib.params.sources import Source

log = logging.getLogger(__name__)


def build(name: str, source: Source, jobs: Sequence[Job], crew: Crew) -> list[Shard]:
    """Write every job's shard and flush it; a build that was killed goes on with what it has finished.

    Raises Refusal where a raw image is gone or has changed, Stopped after a signal.
    """
    rows = [row for job in jobs for row in job.rows]
    remote, store = jobs[0].source.remote, jobs[0].store
    by_place = all(map(payloads.has_place, rows)) and not (remote and any(row.container for row in rows))
    if not by_place and store is None:
        _copy_in_order(name, source, jobs, crew)
    elif not by_place:
        _encode_in_order(name, source, jobs, crew)
    shards = list(crew.ordered(f"{name}: shards", shard_writer.build if by_place else shard_writer.seal, jobs))
    for job in jobs:
        shard_writer.flush(job)
    return shards


def _copy_in_order(name: str, source: Source, jobs: Sequence[Job], crew: Crew) -> None:
    """Read the source once, as it lies, and write every image where it belongs; what a killed build wrote is kept."""
    place = jobs[0].source
    start_of = {row.key: (job, at) for job in jobs for row, at in shard_writer.missing(job)}
    unfinished = [job for job in jobs if any(row.key in start_of for row in job.rows)]
    rows = [row for job in unfinished for row in job.rows if row.key in start_of]
    if len(start_of) < sum(len(job.rows) for job in jobs):
        log.info("%s: going on with %d images that are not yet in their shards", name, len(rows))
    said = time.monotonic()
    images = payloads.in_source_order(place, source, rows)
    for number, _ in enumerate(shard_writer.scatter(unfinished, images, start_of), start=1):
        if crew.watch.signum:
            raise Stopped(crew.watch.signum)
        if time.monotonic() - said > crew.log_seconds:
            said = time.monotonic()
            log.info("%s: %d of %d images", name, number, len(rows))


def _encode_in_order(name: str, source: Source, jobs: Sequence[Job], crew: Crew) -> None:
    """Read the source once, as it lies, encode in parallel, and keep what comes out beside the shards until they are put together;
    what a killed build kept is not encoded again."""
    rows = [row for job in jobs for row in shard_writer.unspooled(job)]
    if len(rows) < sum(len(job.rows) for job in jobs):
        log.info("%s: going on with %d images that are not yet encoded", name, len(rows))
    tasks = shard_writer.encodings(jobs, payloads.in_source_order(jobs[0].source, source, rows))
    for done in crew.ordered(f"{name}: images", shard_writer.encoded, tasks):
        shard_writer.spooled(*done)
