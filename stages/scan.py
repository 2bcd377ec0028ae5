"""What lies in the raw source now: one row a file with its sha256. The only stage that always runs.

in    the raw source of <set> (sources.<set>), a folder or a plain tar
out   data/listing/<set>.parquet           content only, no times: unchanged data gives unchanged bytes, and nothing below runs
      <run root>/scan/<set>/               size and mtime of every file, so that only what changed is read again
run   dvc repro -s scan@<set>              1.28 million files: about 5 s when nothing changed
      python -m stages.scan available      which official sets lie under the raw root, as entries for `sources`

Where the raw source is absent (another worker, a temporary experiment) the recorded listing is kept.
"""

import logging
import os
import shutil
import sys
from pathlib import Path

import pyarrow.parquet as pq

from stages.lib.core import files, load, outcome
from stages.lib.core.outcome import Refusal
from stages.lib.ingestion import embedded, raw, recorded, source_scan
from stages.lib.ingestion.raw import Absent
from stages.lib.ingestion.stat_cache import StatCache
from stages.lib.params.sources import Source
from stages.lib.params.system import System

log = logging.getLogger(__name__)
AVAILABLE = "available"


def main() -> None:
    """Bring the cached listing up to date and publish a copy of it. Raises Refusal."""
    name = sys.argv[1]
    if name == AVAILABLE:
        from stages.lib.ingestion import presence  # a scan starts without the layouts

        sys.stdout.writelines(f"{line}\n" for line in presence.available())
        return
    source, system = load.load_item("sources", name, Source), load.load("system", System)
    place, cache = raw.locate(source), StatCache(name)
    if source.embedded and not place.remote and not place.path.exists():
        embedded.write(source.embedded, place.path)
    with cache.held():
        try:
            processes = system.processes or len(os.sched_getaffinity(0))
            state = source_scan.scan(cache, source.path, raw.must_exist(place), processes)
        except Absent as absent:
            try:
                listed, found = recorded.find(name, source.path, place, cache)
            except Refusal as nothing:
                raise Refusal(f"{absent}\n{nothing}" if place.remote else str(nothing)) from None
            log.warning("%s: %s Keeping the recorded listing: %s", name, absent, found)
        else:
            listed = cache.listing(state)
            ignored = f", {state.ignored} hidden ones ignored" if state.ignored else ""
            log.info("%s: %d files in %s%s", name, pq.read_metadata(listed).num_rows, place, ignored)
        with files.replace(Path(f"data/listing/{name}.parquet")) as temporary:
            shutil.copyfile(listed, temporary)


if __name__ == "__main__":
    outcome.run("scan", main)
