"""Layout `folder`: <class>/* or <split>/<class>/*; labels count class names in sorted order, as torchvision."""

from collections import defaultdict
from collections.abc import Sequence

from stages.lib.core.outcome import Refusal
from stages.lib.ingestion.layout import SPLITS, Image, Layout, some, tops, unwrapped
from stages.lib.ingestion.listing import Entry

NO_IMAGES = {
    ".txt",
    ".csv",
    ".tsv",
    ".json",
    ".xml",
    ".yaml",
    ".yml",
    ".md",
    ".html",
    ".mat",
    ".npy",
    ".npz",
    ".py",
    ".sh",
}
"""Files with these endings describe images; they are passed over and said. Any other file is decoded, whatever its name."""


def read(entries: Sequence[Entry]) -> Layout:
    """Raises Refusal where the folders do not say which class an image has."""
    paths = unwrapped(entries, _wrapper(entries))
    top = {path.partition("/")[0] for path, _ in paths if "/" in path}
    depth = 1 if _are_splits(top) else 0
    classes: set[str] = set()
    empty: list[str] = []
    strays: list[str] = []
    others: list[str] = []
    found: list[tuple[str, str, str, Entry]] = []
    for path, entry in paths:
        parts = path.split("/")
        if entry.is_folder:
            empty += [path] if len(parts) == depth + 2 else []
        elif _ending(parts[-1]) in NO_IMAGES:
            others.append(entry.member)
        elif len(parts) < depth + 2:
            strays.append(entry.member)
        else:
            found.append((path, SPLITS[parts[0].lower()] if depth else "", parts[depth], entry))
            classes.add(parts[depth])
    if empty:
        raise Refusal(
            f"{len(empty)} class folders are empty: {some(empty)}. Fill them, or remove them if those classes are not meant."
        )
    if not found:
        raise Refusal(
            "There is no image in a class folder. Layout `folder` is <class>/<image> or <split>/<class>/<image> "
            f"with splits train, val and test; here are {some(strays) or 'no files'}."
        )
    labels = {name: label for label, name in enumerate(sorted(classes))}
    _same_classes(found)
    return Layout(
        tuple(labels),
        [Image(path, split, labels[name], entry) for path, split, name, entry in found],
        [(member, "lies in no class folder") for member in strays],
        [f"{len(others)} files that describe images ({some(others)})"] if others else [],
    )


def _wrapper(entries: Sequence[Entry]) -> str:
    """The one folder everything lies in, unless it is a split or a class: then images lie right inside."""
    top = tops(entries)
    only = next(iter(top)) if len(top) == 1 else ""
    deep = all(entry.member.count("/") >= 2 for entry in entries if _ending(entry.member) not in NO_IMAGES)
    return only if only and deep and only.lower() not in SPLITS else ""


def _are_splits(top: set[str]) -> bool:
    """Whether the folders at the top are splits. Raises Refusal where only some are."""
    splits = {name for name in top if name.lower() in SPLITS}
    if not splits:
        return False
    others = sorted(top - splits)
    if "train" in {name.lower() for name in splits} and not others:
        twice = len({SPLITS[name.lower()] for name in splits}) < len(splits)
        if twice:
            raise Refusal(f"The folders {some(sorted(splits))} name one split twice. Keep one of them.")
        return True
    if len(splits) == 1 and others:
        return False  # a class may be called `train`: it is one of CIFAR-100's
    raise Refusal(
        f"The folders at the top are {some(sorted(top))}: are they splits or classes? "
        "Splits are train, val (or validation) and test, with train among them and nothing else beside; otherwise rename them."
    )


def _same_classes(found: Sequence[tuple[str, str, str, Entry]]) -> None:
    """Raises Refusal where a class is measured that was never trained."""
    splits: dict[str, set[str]] = defaultdict(set)
    for _, split, name, _ in found:
        splits[split].add(name)
    for split, names in splits.items():
        unknown = sorted(names - splits.get("train", names))
        if unknown:
            raise Refusal(
                f"{split} has classes that train lacks: {some(unknown)}. Give train images of them, or remove them."
            )


def _ending(name: str) -> str:
    return f".{name.rpartition('.')[2].lower()}" if "." in name else ""
