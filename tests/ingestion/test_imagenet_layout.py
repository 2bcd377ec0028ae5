"""ImageNet's official structure: labels by sorted wnids, validation through the devkit's own ids, every way of unpacking."""

import io
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from stages.lib.core.outcome import Refusal
from stages.lib.ingestion import imagenet_layout
from stages.lib.ingestion.listing import Entry
from stages.lib.ingestion.probe import Facts, probe
from tests.ingestion import official
from tests.ingestion.official import SYNSETS, Truth, expanded, told
from tests.ingestion.raw_project import folder_of

TRAIN, VAL = official.imagenet_images()
DEVKIT = official.devkit_files([number for number, _ in VAL])
WNID_OF = {number: wnid for number, wnid, _ in SYNSETS}


def read(folder: Path) -> tuple[list[Truth], imagenet_layout.Layout]:
    entries, text_of = expanded(folder)
    layout = imagenet_layout.read(entries, text_of)
    return told(layout, text_of), layout


def files(train: str, val: str, devkit: bool = True) -> dict[str, bytes]:
    """Unpacked: train and val are paths with {wnid} and {number} in them."""
    found = {
        train.format(wnid=wnid, number=f"{10026 + place}"): data
        for wnid, images in TRAIN.items()
        for place, data in enumerate(images)
    }
    found |= {
        val.format(wnid=WNID_OF[number], number=f"{place:08d}"): data
        for place, (number, data) in enumerate(VAL, start=1)
    }
    return found | {name: data for name, data in DEVKIT.items() if devkit and not name.endswith("/")}


def test_archives__as_downloaded(tmp_path: Path) -> None:
    truth = official.imagenet(tmp_path)
    found, layout = read(tmp_path)
    assert found == truth and len(found) == 16 + 8
    assert layout.classes == ("tench", "crane (n02012849)", "kit fox", "crane (n03126707)")
    assert layout.skipped == ["1 files that are no part of the layout"]  # the devkit's readme
    assert layout.rejected == []
    assert {image.path for image in layout.images if image.split == "val"} == {
        f"val/ILSVRC2012_val_{n:08d}.JPEG" for n in range(1, 9)
    }


def test_archives__the_devkits_ids_are_no_labels(tmp_path: Path) -> None:
    """Negative control: reading the ground truth as labels, less 1 or not, gives another answer than the right one here."""
    official.imagenet(tmp_path)
    entries, text_of = expanded(tmp_path)
    label_of = {text_of(image.entry): image.label for image in imagenet_layout.read(entries, text_of).images}
    right = [label_of[data] for _, data in VAL[:4]]
    assert right == [3, 0, 2, 1]  # IDs 1 to 4: n03126707, n01440764, n02119789, n02012849
    assert right != [number - 1 for number, _ in VAL[:4]]


def test_archives__odd_images_decode_as_training_will(tmp_path: Path) -> None:
    """The ending says JPEG; format, colour mode and EXIF are what the content says."""
    official.imagenet(tmp_path)
    entries, text_of = expanded(tmp_path)
    facts = [probe(text_of(image.entry)) for image in imagenet_layout.read(entries, text_of).images]
    assert not [fact for fact in facts if isinstance(fact, str)]
    kinds = Counter((fact.format, fact.mode, fact.exif) for fact in facts if isinstance(fact, Facts))
    assert kinds == {
        ("JPEG", "RGB", 1): 20,
        ("PNG", "RGB", 1): 1,
        ("JPEG", "CMYK", 1): 1,
        ("JPEG", "RGB", 6): 1,
        ("JPEG", "L", 1): 1,
    }


def test_folders__without_validation_images_that_is_said(tmp_path: Path) -> None:
    content = files("train/{wnid}/{number}.JPEG", "val/{wnid}/{number}.JPEG", devkit=False)
    folder_of(tmp_path, {name: data for name, data in content.items() if name.startswith("train")})
    found, layout = read(tmp_path)
    assert {one.split for one in found} == {"train"}
    assert layout.skipped == [
        "the official validation part: none of its images is there, so some of train will be held out"
    ]


@pytest.mark.parametrize(
    ("train", "val", "devkit"),
    [
        ("train/{wnid}/{wnid}_{number}.JPEG", "val/ILSVRC2012_val_{number}.JPEG", True),
        ("train/{wnid}/{wnid}_{number}.JPEG", "val/{wnid}/ILSVRC2012_val_{number}.JPEG", True),
        (
            "ILSVRC/Data/CLS-LOC/train/{wnid}/{wnid}_{number}.JPEG",
            "ILSVRC/Data/CLS-LOC/val/ILSVRC2012_val_{number}.JPEG",
            True,
        ),
        ("{wnid}/{wnid}_{number}.JPEG", "validation/{wnid}/ILSVRC2012_val_{number}.JPEG", True),
    ],
)
def test_folders__give_the_same_labels(tmp_path: Path, train: str, val: str, devkit: bool) -> None:
    folder_of(tmp_path, files(train, val, devkit))
    assert read(tmp_path)[0] == official.imagenet_truth(TRAIN, VAL)


def test_folders__without_a_devkit_classes_are_wnids(tmp_path: Path) -> None:
    folder_of(tmp_path, files("train/{wnid}/{number}.JPEG", "val/{wnid}/{number}.JPEG", devkit=False))
    found, layout = read(tmp_path)
    assert layout.classes == tuple(sorted(TRAIN))
    assert [one[:2] for one in found] == [one[:2] for one in official.imagenet_truth(TRAIN, VAL)]


def test_read__says_what_it_leaves_out(tmp_path: Path) -> None:
    content = files("train/{wnid}/{number}.JPEG", "val/ILSVRC2012_val_{number}.JPEG")
    kept = {name: data for name, data in content.items() if not name.startswith("train/n02119789")}
    folder_of(tmp_path, {**kept, "test/ILSVRC2012_test_00000001.JPEG": b"x"})
    found, layout = read(tmp_path)
    assert layout.classes == ("tench", "crane (n02012849)", "crane (n03126707)")
    assert {one.label for one in found if one.split == "val"} == {0, 1, 2}
    assert layout.skipped == [
        "1 files that are no part of the layout",
        "1 test images, which have no labels",
        "2 validation images of classes that train lacks",
    ]


def without(*endings: str) -> Callable[[dict[str, bytes]], dict[str, bytes]]:
    return lambda content: {name: data for name, data in content.items() if not name.endswith(endings)}


def truth_of(text: bytes) -> Callable[[dict[str, bytes]], dict[str, bytes]]:
    return lambda content: {name: text if name.endswith("truth.txt") else data for name, data in content.items()}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            without("ground_truth.txt"),
            r"not there whole:\n  ILSVRC2012_devkit_t12.tar.gz \(md5 fa75699e90414af021442c21a62c3abf\)",
        ),
        (without("meta.mat"), "ILSVRC2012_devkit_t12.tar.gz"),
        (
            without("val_00000003.JPEG"),
            "8 lines for 7 validation images; without an image: ILSVRC2012_val_00000003.JPEG",
        ),
        (truth_of(b"1\n2\n"), "2 lines for 8 validation images; without an image: none"),
        (truth_of(b"1\n2\n3\n4\n5\n2\n3\n4\n"), "no ILSVRC2012_ID of a class in meta.mat: 5"),
        (truth_of(b"1\n2\nx\n4\n1\n2\n3\n4\n"), "meta.mat: x"),
        (
            lambda _: {"val/ILSVRC2012_val_00000001.JPEG": b"x"},
            r"found no training image.*\n.*ILSVRC2012_img_train.tar \(147,897,477,120",
        ),
        (
            lambda content: {**content, "a.tar": official.tar_bytes({"n01440764/10026.JPEG": b"x"})},
            "train/n01440764/10026.JPEG is there twice",
        ),
        (lambda content: {**content, "data/meta.mat": b"x"}, "are both there. Keep one devkit"),
        (
            lambda content: {**content, "ILSVRC2012_devkit_t12/data/meta.mat": b"x" * 500},
            "not the MATLAB file of the official set",
        ),
    ],
)
def test_read__refuses(tmp_path: Path, change: Callable[[dict[str, bytes]], dict[str, bytes]], words: str) -> None:
    folder_of(tmp_path, change(files("train/{wnid}/{number}.JPEG", "val/ILSVRC2012_val_{number}.JPEG")))
    with pytest.raises(Refusal, match=words):
        read(tmp_path)


def test_archives__real_images(shared: Path) -> None:
    """200 real ImageNet files in nested archives: every class's label is the place of its wnid among the sorted."""
    with tarfile.open(shared / "data/imagenet-sample.tar") as tar:
        pictures = {info.name.partition("_")[0]: tar.extractfile(info).read() for info in tar if info.isreg()}  # type: ignore[union-attr]
    wnids = list(pictures)
    tars = {f"{wnid}.tar": official.tar_bytes({f"{wnid}_1.JPEG": pictures[wnid]}) for wnid in reversed(wnids)}
    with tarfile.open(fileobj=io.BytesIO(official.tar_bytes(tars))) as outer:
        entries = [
            Entry(f"ILSVRC2012_img_train.tar/{one.name}/{one.name[:-4]}_1.JPEG", one.size, "0", -1) for one in outer
        ]
    layout = imagenet_layout.read(entries, lambda _: b"")
    assert len(layout.classes) == 200 and layout.classes == tuple(sorted(wnids))
    assert all(layout.classes[image.label] in image.entry.member for image in layout.images)
