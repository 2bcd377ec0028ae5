"""Layout `inaturalist`: iNaturalist-2018 or -2019, train<year>.json and val<year>.json beside the images.

Classes are numbered in the order in which their categories first appear among the annotations of train<year>.json, as the
published DeiT code does (D:datasets.py), not by category id; models of others may number them by id. categories.json
holds the true names; those inside train<year>.json are obfuscated.
"""

import json
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from stages.lib.core.outcome import Refusal
from stages.lib.ingestion import official
from stages.lib.ingestion.class_names import distinct
from stages.lib.ingestion.layout import Image, Layout, some
from stages.lib.ingestion.listing import Entry
from stages.lib.ingestion.official import Needed

TEXTS = (".json",)
HOST = "https://ml-inat-competition-datasets.s3.amazonaws.com/"


def _files(year: int, images: str, train: str, val: str, size: str) -> tuple[Needed, ...]:
    """md5 of the images and the two annotation files, as the competition's page states them; it rounds their sizes."""
    return (
        Needed(
            f"train_val{year}.tar.gz", 0, images,
            f"images ({size}); unpacked: train_val{year}/", f"{HOST}{year}/train_val{year}.tar.gz",
        ),
        Needed(f"train{year}.json.tar.gz", 0, train, "training labels", f"{HOST}{year}/train{year}.json.tar.gz"),
        Needed(f"val{year}.json.tar.gz", 0, val, "validation labels", f"{HOST}{year}/val{year}.json.tar.gz"),
        Needed("categories.json.tar.gz", 0, "", "class names", f"{HOST}{year}/categories.json.tar.gz"),
    )  # fmt: skip


NEEDED_2018 = _files(
    2018, "b1c6952ce38f31868cc50ea72d066cc3", "bfa29d89d629cbf04d826a720c0a68b0",
    "f2ed8bfe3e9901cdefceb4e53cd3775d", "120 GB",
)  # fmt: skip
NEEDED_2019 = _files(
    2019, "c60a6e2962c9b8ccbd458d12c8582644", "b06a6683537867c0d5c7a45f407a306d",
    "5cc5509b0fe495f1c8c1362612448497", "74 GB",
)  # fmt: skip
NEEDED = NEEDED_2018 + NEEDED_2019
"""Of one year; a source holds one."""

ANNOTATED = re.compile(r"(?:^|/)(train|val)(20\d\d)\.json$")
NAMED = re.compile(r"(?:^|/)categories\.json$")


class Annotated(NamedTuple):
    """One annotation file."""

    member: str
    images: list[tuple[int, str]]
    """(image id, file name such as train_val2018/Aves/2820/x.jpg)"""
    categories: dict[int, int]
    """Image id -> category id, in the order of the annotations."""
    names: dict[int, str]
    """Category id -> name."""


def read(entries: Sequence[Entry], text_of: Callable[[Entry], bytes]) -> Layout:
    """Raises Refusal where a file or an image is missing, or annotations do not fit each other."""
    parts, categories = _texts(entries)
    train = _annotated(parts["train"], text_of)
    labels = {category: label for label, category in enumerate(dict.fromkeys(train.categories.values()))}
    annotated = {"train": train, "val": _annotated(parts["val"], text_of)}
    there = _there(entries, {name for part in annotated.values() for _, name in part.images})
    images, rejected = [], []
    for split, part in annotated.items():
        _fits(part, labels, there)
        for number, name in part.images:
            if number in part.categories:
                images.append(Image(name, split, labels[part.categories[number]], there[name]))
            else:
                rejected.append((there[name].member, f"has no annotation in {part.member}"))
    names = _names(categories, text_of) if categories else train.names
    tags = [str(category) for category in labels]
    classes = distinct([names.get(category, tag) for category, tag in zip(labels, tags, strict=True)], tags)
    others = sum(not entry.is_folder and not entry.member.endswith(TEXTS) for entry in entries) - len(there)
    said = [f"{others} files that neither annotation file names"] if others else []
    if not categories:
        said.append(f"the true class names: categories.json is not there, so they are those of {train.member}")
    return Layout(classes, images, rejected, said)


def _texts(entries: Sequence[Entry]) -> tuple[dict[str, Entry], Entry | None]:
    """({train, val: their annotation files}, categories.json). Raises Refusal where it is not those of one year."""
    found = [(match, entry) for entry in entries if (match := ANNOTATED.search(entry.member))]
    years = {match[2] for match, _ in found}
    parts = {match[1]: entry for match, entry in found}
    if len(found) != 2 or len(years) != 1 or len(parts) != 2:
        needed = NEEDED_2019 if years == {"2019"} else NEEDED_2018 if years == {"2018"} else NEEDED
        lost = official.missing(needed, {entry.member: entry.bytes for entry in entries})
        raise Refusal(
            "Layout `inaturalist` needs train<year>.json and val<year>.json of one year, once each; found "
            f"{some([entry.member for _, entry in found]) or 'none'}.\n{lost}"
        )
    return parts, next((entry for entry in entries if NAMED.search(entry.member)), None)


def _annotated(entry: Entry, text_of: Callable[[Entry], bytes]) -> Annotated:
    content = _parsed(entry, text_of)
    try:
        names = {one["id"]: str(one["name"]) for one in content["categories"]}
        categories = dict(content["annotations"])
        if len(categories) < len(content["annotations"]):
            raise ValueError("an image has two annotations")
        if not all(type(number) is int for pair in categories.items() for number in pair):
            raise ValueError("an annotation has no whole numbers as image_id and category_id")
        return Annotated(entry.member, [(number, str(name)) for number, name in content["images"]], categories, names)
    except (KeyError, TypeError, ValueError) as error:
        raise Refusal(
            f"{entry.member} does not have the images, annotations and categories of an iNaturalist file "
            f"({type(error).__name__}: {error}). Get it again."
        ) from None


def _parsed(entry: Entry, text_of: Callable[[Entry], bytes]) -> Any:
    try:
        return json.loads(text_of(entry), object_pairs_hook=_slim)
    except (ValueError, RecursionError) as error:
        raise Refusal(f"{entry.member} is no JSON that can be read ({error}). Get it again.") from None


def _slim(pairs: list[tuple[str, Any]]) -> Any:
    """Images and annotations as pairs: half a million dictionaries would take a gigabyte."""
    found = dict(pairs)
    if "file_name" in found:
        return found.get("id"), found["file_name"]
    if "category_id" in found:
        return found.get("image_id"), found["category_id"]
    return found


def _names(entry: Entry, text_of: Callable[[Entry], bytes]) -> dict[int, str]:
    """Category id -> name of categories.json, a list of {"id": ..., "name": ...}."""
    try:
        return {one["id"]: str(one["name"]) for one in _parsed(entry, text_of)}
    except (KeyError, TypeError):
        raise Refusal(f"{entry.member} is no list of categories with id and name. Get it again.") from None


def _there(entries: Sequence[Entry], names: set[str]) -> dict[str, Entry]:
    """File name as annotated -> entry; archives and folders around it do not matter. Raises Refusal for two of a name."""
    there: dict[str, Entry] = {}
    for entry in entries:
        path = entry.member
        while path not in names and "/" in path:
            path = path.partition("/")[2]
        if path in names and there.setdefault(path, entry) is not entry:
            raise Refusal(
                f"{path} is there twice: {there[path].member} and {entry.member}. Keep the archive or the unpacked folder."
            )
    return there


def _fits(part: Annotated, labels: dict[int, int], there: dict[str, Entry]) -> None:
    """Raises Refusal where an annotated image is not there, or a category is measured that was never trained."""
    lost = [name for _, name in part.images if name not in there]
    if lost:
        raise Refusal(f"{part.member} names {len(lost)} images that are not there: {some(lost)}. Get the images again.")
    unknown = sorted({str(category) for category in part.categories.values() if category not in labels})
    if unknown:
        raise Refusal(f"{part.member} has categories without a training image: {some(unknown)}. Files of two releases?")
