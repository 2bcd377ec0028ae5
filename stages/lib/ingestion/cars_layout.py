"""Layout `stanford-cars`: cars_train.tgz and cars_test.tgz (or unpacked), devkit/ and cars_test_annos_withlabels.mat.

Labels are those of the annotations less 1; names stand in devkit/cars_meta.mat.
"""

import re
from collections.abc import Callable, Sequence

from stages.lib.core.outcome import Refusal
from stages.lib.ingestion import matlab, official
from stages.lib.ingestion.class_names import distinct
from stages.lib.ingestion.layout import Image, Layout, some
from stages.lib.ingestion.listing import Entry
from stages.lib.ingestion.official import Needed

META, TRAIN, TEST = "cars_meta.mat", "cars_train_annos.mat", "cars_test_annos_withlabels.mat"
TEXTS = (META, TRAIN, TEST)
GONE = "its official host no longer answers, so ask who has it"
TEST_LABELS = Needed(TEST, 185_758, "b0a2b23655a3edd16d84508592a98d10", f"labels of the test images ({GONE})", "")
NEEDED = (
    Needed(
        "cars_train.tgz", 979_269_282, "065e5b463ae28d29e77c1b4b166cfe61",
        f"8,144 training images ({GONE}); unpacked: cars_train/*.jpg", "",
    ),
    Needed(
        "cars_test.tgz", 977_350_468, "4ce7ebf6a94d07f1952d94dd34c4d501",
        f"8,041 test images ({GONE}); unpacked: cars_test/*.jpg", "",
    ),
    Needed(
        "car_devkit.tgz", 330_960, "c3b158d763b6e2245038c8ad08e45376",
        f"class names and labels of the training images ({GONE}); unpacked: devkit/*.mat", "",
    ),
    TEST_LABELS,
)  # fmt: skip

IMAGE = re.compile(r"(?:^|/)(cars_train|cars_test)/([^/]+\.jpg)$")


def read(entries: Sequence[Entry], text_of: Callable[[Entry], bytes]) -> Layout:
    """Raises Refusal where a file is missing, or images and annotations do not fit each other."""
    files = {entry.member.rpartition("/")[2]: entry for entry in entries if entry.member.endswith(TEXTS)}
    parts = _images(entries)
    if not parts["cars_train"] or META not in files or TRAIN not in files:
        present = {entry.member: entry.bytes for entry in entries}
        raise Refusal(
            f"Layout `stanford-cars` needs at least training images and devkit:\n{official.missing(NEEDED, present)}"
        )
    if parts["cars_test"] and TEST not in files:
        raise Refusal(f"The test images are there, and their labels are not:\n  {official.described(TEST_LABELS)}")
    names = matlab.texts(text_of(files[META]), files[META].member, "class_names")
    images: list[Image] = []
    rejected: list[tuple[str, str]] = []
    for part, split, annotations in (("cars_train", "train", TRAIN), ("cars_test", "test", TEST)):
        if annotations in files:
            labels = _labels(text_of(files[annotations]), files[annotations].member, len(names), set(parts[part]))
            rejected += [
                (entry.member, f"is not in {annotations}") for name, entry in parts[part].items() if name not in labels
            ]
            images += [Image(f"{part}/{name}", split, label, parts[part][name]) for name, label in labels.items()]
    return Layout(distinct(names, [str(label) for label in range(len(names))]), images, rejected, _said(entries, parts))


def _images(entries: Sequence[Entry]) -> dict[str, dict[str, Entry]]:
    """Part -> file name -> entry. Raises Refusal where an image is there twice."""
    parts: dict[str, dict[str, Entry]] = {"cars_train": {}, "cars_test": {}}
    for entry in entries:
        if match := IMAGE.search(entry.member):
            first = parts[match[1]].setdefault(match[2], entry)
            if first is not entry:
                raise Refusal(
                    f"{match[1]}/{match[2]} is there twice: {first.member} and {entry.member}. "
                    "Keep the archive or the unpacked folder."
                )
    return parts


def _labels(data: bytes, member: str, classes: int, there: set[str]) -> dict[str, int]:
    """File name -> label from 0. Raises Refusal where it names an image that is not there, or a class without a name."""
    rows = matlab.records(data, member, "annotations", ("fname", "class"))
    if not all(isinstance(name, str) for name, _ in rows) or len({name for name, _ in rows}) < len(rows):
        raise Refusal(f"{member} names an image twice or not at all. Get it again.")
    wrong = [label for _, label in rows if type(label) is not int or not 1 <= label <= classes]
    if wrong:
        raise Refusal(f"{member} has the class {wrong[0]!r}; cars_meta.mat names 1 to {classes}. Get both again.")
    lost = sorted(name for name, _ in rows if name not in there)
    if lost:
        raise Refusal(f"{member} names {len(lost)} images that are not there: {some(lost)}. Get the images again.")
    return {name: label - 1 for name, label in rows}


def _said(entries: Sequence[Entry], parts: dict[str, dict[str, Entry]]) -> list[str]:
    texts = sum(entry.member.endswith(TEXTS) or entry.is_folder for entry in entries)
    others = len(entries) - sum(map(len, parts.values())) - texts
    said = [f"{others} files that are no images, labels or names"] if others else []
    if not parts["cars_test"]:
        said.append("the official test part: none of its images is there, so nothing is measured on them")
    return said
