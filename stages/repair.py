"""Build again the shards that are damaged or missing, and nothing else: the same bytes, from the manifest and the raw source.

in    data/index/<set>.parquet, data/manifest/<set>.parquet, the raw source (only the images of damaged shards are read)
out   data/shards/<set>/                   what is not as the index says is replaced; other files are not touched
      DVC's local cache                    an object with the same damage, shared by a link, is replaced too
      <run root>/repair@<set>/strays/      what lay among the shards and does not belong there
run   python -m stages.repair [<set> ...]          without a name: every set that has an index
      python -m stages.shard --repair [<set> ...]  the same

No DVC stage: what it makes is what `shard` made, so nothing is stale behind it. It refuses where that cannot be proven: an index of
another build, raw images that are gone or have changed, packages that encode differently.
"""

import hashlib
import logging
import shutil
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from stages.lib.core import files, load, outcome, parquet, runs
from stages.lib.core.outcome import Refusal
from stages.lib.core.signals import Watch
from stages.lib.data import publish_shards
from stages.lib.ingestion import building, damage, exchange, manifest, parallel, raw, timm_info
from stages.lib.ingestion.damage import Wanted
from stages.lib.ingestion.manifest import Row
from stages.lib.ingestion.parallel import Crew
from stages.lib.ingestion.plan import Planned, plan
from stages.lib.ingestion.shard_writer import Job
from stages.lib.params.shard import Shard as Params
from stages.lib.params.sources import Source
from stages.lib.params.system import System

log = logging.getLogger(__name__)
COLUMNS = pa.schema([(name, pa.string()) for name in ("key", "split", "shard")])


class Told(NamedTuple):
    """What an index says about shards."""

    shards: dict[str, dict[str, Any]]
    """Name -> sha256, bytes, images, split."""
    rows: list[tuple[str, str, str]]
    """(key, split, shard) of every image, in order."""
    store: dict[str, Any] | None


def main() -> None:
    """Raises Refusal."""
    unknown = [argument for argument in sys.argv[1:] if argument.startswith("-")]
    if unknown:
        raise Refusal(f"use: python -m stages.repair [<set> ...]; {' '.join(unknown)} is not known.")
    for name in sys.argv[1:] or publish_shards.sharded():
        repair(name)


def repair(name: str) -> list[str]:
    """Names of the files that were replaced. Raises Refusal; then no file has been touched."""
    cfg, system = load.load("shard", Params), load.load("system", System)
    source, listed = load.load_item("sources", name, Source), Path(f"data/manifest/{name}.parquet")
    told, rows = read_index(Path(f"data/index/{name}.parquet")), rows_of(listed)
    columns = ([row.key for row in rows], [row.split for row in rows], [row.label for row in rows])
    planned = plan(name, *columns, cfg.images_per_shard, cfg.seed)
    agree(name, told, planned, rows, cfg)
    folder, info = Path(f"data/shards/{name}"), timm_info.text(planned).encode()
    wanted = {shard: Wanted(about["bytes"], about["sha256"]) for shard, about in told.shards.items()}
    wanted[timm_info.NAME] = Wanted(len(info), hashlib.sha256(info).hexdigest())
    wrong = damage.found(folder, wanted)
    for file, why in wrong.items():
        log.warning("%s: %s is damaged: %s", name, folder / file, why)
    with runs.open_run("shard", name, [cfg, source], [listed]) as run:
        (run.folder / timm_info.NAME).write_bytes(info)
        broken = [one for one in planned if one.name in wrong]
        if broken:
            rebuild(name, source, jobs_of(name, source, run.folder, broken, rows, cfg), system, wanted)
        for file in wrong:
            for cached in exchange.put(run.folder / file, folder / file, wanted[file]):
                log.info("%s: the object %s of DVC's cache had the same damage; it is replaced", name, cached)
        shutil.rmtree(run.folder)
    move_strays(name, damage.strays(folder, wanted))
    whole = len(wanted) - len(wrong)
    log.info("%s: %s; %d files are as the index says and were not touched", name, done(wrong), whole)
    return list(wrong)


def done(wrong: dict[str, str]) -> str:
    """One sentence's beginning."""
    return f"{len(wrong)} files built again ({', '.join(wrong)})" if wrong else "nothing to repair"


def read_index(path: Path) -> Told:
    """Raises Refusal where there is none, or one that cannot be read: it is what a repair believes."""
    if not path.is_file():
        raise Refusal(
            f"There is no index {path}, by which shards could be judged. `dvc checkout --force {path}` restores it, "
            f"`dvc repro -f -s shard@{path.stem}` builds the set anew."
        )
    table = parquet.read(path, COLUMNS)
    with parquet.understood(path):
        metadata = table.schema.metadata
        rows = zip(*(column.to_pylist() for column in table.columns), strict=True)
        store = parquet.entry(metadata, "store") if b"store" in metadata else None
        return Told(parquet.shards(metadata), list(rows), store)


def rows_of(path: Path) -> list[Row]:
    """Of the manifest. Raises Refusal."""
    if not path.is_file():
        raise Refusal(f"There is no manifest {path}. `dvc checkout {path}` restores it, `dvc repro` makes it.")
    return manifest.read(path)[0]


def agree(name: str, told: Told, planned: list[Planned], rows: list[Row], cfg: Params) -> None:
    """Raises Refusal unless manifest and parameters would build the very shards that the index lists."""
    laid = [(rows[image].key, one.split, one.name) for one in planned for image in one.images]
    store = cfg.store.model_dump() if cfg.store else None
    if laid == told.rows and list(told.shards) == [one.name for one in planned] and store == told.store:
        return
    differing = [f"{mine} is {theirs} there" for mine, theirs in zip(laid, told.rows, strict=False) if mine != theirs]
    counts = f"{len(planned)} shards of {len(laid)} images, the index {len(told.shards)} of {len(told.rows)}"
    raise Refusal(
        f"{name}: data/index/{name}.parquet is of another build than the manifest and the block `shard` of params.yaml describe "
        f"(they give {counts}{'; ' + differing[0] if differing else ''}). Nothing was touched. `dvc repro shard@{name}` builds "
        f"the set anew, `dvc checkout --force data/index/{name}.parquet data/manifest/{name}.parquet` restores the recorded files."
    )


def jobs_of(name: str, source: Source, build: Path, broken: list[Planned], rows: list[Row], cfg: Params) -> list[Job]:
    """How the shards are built. Raises Refusal where the raw source is not there."""
    try:
        place = raw.must_exist(raw.locate(source))
    except Refusal as absent:
        raise hopeless(name, [one.name for one in broken], absent) from None
    return [Job(place, build / one.name, one.split, [rows[image] for image in one.images], cfg.store) for one in broken]


def hopeless(name: str, shards: list[str], why: Refusal) -> Refusal:
    """The raw source does not give the shards; what else may."""
    return Refusal(
        f"{name}: {', '.join(shards)} cannot be built again. {why}\nNothing was touched. Where DVC's cache or remote has "
        f"whole shards, `dvc checkout --force data/shards/{name}` or `dvc pull --force data/shards/{name}` brings them, "
        "without raw images."
    )


def rebuild(name: str, source: Source, jobs: list[Job], system: System, wanted: dict[str, Wanted]) -> None:
    """Into the run folder; proven to be what the index lists. Raises Refusal where they are not, or raw images have changed."""
    log.info("%s: building %d of its shards again", name, len(jobs))
    count = parallel.processes(system.processes, sum(row.bytes for job in jobs for row in job.rows))
    try:
        built = building.build(name, source, jobs, Crew(count, Watch(), system.log_seconds))
    except Refusal as changed:
        raise hopeless(name, [job.target.name for job in jobs], changed) from None
    for job, shard in zip(jobs, built, strict=True):
        if (shard.bytes, shard.sha256) != wanted[job.target.name]:
            raise Refusal(
                f"{name}: {job.target.name} built again is not what the index lists (sha256 {shard.sha256}, the index has "
                f"{wanted[job.target.name].sha256}): packages or code differ, or the index is damaged. Nothing was touched. "
                f"`dvc repro -f -s shard@{name}` builds the whole set and its index anew."
            )


def move_strays(name: str, strays: list[Path]) -> None:
    """Out of the way of DVC and of other readers, and kept."""
    for path in strays:
        away = files.root() / f"repair@{name}" / "strays"
        away.mkdir(parents=True, exist_ok=True)
        shutil.move(path, away / path.name)
        log.warning("%s: %s is no file of this set; it was moved to %s", name, path, away)


if __name__ == "__main__":
    outcome.run("repair", main)
