"""One manifest row per image, each decoded once.

in    data/listing/<set>.parquet              what `scan` found; the raw source itself is read in place
out   data/manifest/<set>.parquet             a row per good image (stages/lib/ingestion/manifest.py says what is in it)
      data/manifest/<set>-rejected.csv        member,reason of the others
      data/samples/<set>.png                  48 training images
run   dvc repro -s ingest@<set>

Greyscale, palette, alpha, CMYK and 16-bit images are good (decode.py says what becomes of them); a wrong file ending
does not matter. EXIF orientation is recorded, and applied if ingest.exif says so. A set without a validation split
gets one by hash of the content.
"""

import csv
import logging
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from stages.lib.core import files, load, outcome
from stages.lib.core.outcome import Refusal
from stages.lib.core.signals import Watch
from stages.lib.ingestion import contact_sheet, layouts, listing, manifest, parallel, payloads, raw, splitting
from stages.lib.ingestion.contents import Item
from stages.lib.ingestion.findings import Findings
from stages.lib.ingestion.keys import keys
from stages.lib.ingestion.layout import Image, Layout
from stages.lib.ingestion.look import Look
from stages.lib.ingestion.manifest import Row
from stages.lib.ingestion.parallel import Crew
from stages.lib.params.ingest import Ingest
from stages.lib.params.sources import Source
from stages.lib.params.system import System

log = logging.getLogger(__name__)


def main() -> None:
    """Open archives, understand the layout, decode every image, split, write. Raises Refusal."""
    name = sys.argv[1]
    cfg, system = load.load("ingest", Ingest), load.load("system", System)
    source = load.load_item("sources", name, Source)
    watch, place = Watch(), raw.must_exist(raw.locate(source))
    entries = list(listing.read(Path(f"data/listing/{name}.parquet")))
    crew = Crew(parallel.processes(system.processes, sum(entry.bytes for entry in entries)), watch, system.log_seconds)
    found = Findings(name, place, source, crew)
    found.open(entries)
    layout = layouts.read(source.layout, [item.entry for item in found.items.values()], found.text)
    for skipped in layout.skipped:
        log.info("%s: skipped %s", name, skipped)
    looks = found.looks(layout.images)
    good = [(image, one) for image, one in zip(layout.images, looks, strict=True) if isinstance(one, Look)]
    bad = [(image.entry.member, why) for image, why in zip(layout.images, looks, strict=True) if isinstance(why, str)]
    rejected = sorted([*layout.rejected, *bad])
    write_rejected(Path(f"data/manifest/{name}-rejected.csv"), rejected)
    judge(name, rejected, cfg.max_bad)
    rows = rows_of(layout, good, found.items, cfg)
    complete(name, rows, layout.classes)
    say(name, rows, [one.facts.frames for _, one in good], rejected)
    sheet = payloads.few(place, source, contact_sheet.chosen(rows))
    contact_sheet.write(Path(f"data/samples/{name}.png"), list(sheet))
    with files.replace(Path(f"data/manifest/{name}.parquet")) as temporary:
        manifest.write(temporary, rows, layout.classes)


def write_rejected(path: Path, rejected: Sequence[tuple[str, str]]) -> None:
    """member,reason; the header alone where all is well."""
    with files.replace(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([("member", "reason"), *rejected])


def judge(name: str, rejected: Sequence[tuple[str, str]], max_bad: int) -> None:
    """Raises Refusal where more are bad than the person allows."""
    if len(rejected) > max_bad:
        first = "\n".join(f"  {member}: {why}" for member, why in rejected[:10])
        more = f"\n  ... and {len(rejected) - 10} more" if len(rejected) > 10 else ""
        raise Refusal(
            f"{name}: {len(rejected)} files cannot be used, and ingest.max_bad allows {max_bad}:\n{first}{more}\n"
            f"All of them are in data/manifest/{name}-rejected.csv. Repair or remove them, or raise ingest.max_bad "
            "to go on without them."
        )


def rows_of(layout: Layout, good: Sequence[tuple[Image, Look]], items: Mapping[str, Item], cfg: Ingest) -> list[Row]:
    """Manifest rows by key. Keys count rejected images too, so that repairing one renames no other."""
    paths = sorted(image.path for image in layout.images)
    key_of = dict(zip(paths, keys(paths), strict=True))
    carved = carve(good, cfg.val_fraction)
    rows = []
    for image, one in good:
        entry, facts = image.entry, one.facts
        split = "val" if entry.member in carved else image.split or "train"
        applied = facts.exif if cfg.exif == "apply" else 1
        rows.append(
            Row(
                key_of[image.path], split, image.label, layout.classes[image.label],
                entry.member, items[entry.member].container, entry.offset, entry.bytes, one.sha256,
                facts.width, facts.height, facts.mode, facts.format, applied, facts.exif, one.stored_bytes, one.stored_sha256,
            )
        )  # fmt: skip
    return sorted(rows)


def carve(images: Sequence[tuple[Image, Look]], fraction: float) -> set[str]:
    """Members that become the validation split; none where the source has one."""
    if any(image.split == "val" for image, _ in images):
        return set()
    open_ = [(image, one) for image, one in images if image.split != "test"]
    chosen = splitting.validation([image.label for image, _ in open_], [one.sha256 for _, one in open_], fraction)
    return {open_[place][0].entry.member for place in chosen}


def complete(name: str, rows: Sequence[Row], classes: Sequence[str]) -> None:
    """Raises Refusal where there is nothing to learn or nothing to measure; finer questions are the gate's."""
    if len(classes) < 2:
        raise Refusal(f"{name} has {len(classes)} class ({', '.join(classes)}); a classifier needs at least 2.")
    trained = {row.label for row in rows if row.split == "train"}
    empty = [label for label in range(len(classes)) if label not in trained]
    if empty:
        names = ", ".join(classes[label] for label in empty[:10])
        raise Refusal(
            f"{name}: {len(empty)} of {len(classes)} classes have no good training image: {names}. Add some, or remove the class."
        )
    if not any(row.split == "val" for row in rows):
        raise Refusal(
            f"{name} has {len(rows)} images, too few for a validation split: "
            "a class gives one when it holds 2 different images. Add some."
        )


def say(name: str, rows: Sequence[Row], frames: Sequence[int], rejected: Sequence[object]) -> None:
    """What came in, and what is done about the odd ones."""
    splits = ", ".join(f"{number} {split}" for split, number in Counter(row.split for row in rows).items())
    kinds = ", ".join(
        f"{number} {kind}" for kind, number in Counter(f"{row.format} {row.mode}" for row in rows).most_common()
    )
    log.info("%s: %d images (%s), %d rejected; %s", name, len(rows), splits, len(rejected), kinds)
    turned = sum(row.exif > 1 for row in rows)
    if turned:
        applied = any(row.orientation > 1 for row in rows)
        log.info(
            "%s: %d images carry an EXIF orientation, which is %s",
            name,
            turned,
            "applied" if applied else "ignored (ingest.exif)",
        )
    moving = sum(number > 1 for number in frames)
    if moving:
        log.info("%s: %d images are animations; their first frame counts", name, moving)


if __name__ == "__main__":
    outcome.run("ingest", main)
