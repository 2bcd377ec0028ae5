"""Judge student and fine-tuned model by ReaL labels: every class that an ImageNet validation image shows (Beyer et al. 2020).

in    data/real/<set>.json                                its publishers' real.json: list n is of ILSVRC2012_val_<n>, from 1 on
      data/predictions/{student,finetuned}.parquet        of all those images
      data/index/<set>.parquet                            that they were predicted from; its classes are in the order of wnids
out   data/metrics/real-<set>.json                        top-1 over the images that have a label; torch-free
run   dvc repro -s real@<set>
"""

import json
import logging
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stages.lib.core import files, outcome
from stages.lib.core.outcome import Refusal
from stages.lib.data import chance, predictions, stamp
from stages.lib.data.index import Index, read_index
from stages.lib.data.predictions import Predictions
from stages.lib.training import others

log = logging.getLogger(__name__)
MODELS = ("student", "finetuned")
KEY = re.compile(r"(?:^|/)ILSVRC2012_val_(\d{8})$")
DECIMALS = 4


def main() -> None:
    """Judge, and write. Raises Refusal where labels, predictions and index are not of the same images and classes."""
    (set_name,) = sys.argv[1:2]
    index_path = Path(f"data/index/{set_name}.parquet")
    found = {name: predictions.read(Path(f"data/predictions/{name}.parquet")) for name in MODELS}
    for one in found.values():
        must_be_of(one, index_path)
    predictions.must_share(*found.values())
    classes = classes_of(read_index(index_path, "train"))
    path = Path(f"data/real/{set_name}.json")
    lists = in_order(read_labels(path, classes), found[MODELS[0]], path)
    labelled = np.array([bool(labels) for labels in lists])
    if not labelled.any():
        raise Refusal(f"{path} has no label for any image. Get real.json again.")
    values: dict[str, Any] = {
        "set": set_name,
        "split": found[MODELS[0]].split,
        "images": int(labelled.sum()),
        "unlabelled": int((~labelled).sum()),
    }
    for name, one in found.items():
        heads = {head: top1(answers, lists, labelled) for head, answers in one.heads.items() if head != predictions.OWN}
        values[name] = {"stamp": one.stamp, "heads": heads}
    with files.replace(Path(f"data/metrics/real-{set_name}.json")) as temporary:
        temporary.write_text(json.dumps(values, indent=1) + "\n")
    for name in MODELS:
        said = ", ".join(f"{head} {numbers['top1']:.2f} %" for head, numbers in values[name]["heads"].items())
        log.info(
            "%s by ReaL labels, on %d images (%d have none): %s", name, values["images"], values["unlabelled"], said
        )


def must_be_of(one: Predictions, index: Path) -> None:
    """Raise Refusal where predictions were made from another index: their classes may be numbered otherwise."""
    if not index.is_file():
        raise Refusal(f"There is no index {index}. `dvc repro -s shard@{index.stem}` makes it.")
    theirs = [line for line in one.stamp if line.startswith("index ")]
    if apart := stamp.difference([f"index {files.sha256(index)}"], theirs):
        raise Refusal(
            f"{one.path} was not made from {index}: different {apart}. "
            f"`dvc repro evaluate@{one.path.stem}` measures what is there now."
        )


def classes_of(train: Index) -> int:
    """How many classes there are. Raises Refusal unless label n is the n-th wnid, as ReaL numbers them."""
    wnids = others.wnids(train)
    if len(wnids) < len(train.classes) or sorted(wnids, key=wnids.__getitem__) != sorted(wnids):
        raise Refusal(
            f"{train.path} does not number its classes in the order of their wnids, as ReaL labels do: "
            f"{len(wnids)} of {len(train.classes)} classes have a wnid among their training keys. Read ImageNet with the layout "
            "`imagenet`, or take the set out of sets.real."
        )
    return len(train.classes)


def read_labels(path: Path, classes: int) -> list[frozenset[int]]:
    """A set of labels for every list of the file. Raises Refusal for what is no list of lists of labels 0..classes - 1."""
    if not path.is_file():
        raise Refusal(f"There is no {path}. Put real.json of Beyer et al. 2020 there, or empty sets.real.")
    try:
        lists = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise Refusal(f"{path} is no JSON ({type(error).__name__}: {str(error)[:200]}). Get real.json again.") from None
    if not isinstance(lists, list):
        raise Refusal(f"{path} holds a {type(lists).__name__}, not a list with a list of labels for every image.")
    for number, labels in enumerate(lists, start=1):
        if not isinstance(labels, list) or not all(type(label) is int and 0 <= label < classes for label in labels):
            raise Refusal(
                f"{path}: list {number} is {str(labels)[:100]}; allowed are whole numbers from 0 to {classes - 1}. "
                "Get real.json again, or evaluate on all classes of ImageNet."
            )
    return [frozenset(labels) for labels in lists]


def in_order(lists: Sequence[frozenset[int]], one: Predictions, path: Path) -> list[frozenset[int]]:
    """The labels of each predicted image, in the predictions' order. Raises Refusal unless each image has one list, and each list
    an image."""
    matches = [KEY.search(key) for key in one.keys]
    if None in matches:
        odd = one.keys[matches.index(None)]
        raise Refusal(
            f"{one.path} has {odd!r}, which is no ILSVRC2012_val_<number>: ReaL labels are of ImageNet's validation images alone. "
            "Set evaluate.split to val and keep the files' names, or empty sets.real."
        )
    numbers = [int(match[1]) for match in matches if match]
    if sorted(numbers) != list(range(1, len(lists) + 1)):
        raise Refusal(
            f"{path} has {len(lists):,} lists, and {one.path} {len(numbers):,} images, numbered {min(numbers)} to {max(numbers)}: "
            "each image needs a list, and each list an image. Evaluate on the whole validation part, or get real.json again."
        )
    return [lists[number - 1] for number in numbers]


def top1(answers: np.ndarray, lists: Sequence[frozenset[int]], labelled: np.ndarray) -> dict[str, float]:
    """top1 in percent of the images that are labelled (bool[N]), and its 95 % bootstrap interval.

    An answer (i32[N]) is right if it is among the labels of its image.
    """
    right = np.array([answer in labels for answer, labels in zip(answers.tolist(), lists, strict=True)])[labelled]
    low, high = chance.bootstrap(int(right.sum()), len(right))
    percent = {"top1": 100 * float(right.mean()), "top1_low": low, "top1_high": high}
    return {name: round(value, DECIMALS) for name, value in percent.items()}


if __name__ == "__main__":
    outcome.run("real", main)
