"""WebDataset tars, byte-identical on every build and for every number of processes, and their index.

in    data/manifest/<set>.parquet, the raw source (every image is compared with its sha256 while it is copied)
out   data/shards/<set>/                   <set>-<split>-000000.tar ... and _info.json, as webdataset and timm's `wds/` read them
      data/index/<set>.parquet             where every image lies (stages/lib/data/index.py)
      <run root>/shard@<set>/<identity>/   the build: a killed one goes on with the shards it had finished; removed at the end
run   dvc repro -s shard@<set>
      python -m stages.shard --publish s3://bucket/prefix [<set> ...]    as `python -m stages.publish shards`
"""

import json
import logging
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stages.lib.core import files, load, outcome, runs
from stages.lib.core.signals import Stopped, Watch
from stages.lib.data.endings import ENDINGS
from stages.lib.ingestion import index_writer, manifest, parallel, payloads, raw, shard_writer
from stages.lib.ingestion.manifest import Row
from stages.lib.ingestion.parallel import Crew
from stages.lib.ingestion.plan import Planned, plan
from stages.lib.ingestion.shard_writer import Job, Shard
from stages.lib.params.shard import Shard as Params
from stages.lib.params.sources import Source
from stages.lib.params.system import System

log = logging.getLogger(__name__)


def main() -> None:
    """Plan, build, publish. Raises Refusal where the raw images are gone or have changed."""
    name = sys.argv[1]
    cfg, system = load.load("shard", Params), load.load("system", System)
    source = load.load_item("sources", name, Source)
    watch, place, listed = Watch(), raw.must_exist(raw.locate(source)), Path(f"data/manifest/{name}.parquet")
    rows, classes = manifest.read(listed)
    say(name, rows)
    columns = ([row.key for row in rows], [row.split for row in rows], [row.label for row in rows])
    planned = plan(name, *columns, cfg.images_per_shard, cfg.seed)
    with runs.open_run("shard", name, [cfg, source], [listed]) as run:
        jobs = [Job(place, run.folder / one.name, one.split, [rows[image] for image in one.images]) for one in planned]
        count = parallel.processes(system.processes, sum(row.bytes for row in rows))
        crew = Crew(count, watch, system.log_seconds)
        by_place = all(map(payloads.has_place, rows)) and not (place.remote and any(row.container for row in rows))
        if not by_place:
            copy_in_order(name, source, jobs, crew)
        shards = list(crew.ordered(f"{name}: shards", shard_writer.build if by_place else shard_writer.seal, jobs))
        for job in jobs:
            shard_writer.flush(job)
        publish(Path(f"data/shards/{name}"), planned, run.folder)
        found = [image for job, shard in zip(jobs, shards, strict=True) for image in shard_writer.places(job, shard)]
        with files.replace(Path(f"data/index/{name}.parquet")) as temporary:
            index_writer.write(temporary, found, classes, facts(planned, shards))
        log.info(
            "%s: %d images in %d shards, %.1f MB", name, len(rows), len(shards), sum(one.bytes for one in shards) / 1e6
        )
        shutil.rmtree(run.folder)


def copy_in_order(name: str, source: Source, jobs: Sequence[Job], crew: Crew) -> None:
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


def say(name: str, rows: Sequence[Row]) -> None:
    """What is not stored as it came."""
    kinds = Counter(row.format for row in rows if row.format not in ENDINGS)
    for kind, number in kinds.items():
        log.info(
            "%s: %d %s images are stored as PNG, pixel for pixel; readers of shards know jpg, png and webp",
            name,
            number,
            kind,
        )


def facts(planned: Sequence[Planned], shards: Sequence[Shard]) -> dict[str, dict[str, Any]]:
    """The index's metadata about tars."""
    return {
        one.name: {"sha256": shard.sha256, "bytes": shard.bytes, "images": len(one.images), "split": one.split}
        for one, shard in zip(planned, shards, strict=True)
    }


def publish(folder: Path, planned: Sequence[Planned], build: Path) -> None:
    """Link (or, on another disk, copy) the shards into a new folder beside `folder`, then swap; never half a set under the name."""
    with files.replace_folder(folder) as new:
        for one in planned:
            try:
                os.link(build / one.name, new / one.name)
            except OSError:
                shutil.copyfile(build / one.name, new / one.name)
        (new / "_info.json").write_text(json.dumps(info(planned), indent=1) + "\n")


def info(planned: Sequence[Planned]) -> dict[str, Any]:
    """timm's description of a webdataset: splits with their tars and the number of images in each."""
    splits: dict[str, Any] = {}
    for one in planned:
        split = splits.setdefault(
            one.split, {"name": one.split, "num_samples": 0, "filenames": [], "shard_lengths": []}
        )
        split["num_samples"] += len(one.images)
        split["filenames"].append(one.name)
        split["shard_lengths"].append(len(one.images))
    return {"splits": splits}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--publish"]:  # another program: an edit of how shards are published makes no shard stale
        uri, names = sys.argv[2:3], sys.argv[3:]
        os.execv(sys.executable, [sys.executable, "-m", "stages.publish", "shards", *names, *uri])
    outcome.run("shard", main)
