"""Layout `webdataset`: tars of samples, <key>.<jpg|png|...> with <key>.cls and perhaps <key>.json.

Splits and their tars stand in _info.json (as timm and our `shard` write it); without it file names tell (split_names), and
without that there are none. Class names are `class_name` in a sample's .json where every class has one, else numbers.
"""

import json
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from stages.lib.core.outcome import Refusal
from stages.lib.ingestion.class_names import distinct
from stages.lib.ingestion.layout import SPLITS, Image, Layout, some
from stages.lib.ingestion.listing import Entry
from stages.lib.ingestion.official import Needed
from stages.lib.ingestion.split_names import split_of

TEXTS = (".cls", ".json")
"""Every .cls is read, and one .json a class."""
NEEDED: tuple[Needed, ...] = ()

IMAGES = {"jpg", "jpeg", "png", "webp", "ppm", "pgm", "pbm", "bmp", "gif", "tif", "tiff"}
INFO = ("_info.json", "info.json")
MOST_DIGITS = 6  # of a class number
TAR = re.compile(r"^(.*\.(?:tar|tar\.gz|tgz))/(.+)$")


class Sample(NamedTuple):
    """One key of one tar: its members by ending, in lower case."""

    tar: str
    key: str
    parts: dict[str, Entry]


def read(entries: Sequence[Entry], text_of: Callable[[Entry], bytes]) -> Layout:
    """Raises Refusal where tars and _info.json do not fit each other, or there is no labelled image."""
    samples, others = _samples(entries)
    splits, unlisted = _splits(entries, samples, text_of)
    images: list[Image] = []
    rejected: list[tuple[str, str]] = []
    described: dict[int, Entry] = {}
    for sample in samples:
        if sample.tar in unlisted:
            continue
        found = [ending for ending in sample.parts if ending in IMAGES]
        label, why = _label(sample, text_of)
        if len(found) != 1:
            why = f"belongs to a sample with {len(found)} images"
        if why:
            rejected += [(sample.parts[ending].member, why) for ending in found or list(sample.parts)[:1]]
            continue
        ending, entry = found[0], sample.parts[found[0]]
        images.append(Image(_path(sample, ending), splits[sample.tar], label, entry))
        if "json" in sample.parts:
            described.setdefault(label, sample.parts["json"])
    if not images:
        raise Refusal(
            "There is no labelled image. Layout `webdataset` reads tars whose samples are <key>.jpg (or png, webp, ...) and "
            f"<key>.cls, a number; here {some([sample.key for sample in samples]) or 'is no sample'}."
        )
    said = [f"{others} files that belong to no sample"] if others else []
    said += [f"{len(unlisted)} tars that _info.json does not list: {some(sorted(unlisted))}"] if unlisted else []
    return Layout(_names(1 + max(image.label for image in images), described, text_of), images, rejected, said)


def _samples(entries: Sequence[Entry]) -> tuple[list[Sample], int]:
    """(samples in order of tar and key, number of files that are no part of one).

    As webdataset has it, a key ends at the first dot of the file name; members of one sample share tar and key.
    """
    parts: dict[tuple[str, str], dict[str, Entry]] = defaultdict(dict)
    others = 0
    loose = not any(TAR.match(entry.member) for entry in entries)  # the source itself is the one tar
    for entry in entries:
        match = TAR.match(entry.member)
        tar, path = (match[1], match[2]) if match else ("", entry.member)
        folder, _, name = path.rpartition("/")
        stem, _, ending = name.partition(".")
        if not (match or loose) or not stem or ending.lower() not in IMAGES | {"cls", "json"} or name in INFO:
            others += not entry.is_folder and name not in INFO
            continue
        parts[tar, f"{folder}/{stem}" if folder else stem][ending.lower()] = entry
    return [Sample(tar, key, found) for (tar, key), found in parts.items()], others


def _label(sample: Sample, text_of: Callable[[Entry], bytes]) -> tuple[int, str]:
    """(label, why there is none)."""
    if "cls" not in sample.parts:
        return -1, f"has no {sample.key.rpartition('/')[2]}.cls beside it"
    text = text_of(sample.parts["cls"]).strip()
    if not text.isdigit() or len(text) > MOST_DIGITS:
        return -1, f"has a .cls of {text[:20].decode(errors='replace')!r}, no class number"
    return int(text), ""


def _path(sample: Sample, ending: str) -> str:
    """The key of an image is unique in its tar alone."""
    tar = re.sub(r"\.(tar|tar\.gz|tgz)$", "", sample.tar)
    return f"{tar}/{sample.key}.{ending}" if tar else f"{sample.key}.{ending}"


def _splits(
    entries: Sequence[Entry], samples: Sequence[Sample], text_of: Callable[[Entry], bytes]
) -> tuple[dict[str, str], set[str]]:
    """({tar: its split, empty where the set has none}, tars that _info.json does not list). Raises Refusal."""
    tars = dict.fromkeys(sample.tar for sample in samples)
    infos = [entry for entry in entries if entry.member.rpartition("/")[2] in INFO and not TAR.match(entry.member)]
    if len(infos) > 1:
        raise Refusal(f"{some([entry.member for entry in infos])} both describe the set. Keep one.")
    if infos:
        splits = _listed(infos[0], text_of(infos[0]), samples)
        return splits, set(tars) - set(splits)
    splits = {tar: split_of(tar) for tar in tars}
    named = {tar for tar, split in splits.items() if split}
    if named and len(named) < len(tars):
        raise Refusal(
            f"The names of some tars say train, val or test, and others do not: {some(sorted(set(tars) - named))}. "
            "Rename them, or put an _info.json beside them."
        )
    return splits, set()


def _listed(info: Entry, text: bytes, samples: Sequence[Sample]) -> dict[str, str]:
    """Tar -> split of an _info.json; its tars lie beside it. Raises Refusal where a tar or a sample is missing."""
    beside = info.member.rpartition("/")[0]
    splits: dict[str, str] = {}
    count = dict.fromkeys([sample.tar for sample in samples], 0)
    for sample in samples:
        count[sample.tar] += 1
    try:
        for name, split in json.loads(text)["splits"].items():
            lengths = split.get("shard_lengths") or [None] * len(split["filenames"])
            for tar, length in zip(split["filenames"], lengths, strict=True):
                path = f"{beside}/{tar}" if beside else tar
                if count.get(path, 0) != (length or count.get(path, -1)):
                    raise Refusal(f"{info.member} lists {tar} with {length} samples; {count.get(path, 0)} are there.")
                splits[path] = SPLITS[name.lower()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Refusal(
            f"{info.member} does not say {{splits: {{train, val, test: {{filenames, shard_lengths}}}}}} "
            f"({type(error).__name__}: {error}). Correct it, or remove it if the tars' names tell their splits."
        ) from None
    return splits


def _names(classes: int, described: dict[int, Entry], text_of: Callable[[Entry], bytes]) -> tuple[str, ...]:
    """Index = label."""
    tags = [str(label) for label in range(classes)]
    found = {label: _class_name(text_of(entry)) for label, entry in described.items()}
    return (
        distinct([found[label] for label in range(classes)], tags)
        if all(map(found.get, range(classes)))
        else tuple(tags)
    )


def _class_name(text: bytes) -> str:
    try:
        content: Any = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    name = content.get("class_name") if isinstance(content, dict) else ""
    return name if isinstance(name, str) else ""
