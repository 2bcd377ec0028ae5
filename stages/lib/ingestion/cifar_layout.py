"""Layout `cifar`: CIFAR-10 or CIFAR-100 as published for Python, opened by cifar_batches; fine labels, train and test."""

import json
import re
from collections.abc import Callable, Sequence

from stages.lib.core.outcome import Refusal
from stages.lib.ingestion import official
from stages.lib.ingestion.class_names import distinct
from stages.lib.ingestion.layout import Image, Layout, some
from stages.lib.ingestion.listing import Entry
from stages.lib.ingestion.official import Needed

TEXTS = ("batches.meta.json",)
HOST = "https://www.cs.toronto.edu/~kriz/"
CIFAR10 = (
    Needed(
        "cifar-10-python.tar.gz", 170_498_071, "c58f30108f718f92721af3b95e74349a",
        "CIFAR-10, python version", f"{HOST}cifar-10-python.tar.gz",
    ),
)  # fmt: skip
CIFAR100 = (
    Needed(
        "cifar-100-python.tar.gz", 169_001_437, "eb9058c3a382ffc7106e4002c42a8d85",
        "CIFAR-100, python version", f"{HOST}cifar-100-python.tar.gz",
    ),
)  # fmt: skip
NEEDED = CIFAR10 + CIFAR100
"""Either of them; a source holds one."""

IMAGE = re.compile(r"(?:^|/)((data_batch_[1-5]|test_batch|train|test)/(\d{1,2})/\d{5}-[^/]*\.png)$")
TRAIN, TEST = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5"), "test_batch"


def read(entries: Sequence[Entry], text_of: Callable[[Entry], bytes]) -> Layout:
    """Raises Refusal where a batch or the class names are missing."""
    names = _names(entries, text_of)
    images: list[Image] = []
    batches: set[str] = set()
    others = 0
    for entry in entries:
        match = IMAGE.search(entry.member)
        if not match:
            others += not entry.member.endswith(TEXTS) and not entry.is_folder
            continue
        path, batch, label = match[1], match[2], int(match[3])
        batches.add(batch)
        if label >= len(names):
            raise Refusal(
                f"{entry.member} has label {label}, and the set names {len(names)} classes: files of two sets?"
            )
        images.append(Image(path, "test" if batch in ("test", TEST) else "train", label, entry))
    _complete(batches)
    said = [f"{others} files that are no batches"] if others else []
    return Layout(distinct(names, [str(label) for label in range(len(names))]), images, [], said)


def _names(entries: Sequence[Entry], text_of: Callable[[Entry], bytes]) -> list[str]:
    metas = [entry for entry in entries if entry.member.endswith(TEXTS)]
    if len(metas) != 1:
        found = some([entry.member for entry in metas]) or "none"
        present = {entry.member: entry.bytes for entry in entries}
        raise Refusal(
            f"Layout `cifar` reads one set, with one batches.meta (CIFAR-10) or meta (CIFAR-100); found {found}. "
            f"Put one of these into the folder, alone, as downloaded or unpacked:\n{official.missing(NEEDED, present)}"
        )
    names: list[str] = json.loads(text_of(metas[0]))["label_names"]
    return names


def _complete(batches: set[str]) -> None:
    """Raises Refusal where a batch is not there: nobody should train on four fifths of a set without a word."""
    wanted = {"train", "test"} if batches & {"train", "test"} else {*TRAIN, TEST}
    if batches != wanted:
        lost, strange = some(sorted(wanted - batches)), some(sorted(batches - wanted))
        raise Refusal(
            f"CIFAR's batches are not those of one set: {lost or 'none'} missing, {strange or 'none'} too many. "
            "Take the archive as it was downloaded."
        )
