"""WebDataset tars, byte-identical on every build and for every number of processes, and their index.

in    data/manifest/<set>.parquet, the raw source (every image is compared with its sha256 while it is copied)
out   data/shards/<set>/                   <set>-<split>-000000.tar ... and _info.json, as webdataset and timm's `wds/` read them
      data/index/<set>.parquet             where every image lies (stages/lib/data/index.py)
      data/stored/<set>.json               bytes before and after, and what `shard.store` has lost (stages/lib/ingestion/cost.py)
      <run root>/shard@<set>/<identity>/   the build: a killed one goes on with the shards it had finished; removed at the end
run   dvc repro -s shard@<set>
      python -m stages.shard --publish s3://bucket/prefix [<set> ...]    as `python -m stages.publish shards`
      python -m stages.shard --repair [<set> ...]    as `python -m stages.repair`: only the damaged shards are built again
"""

import json
import logging
import os
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stages.lib.core import files, load, outcome, runs
from stages.lib.core.signals import Watch
from stages.lib.data.endings import ENDINGS
from stages.lib.ingestion import (
    building,
    cost,
    fidelity,
    index_writer,
    manifest,
    parallel,
    raw,
    reencode,
    shard_writer,
    timm_info,
)
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
        large = fidelity.sample(row.key for row in rows if reencode.is_stored_anew(row, cfg.store))
        jobs = [
            Job(place, run.folder / one.name, one.split, [rows[image] for image in one.images], cfg.store, large)
            for one in planned
        ]
        count = parallel.processes(system.processes, sum(row.bytes for row in rows))
        crew = Crew(count, watch, system.log_seconds)
        shards = building.build(name, source, jobs, crew)
        publish(Path(f"data/shards/{name}"), planned, run.folder)
        found = [image for job, shard in zip(jobs, shards, strict=True) for image in shard_writer.places(job, shard)]
        with files.replace(Path(f"data/index/{name}.parquet")) as temporary:
            store = cfg.store.model_dump() if cfg.store else None
            index_writer.write(temporary, found, classes, facts(planned, shards), store)
        told = cost.facts(name, rows, shards, cfg.store)
        with files.replace(Path(f"data/stored/{name}.json")) as temporary:
            temporary.write_text(json.dumps(told, indent=1) + "\n")
        log.info(
            "%s: %d images in %d shards, %.1f MB", name, len(rows), len(shards), sum(one.bytes for one in shards) / 1e6
        )
        log.info("%s: %s", name, cost.sentence(told))
        shutil.rmtree(run.folder)


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
        (new / timm_info.NAME).write_text(timm_info.text(planned))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--publish"]:  # another program: an edit of how shards are published makes no shard stale
        uri, names = sys.argv[2:3], sys.argv[3:]
        os.execv(sys.executable, [sys.executable, "-m", "stages.publish", "shards", *names, *uri])
    if "--repair" in sys.argv[1:]:  # the same
        os.execv(sys.executable, [sys.executable, "-m", "stages.repair", *(a for a in sys.argv[1:] if a != "--repair")])
    outcome.run("shard", main)
