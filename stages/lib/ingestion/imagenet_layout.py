"""Layout `imagenet`: ILSVRC2012 as downloaded (a tar of 1,000 tars, the flat validation tar, the devkit) or unpacked.

A label is the place of a class's wnid in the sorted list of training wnids, as torchvision's ImageFolder and every
published model have it. The devkit numbers its synsets otherwise (ILSVRC2012_ID): its validation ground truth goes from
ID to wnid through meta.mat, and from there to the label.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence

from stages.lib.core.outcome import Refusal
from stages.lib.ingestion import matlab, official
from stages.lib.ingestion.class_names import distinct
from stages.lib.ingestion.layout import Image, Layout, some
from stages.lib.ingestion.listing import Entry
from stages.lib.ingestion.official import Needed

META, TRUTH = "meta.mat", "ilsvrc2012_validation_ground_truth.txt"
TEXTS = (META, TRUTH)
DEVKIT = Needed(
    "ILSVRC2012_devkit_t12.tar.gz", 0, "fa75699e90414af021442c21a62c3abf",
    "labels of the validation images and class names (registration at image-net.org)", "",
)  # fmt: skip
NEEDED = (
    Needed(
        "ILSVRC2012_img_train.tar", 147_897_477_120, "1d675b47d978889d74fa0da5fadfb00e",
        "training images (registration at image-net.org); unpacked: train/<wnid>/*.JPEG", "",
    ),
    Needed(
        "ILSVRC2012_img_val.tar", 6_744_924_160, "29b22e2961454d5413ddabcf34fc5622",
        "validation images (registration at image-net.org); unpacked: val/*.JPEG or val/<wnid>/*.JPEG", "",
    ),
    DEVKIT,
)  # fmt: skip

IN_CLASS = re.compile(r"(?:^|/)(n\d{8})(?:\.tar)?/([^/]+\.(?i:jpe?g))$")
FLAT = re.compile(r"(?:^|/)(ILSVRC2012_val_(\d{8})\.(?i:jpe?g))$")
HELD_OUT = re.compile(r"(?:^|/)(?:val|validation|ILSVRC2012_img_val\.tar)/")
TEST = re.compile(r"(?:^|/)ILSVRC2012_test_\d{8}\.(?i:jpe?g)$")


def read(entries: Sequence[Entry], text_of: Callable[[Entry], bytes]) -> Layout:
    """Raises Refusal where training images, the ground truth or images it names are missing."""
    found, skipped = _images(entries)
    wnids = sorted({wnid for split, wnid, _ in found.values() if split == "train"})
    if not wnids:
        lost = official.missing(NEEDED, {entry.member: entry.bytes for entry in entries})
        raise Refusal(f"Layout `imagenet` found no training image. It needs these files:\n{lost}")
    synsets = _synsets(entries, text_of)
    flat = {path: int(match[2]) for path, (_, wnid, _) in found.items() if not wnid and (match := FLAT.search(path))}
    truth = _truth(entries, text_of, synsets, flat) if flat else {}
    labels = {wnid: label for label, wnid in enumerate(wnids)}
    images = [
        Image(path, split, labels[known], entry)
        for path, (split, wnid, entry) in found.items()
        if (known := wnid or truth[path]) in labels
    ]
    if len(images) < len(found):
        skipped["validation images of classes that train lacks"] = len(found) - len(images)
    words = dict(synsets.values())
    said = [f"{number} {why}" for why, number in sorted(skipped.items())]
    if not any(image.split == "val" for image in images):
        said.append("the official validation part: none of its images is there, so some of train will be held out")
    return Layout(distinct([words.get(wnid, wnid) for wnid in wnids], wnids), images, [], said)


def _images(entries: Sequence[Entry]) -> tuple[dict[str, tuple[str, str, Entry]], Counter[str]]:
    """({path inside the set: (split, wnid or nothing, entry)}, what is no labelled image). Raises Refusal for one found twice."""
    found: dict[str, tuple[str, str, Entry]] = {}
    skipped: Counter[str] = Counter()
    for entry in entries:
        path, split, wnid = _place(entry.member)
        if path in found:
            both = f"{found[path][2].member} and {entry.member}"
            raise Refusal(f"{path} is there twice: {both}. Keep the archive or the unpacked folder.")
        if path:
            found[path] = split, wnid, entry
        elif TEST.search(entry.member):
            skipped["test images, which have no labels"] += 1
        elif not entry.is_folder and not entry.member.lower().endswith(TEXTS):
            skipped["files that are no part of the layout"] += 1
    return found, skipped


def _place(member: str) -> tuple[str, str, str]:
    """(path inside the set, split, wnid): no wnid for a flat validation image, no path for what is no labelled image."""
    if match := IN_CLASS.search(member):
        split = "val" if HELD_OUT.search(member[: match.start(1)]) else "train"
        return f"{split}/{match[1]}/{match[2]}", split, match[1]
    match = FLAT.search(member)
    return (f"val/{match[1]}", "val", "") if match else ("", "", "")


def _synsets(entries: Sequence[Entry], text_of: Callable[[Entry], bytes]) -> dict[int, tuple[str, str]]:
    """ILSVRC2012_ID -> (wnid, first synonym) of the classes, which are the leaves of meta.mat; empty without a devkit."""
    entry = _one(entries, META)
    if not entry:
        return {}
    fields = ("ILSVRC2012_ID", "WNID", "words", "num_children")
    rows = matlab.records(text_of(entry), entry.member, "synsets", fields)
    leaves = [(number, wnid, words) for number, wnid, words, children in rows if children == 0]
    good = all(
        type(number) is int and isinstance(wnid, str) and isinstance(words, str) for number, wnid, words in leaves
    )
    synsets = {number: (wnid, words.split(",")[0].strip() or wnid) for number, wnid, words in leaves} if good else {}
    if not good or len(synsets) < len(leaves) or len({wnid for wnid, _ in synsets.values()}) < len(leaves):
        raise Refusal(f"{entry.member} gives an ILSVRC2012_ID or a WNID twice or not at all. Get it again.")
    return synsets


def _truth(
    entries: Sequence[Entry],
    text_of: Callable[[Entry], bytes],
    synsets: dict[int, tuple[str, str]],
    numbers: dict[str, int],
) -> dict[str, str]:
    """Path -> wnid of flat validation images, given as path -> number; line n of the ground truth is image n. Raises Refusal."""
    entry = _one(entries, TRUTH)
    if not entry or not synsets:
        raise Refusal(
            f"The {len(numbers)} validation images lie in no class folders, so their classes come from the devkit, and that "
            f"is not there whole:\n  {official.described(DEVKIT)}"
        )
    lines = text_of(entry).decode("ascii", "replace").split()
    every = range(1, len(lines) + 1)
    lost = [f"ILSVRC2012_val_{number:08d}.JPEG" for number in sorted(set(every) - set(numbers.values()))]
    if lost or any(number not in every for number in numbers.values()):
        raise Refusal(
            f"{entry.member} has {len(lines)} lines for {len(numbers)} validation images; without an image: "
            f"{some(lost) or 'none'}. Get the validation images and the devkit of one release."
        )
    known = {str(number): wnid for number, (wnid, _) in synsets.items()}
    strange = sorted({line for line in lines if line not in known})
    if strange:
        raise Refusal(f"{entry.member} has lines that are no ILSVRC2012_ID of a class in meta.mat: {some(strange)}.")
    return {path: known[lines[number - 1]] for path, number in numbers.items()}


def _one(entries: Sequence[Entry], name: str) -> Entry | None:
    """The file of the devkit with this name, or None. Raises Refusal where there are several."""
    found = [entry for entry in entries if entry.member.lower().rpartition("/")[2] == name]
    if len(found) > 1:
        raise Refusal(f"{found[0].member} and {found[1].member} are both there. Keep one devkit.")
    return found[0] if found else None
