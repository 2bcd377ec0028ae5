"""Layout `hub`: a data set's parquet files as they lie on the hub, opened by hub_parquet; splits from file names."""

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence

from stages.lib.core.outcome import Refusal
from stages.lib.ingestion.class_names import distinct
from stages.lib.ingestion.layout import SPLITS, Image, Layout, some
from stages.lib.ingestion.listing import Entry
from stages.lib.ingestion.official import Needed

TEXTS = ("label-names.json",)
NEEDED: tuple[Needed, ...] = ()
"""Any repository's files, such as data/train-00000-of-00294.parquet; their number and sizes are its own."""

IMAGE = re.compile(r"^(?:(.*?)(?:\.(?i:parquet))?/)?(train|val|test|all)/(-?\d+)/(\d{7,}-[^/]+)$")
MOST_CLASSES = 1 << 20  # without names: more is no class number


def read(entries: Sequence[Entry], text_of: Callable[[Entry], bytes]) -> Layout:
    """Raises Refusal where files disagree on classes or splits, or no image is labelled."""
    names = _names(entries, text_of)
    images: list[Image] = []
    skipped: Counter[str] = Counter()
    for entry in entries:
        match = IMAGE.match(entry.member)
        if not match:
            skipped["files that are no parquet files"] += not entry.member.endswith(TEXTS) and not entry.is_folder
        elif int(match[3]) < 0:
            skipped[f"{match[2]} images without a label"] += 1
        else:
            path = "/".join(part for part in (match[1], match[3], match[4]) if part)
            images.append(Image(path, SPLITS.get(match[2], ""), int(match[3]), entry))
    _one_kind(images)
    most = max(image.label for image in images)
    if most >= (len(names) or MOST_CLASSES):
        raise Refusal(f"The files name {len(names)} classes, and an image has label {most}. Get them again.")
    tags = [str(label) for label in range(len(names) or most + 1)]
    said = [f"{number} {why}" for why, number in sorted(skipped.items()) if number]
    return Layout(distinct(names or tags, tags), images, [], said)


def _names(entries: Sequence[Entry], text_of: Callable[[Entry], bytes]) -> list[str]:
    """Class names, the same in every file that has some; empty: the classes are numbers."""
    found: dict[tuple[str, ...], str] = {}
    for entry in entries:
        if entry.member.endswith(TEXTS):
            found.setdefault(tuple(json.loads(text_of(entry))["label_names"]), entry.member.rpartition("/")[0])
    if len(found) > 1:
        raise Refusal(
            f"{' and '.join(list(found.values())[:2])} name different classes. Files of several data sets? Keep one set's."
        )
    return list(next(iter(found), ()))


def _one_kind(images: Sequence[Image]) -> None:
    """Raises Refusal where nothing is labelled, or some files name a split and others none."""
    if not images:
        raise Refusal(
            "There is no labelled image in a parquet file. Layout `hub` reads a data set's .parquet files, such as "
            "data/train-00000-of-00294.parquet, with an `image` and a `label` column."
        )
    named = Counter(bool(image.split) for image in images)
    if len(named) == 2:
        stray = next(image.entry.member for image in images if not image.split)
        raise Refusal(
            f"The names of some files say train, val or test, and others, such as {stray.rsplit('/', 3)[0]}, do not. "
            f"Rename them: {some(sorted({image.split for image in images if image.split}))} are there."
        )
