"""Folder and Tiny-ImageNet layouts: labels, splits, what is skipped and what is refused."""

import pytest

from stages.lib.core.outcome import Refusal
from stages.lib.ingestion import folder_layout, tiny_imagenet_layout
from stages.lib.ingestion.layout import Layout
from stages.lib.ingestion.listing import Entry


def entries(*members: str) -> list[Entry]:
    return [Entry(member, 1, "0", -1) for member in sorted(members)]


def folder(*members: str) -> Layout:
    return folder_layout.read(entries(*members))


def told(layout: Layout) -> list[tuple[str, str, int]]:
    return [(image.path, image.split, image.label) for image in layout.images]


def test_folder__classes_are_sorted_names() -> None:
    layout = folder("b/1.png", "a/2.png", "a/deep/er.png", "B/3.png")
    assert layout.classes == ("B", "a", "b")
    assert told(layout) == [("B/3.png", "", 0), ("a/2.png", "", 1), ("a/deep/er.png", "", 1), ("b/1.png", "", 2)]


def test_folder__splits() -> None:
    layout = folder("train/a/1", "train/b/2", "validation/a/3", "Test/b/4")
    assert layout.classes == ("a", "b")
    assert sorted(told(layout)) == [
        ("Test/b/4", "test", 1),
        ("train/a/1", "train", 0),
        ("train/b/2", "train", 1),
        ("validation/a/3", "val", 0),
    ]


def test_folder__train_may_be_a_class() -> None:
    assert folder("train/1", "tractor/2").classes == ("tractor", "train")


def test_folder__one_folder_around_everything_is_no_class() -> None:
    assert told(folder("set-1.0/a/1", "set-1.0/b/2", "set-1.0/readme.txt")) == [("a/1", "", 0), ("b/2", "", 1)]
    assert told(folder("x/train/a/1", "x/val/a/2")) == [("train/a/1", "train", 0), ("val/a/2", "val", 0)]
    assert folder("a/1", "a/2").classes == ("a",)


def test_folder__strays_are_rejected_and_texts_skipped() -> None:
    layout = folder("a/1", "b/2", "stray.png", "labels.csv", "a/about.txt")
    assert layout.rejected == [("stray.png", "lies in no class folder")]
    assert layout.skipped == ["2 files that describe images (a/about.txt, labels.csv)"]


@pytest.mark.parametrize(
    ("members", "words"),
    [
        (["x.png", "y.png"], "no image in a class folder"),
        ([], "no files"),
        (["a/1", "b/"], "1 class folders are empty: b/"),
        (["train/a/1", "train/b/"], "empty: train/b/"),
        (["train/a/1", "val/a/1", "extra/a/1"], "are they splits or classes"),
        (["val/a/1", "test/a/1"], "are they splits or classes"),
        (["train/a/1", "val/a/1", "val/b/2"], "val has classes that train lacks: b"),
        (["train/a/1", "val/a/1", "validation/a/2"], "one split twice"),
    ],
)
def test_folder__refuses(members: list[str], words: str) -> None:
    with pytest.raises(Refusal, match=words):
        folder(*members)


TEXTS = {
    "wnids.txt": "n02\nn01\r\n",
    "words.txt": "n01\tcrane, bird\nn02\tcrane\nn03\tdog\n",
    "val/val_annotations.txt": "v0.JPEG\tn02\t0\t0\t62\t57\nv1.JPEG\tn01\t0\t0\t1\t1\nv9.JPEG\tn77\t0\t0\t1\t1\n",
}
IMAGES = ["train/n01/images/n01_0.JPEG", "train/n02/images/n02_0.JPEG", "val/images/v0.JPEG", "val/images/v1.JPEG"]


def tiny(*members: str, wrap: str = "", texts: dict[str, str] = TEXTS) -> Layout:
    files = [wrap + name for name in [*members, *texts]]
    return tiny_imagenet_layout.read(entries(*files), lambda entry: texts[entry.member.removeprefix(wrap)].encode())


@pytest.mark.parametrize("wrap", ["", "tiny-imagenet-200/"])
def test_tiny__labels_and_names(wrap: str) -> None:
    layout = tiny(*IMAGES, wrap=wrap)
    assert told(layout) == [
        ("train/n01/images/n01_0.JPEG", "train", 0),
        ("train/n02/images/n02_0.JPEG", "train", 1),
        ("val/images/v0.JPEG", "val", 1),
        ("val/images/v1.JPEG", "val", 0),
    ]
    assert layout.classes == ("crane (n01)", "crane (n02)")


def test_tiny__name_is_the_first_synonym_or_the_wnid() -> None:
    texts = {**TEXTS, "words.txt": "n01\tdog, hound\n"}
    assert tiny(*IMAGES, texts=texts).classes == ("dog", "n02")


def test_tiny__says_what_it_skips_and_rejects() -> None:
    layout = tiny(
        *IMAGES,
        "test/images/t.JPEG",
        "train/n03/images/n03_0.JPEG",
        "val/images/v9.JPEG",
        "val/images/new.JPEG",
        "train/n01/n01_boxes.txt",
    )
    assert layout.skipped == [
        "1 files under test/, which has no labels",
        "1 train images of classes that wnids.txt does not name",
        "1 val images of classes that wnids.txt does not name",
    ]
    assert layout.rejected == [("val/images/new.JPEG", "is not in val_annotations.txt")]


def test_tiny__refuses() -> None:
    with pytest.raises(Refusal, match=r"needs one wnids.txt at the top.*none"):
        tiny_imagenet_layout.read(entries(*IMAGES), lambda _: b"")
    with pytest.raises(Refusal, match="without an image under train/<wnid>/images/: n02"):
        tiny(IMAGES[0], *IMAGES[2:])
    with pytest.raises(Refusal, match=r"1 images that are not in val/images: v1\.JPEG"):
        tiny(*IMAGES[:3])
