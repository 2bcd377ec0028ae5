"""Layout `tiny-imagenet`: wnids.txt, words.txt, train/<wnid>/images/*, val/images/* with val_annotations.txt; test/ has
no labels.

wnids.txt chooses the classes: a shorter list makes a smaller set. Labels are places in the sorted list of wnids, as
torchvision's ImageFolder would give them on train/.
"""

from collections import Counter
from collections.abc import Callable, Sequence

from stages.lib.core.outcome import Refusal
from stages.lib.ingestion.class_names import distinct
from stages.lib.ingestion.layout import Image, Layout, some, unwrapped
from stages.lib.ingestion.listing import Entry

TEXTS = (".txt",)


def read(entries: Sequence[Entry], text_of: Callable[[Entry], bytes]) -> Layout:
    """text_of: reads one of the text files. Raises Refusal where the layout is another."""
    paths = dict(unwrapped(entries, _wrapper(entries)))

    def words_in(name: str) -> str:
        return text_of(paths[name]).decode(errors="replace") if name in paths else ""

    wnids = sorted(set(words_in("wnids.txt").split()))
    labels = {wnid: label for label, wnid in enumerate(wnids)}
    annotated = _table(words_in("val/val_annotations.txt"))
    images: list[Image] = []
    rejected: list[tuple[str, str]] = []
    skipped: Counter[str] = Counter()
    for path, entry in paths.items():
        wnid, split = _place(path, annotated)
        if not split:
            skipped[_why(path)] += not entry.is_folder
        elif not wnid:
            rejected.append((entry.member, "is not in val_annotations.txt"))
        elif wnid not in labels:
            skipped[f"{split} images of classes that wnids.txt does not name"] += 1
        else:
            images.append(Image(path, split, labels[wnid], entry))
    _complete(images, wnids, annotated)
    words = _table(words_in("words.txt"))
    said = [f"{number} {why}" for why, number in sorted(skipped.items()) if why and number]
    return Layout(_names(wnids, words), images, rejected, said)


def _wrapper(entries: Sequence[Entry]) -> str:
    """The folder wnids.txt lies in: none, or one. Raises Refusal where there is no such file."""
    tops = [entry.member.removesuffix("wnids.txt") for entry in entries if entry.member.split("/")[-1] == "wnids.txt"]
    if len(tops) != 1 or tops[0].count("/") > 1:
        raise Refusal(
            "Layout `tiny-imagenet` needs one wnids.txt at the top, which names the classes; found "
            f"{some([top + 'wnids.txt' for top in tops]) or 'none'}. If images lie in class folders, take layout: folder."
        )
    return tops[0].removesuffix("/")


def _place(path: str, annotated: dict[str, str]) -> tuple[str, str]:
    """(wnid or nothing, split); two empty strings for what is no labelled image."""
    parts = path.split("/")
    if len(parts) == 4 and parts[0] == "train" and parts[2] == "images" and parts[3]:
        return parts[1], "train"
    if len(parts) == 3 and parts[:2] == ["val", "images"] and parts[2]:
        return annotated.get(parts[2], ""), "val"
    return "", ""


def _why(path: str) -> str:
    """What is said of a file that is no labelled image; nothing for the texts of the layout."""
    if path in ("wnids.txt", "words.txt", "val/val_annotations.txt") or path.endswith("_boxes.txt"):
        return ""
    return (
        "files under test/, which has no labels" if path.startswith("test/") else "files that are no part of the layout"
    )


def _complete(images: Sequence[Image], wnids: Sequence[str], annotated: dict[str, str]) -> None:
    """Raises Refusal where a class has no training image, or a labelled validation image is not there."""
    trained = {image.label for image in images if image.split == "train"}
    empty = [wnid for label, wnid in enumerate(wnids) if label not in trained]
    if empty or not wnids:
        raise Refusal(
            f"wnids.txt names {len(wnids)} classes; without an image under train/<wnid>/images/: {some(empty) or 'all'}."
        )
    there = {image.path.rpartition("/")[2] for image in images if image.split == "val"}
    chosen = set(wnids)
    lost = sorted(name for name, wnid in annotated.items() if wnid in chosen and name not in there)
    if lost:
        raise Refusal(f"val_annotations.txt names {len(lost)} images that are not in val/images: {some(lost)}.")


def _table(text: str) -> dict[str, str]:
    """First column -> second, of tab-separated lines."""
    rows = [line.split("\t") for line in text.splitlines() if line.strip()]
    return {row[0].strip(): row[1].strip() for row in rows if len(row) > 1}


def _names(wnids: Sequence[str], words: dict[str, str]) -> tuple[str, ...]:
    """First synonym of each class; where two classes share it (ImageNet has two cranes), the wnid stands behind."""
    first = [words.get(wnid, wnid).split(",")[0].strip() or wnid for wnid in wnids]
    return distinct(first, wnids)
