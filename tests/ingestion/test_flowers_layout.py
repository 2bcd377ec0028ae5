"""Flowers-102: trnid and valid train, tstid tests; images, labels and splits have to fit each other."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import loadmat

from stages.lib.core.outcome import Refusal
from stages.lib.ingestion import flowers_layout
from stages.lib.ingestion.layout import Layout
from stages.lib.ingestion.listing import Entry
from tests.ingestion import official
from tests.ingestion.official import expanded, jpeg, mat_bytes, tar_bytes, told
from tests.ingestion.raw_project import folder_of


def read(folder: Path) -> Layout:
    return flowers_layout.read(*expanded(folder))


def test_archives__labels_and_splits(tmp_path: Path) -> None:
    truth = official.flowers(tmp_path)
    entries, text_of = expanded(tmp_path)
    layout = flowers_layout.read(entries, text_of)
    assert told(layout, text_of) == truth
    assert layout.classes == official.FLOWERS and layout.skipped == [] and layout.rejected == []
    assert [sum(one.split == split for one in truth) for split in ("train", "test")] == [12, 9]


def test_archives__tstid_is_the_test_part(tmp_path: Path) -> None:
    """Read straight from the file: many exchange trnid and tstid, which would pass a test that only counts splits."""
    official.flowers(tmp_path)
    parts = loadmat(tmp_path / "setid.mat", squeeze_me=True)
    split_of = {int(image.path[6:11]): image.split for image in read(tmp_path).images}
    assert {number for number, split in split_of.items() if split == "test"} == set(parts["tstid"].tolist())
    assert {number for number, split in split_of.items() if split == "train"} == {
        *parts["trnid"].tolist(),
        *parts["valid"].tolist(),
    }


def test_read__official_sizes_give_2040_and_6149() -> None:
    """Label and split files of the published sizes; 8,189 image names."""
    labels = np.arange(8189) % 102 + 1
    order = 1 + np.random.default_rng(0).permutation(8189)
    texts = {
        "imagelabels.mat": mat_bytes(labels=labels.astype(np.uint8)),
        "setid.mat": mat_bytes(trnid=order[:1020], valid=order[1020:2040], tstid=order[2040:]),
    }
    members = [f"102flowers.tgz/jpg/image_{number:05d}.jpg" for number in range(1, 8190)]
    layout = flowers_layout.read(
        [Entry(name, 1, "0", -1) for name in [*members, *texts]], lambda entry: texts[entry.member]
    )
    assert [sum(image.split == split for image in layout.images) for split in ("train", "val", "test")] == [
        2040,
        0,
        6149,
    ]
    assert len(layout.classes) == 102 == len(set(layout.classes))
    assert (layout.classes[0], layout.classes[50], layout.classes[101]) == (
        "pink primrose",
        "petunia",
        "blackberry lily",
    )


def test_folder__unpacked(tmp_path: Path) -> None:
    truth = official.flowers(tmp_path / "in")
    with tarfile.open(tmp_path / "in/102flowers.tgz") as tar:
        tar.extractall(tmp_path / "out", filter="data")
    for name in ("imagelabels.mat", "setid.mat"):
        (tmp_path / "out" / name).write_bytes((tmp_path / "in" / name).read_bytes())
    entries, text_of = expanded(tmp_path / "out")
    assert told(flowers_layout.read(entries, text_of), text_of) == truth


def setid(**parts: Any) -> Callable[[Path], None]:
    """Another setid.mat, from three images a part."""

    def change(folder: Path) -> None:
        base = {"trnid": [1, 2, 3], "valid": [4, 5, 6], "tstid": [7, 8, 9]}
        values = {part: np.array(numbers) for part, numbers in (base | parts).items() if numbers is not None}
        (folder / "setid.mat").write_bytes(mat_bytes(**values))

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda folder: (folder / "setid.mat").unlink(),
            r"not there: setid.mat \(14,989 bytes, md5 a5357ecc9cb78c4bef273ce3793fc85c\): the splits; from https",
        ),
        (lambda folder: (folder / "102flowers.tgz").unlink(), r"not there: 102flowers.tgz \(344,862,509 bytes"),
        (setid(valid=[3, 4]), r"`valid` names images that already have a part: \[3\]"),
        (setid(valid=[4, 4]), "already have a part"),
        (setid(tstid=[7, 22]), "`tstid` names images outside 1 to 21"),
        (setid(trnid=[0]), "`trnid` names images outside"),
        (setid(trnid=[1.5, 2]), "no vector of whole numbers"),
        (setid(trnid="abc"), "no vector of whole numbers"),
        (setid(trnid=None), "there is no variable `trnid` in it"),
        (
            lambda folder: (folder / "setid.mat").write_bytes(b"MATLAB 5.0"),
            "setid.mat is not the MATLAB file of the official set",
        ),
        (
            lambda folder: (folder / "imagelabels.mat").write_bytes(mat_bytes(labels=[0] * 21)),
            "labels outside 1 to 102",
        ),
        (
            lambda folder: (folder / "102flowers.tgz").write_bytes(tar_bytes({"jpg/image_00001.jpg": jpeg(0)}, "w:gz")),
            "20 images that are not there: image_00002.jpg",
        ),
        (lambda folder: folder_of(folder, {"jpg/image_00004.jpg": jpeg(0)}), "image_00004.jpg is there twice"),
    ],
)
def test_read__refuses(tmp_path: Path, change: Callable[[Path], None], words: str) -> None:
    official.flowers(tmp_path)
    change(tmp_path)
    with pytest.raises(Refusal, match=words):
        read(tmp_path)


def test_read__images_in_no_part_are_said(tmp_path: Path) -> None:
    official.flowers(tmp_path)
    setid()(tmp_path)
    assert read(tmp_path).skipped == ["12 files that setid.mat puts in no split"]


def test_helper__its_archive_has_the_published_form(tmp_path: Path) -> None:
    official.flowers(tmp_path)
    with tarfile.open(fileobj=io.BytesIO((tmp_path / "102flowers.tgz").read_bytes())) as tar:
        assert tar.getnames()[:2] == ["jpg", "jpg/image_00001.jpg"]
    assert loadmat(tmp_path / "imagelabels.mat")["labels"].shape == (1, 21)
