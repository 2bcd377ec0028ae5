"""Official archives through the real stages: every image of them, with its label, split and class name, is in the shards."""

import hashlib
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from stages import check as stages_check
from stages import scan as stages_scan
from stages.lib.core.outcome import Refusal
from stages.lib.data.decode import decode
from stages.lib.data.shards import ShardReader
from tests.ingestion import official
from tests.ingestion.official import Truth
from tests.ingestion.raw_project import RawProject, raw_project

__all__ = ["raw_project"]
SETS: dict[str, tuple[str, Callable[[Path], list[Truth]]]] = {
    "imagenet": ("imagenet", official.imagenet),
    "cifar-10": ("cifar", official.cifar10),
    "cifar-100": ("cifar", official.cifar100),
    "flowers": ("flowers-102", official.flowers),
    "cars": ("stanford-cars", official.cars),
    "inaturalist": ("inaturalist", official.inaturalist),
    "hub": ("hub", official.hub),
    "webdataset": ("webdataset", official.webdataset_tars),
}
Sample = tuple[str, int, str, bytes]


def placed(project: RawProject, kind: str) -> list[Truth]:
    layout, write = SETS[kind]
    folder = project.raw / "things"
    folder.mkdir(parents=True)
    project.params("sources", things={"layout": layout, "path": "things"})
    project.params("shard", images_per_shard=16)
    return write(folder)


def in_shards(project: RawProject) -> Counter[Sample]:
    """(split, label, class name, pixels) of every image, as training reads them; a validation split that we cut is train."""
    carved = {row["split"] for row in project.table("index")} == {"train", "val", "test"}
    found: Counter[Sample] = Counter()
    for split in {row["split"] for row in project.table("index")}:
        index = project.index(split)
        reader = ShardReader(index, project.shards)
        for row, label in enumerate(index.labels.tolist()):
            shown = "train" if split == "val" and carved else split
            found[shown, label, index.classes[label], pixels(reader.read(row))] += 1
    return found


def pixels(data: bytes) -> bytes:
    return np.asarray(decode(data)).tobytes()


@pytest.mark.parametrize("kind", SETS)
def test_formats__every_image_of_an_official_set_is_in_the_shards(raw_project: RawProject, kind: str) -> None:
    truth = placed(raw_project, kind)
    first = raw_project.run("scan", "ingest", "shard").outputs()
    splits = {one.split for one in truth}
    carved = "val" not in splits
    expected = Counter((one.split or "train", one.label, one.class_name, pixels(one.data)) for one in truth)
    found = in_shards(raw_project)
    if carved and "test" not in splits:  # one split became two
        found = Counter({("train", *sample[1:]): count for sample, count in found.items()})
    assert found == expected
    assert raw_project.run("ingest", "shard").outputs() == first


@pytest.mark.parametrize("kind", ["imagenet", "cifar-10"])
def test_formats__processes_change_nothing(raw_project: RawProject, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    placed(raw_project, kind)
    first = raw_project.run("scan", "ingest", "shard").outputs()
    monkeypatch.setattr("stages.lib.ingestion.parallel.SMALL", 0)
    monkeypatch.setattr("stages.lib.ingestion.findings.TOGETHER", 7)
    raw_project.params("system", processes=2)
    assert raw_project.run("ingest", "shard").outputs() == first


def test_formats__nested_tars_are_read_by_place(raw_project: RawProject) -> None:
    """ImageNet's images are found in the outermost file, and nothing is unpacked."""
    placed(raw_project, "imagenet")
    rows = raw_project.run("scan", "ingest").table("manifest")
    train = [row for row in rows if row["container"] == "ILSVRC2012_img_train.tar"]
    whole = (raw_project.raw / "things/ILSVRC2012_img_train.tar").read_bytes()
    assert train and all(row["offset"] > 0 for row in train)
    for row in train:
        payload = whole[row["offset"] : row["offset"] + row["bytes"]]
        assert hashlib.sha256(payload).hexdigest() == row["sha256"]


def test_formats__a_wrong_layout_says_what_it_needs(raw_project: RawProject) -> None:
    placed(raw_project, "flowers")
    raw_project.params("sources", things={"layout": "stanford-cars", "path": "things"})
    with pytest.raises(Refusal, match=r"stanford-cars.*\n.*cars_train\.tgz"):
        raw_project.run("scan", "ingest")


def test_check__a_listed_set_that_is_not_there_is_refused_before_anything_is_spent(
    raw_project: RawProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the names and sizes of its files; not where a scan of it is remembered, as on a worker without raw images."""

    def check() -> None:
        with monkeypatch.context() as patch:
            patch.chdir(raw_project.folder)
            patch.setattr(sys, "argv", ["check", "--dry"])
            stages_check.main()

    raw_project.params("sets", transfer=["things"])
    raw_project.values["sources"].pop("digits-7-9")
    raw_project.params("sources", things={"layout": "flowers-102", "path": "things"})
    with pytest.raises(
        Refusal, match=r"(?s)sources\.things: there is nothing at .*102flowers\.tgz \(344,862,509 bytes"
    ):
        check()
    official.flowers(raw_project.tree({}))
    raw_project.params("sources", things={"layout": "flowers-102", "path": "things"})
    with pytest.raises(Refusal, match=r"102flowers\.tgz .*instead of|instead of 344,862,509"):
        check()  # the miniature is too small to be whole
    raw_project.run("scan")
    check()


def test_available__proposes_entries_and_says_what_is_missing(
    raw_project: RawProject, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = raw_project.raw / "my-flowers"
    folder.mkdir(parents=True)
    (folder / "setid.mat").write_bytes(b"x" * 14_989)
    (raw_project.raw / "holiday").mkdir()
    with monkeypatch.context() as patch:
        patch.chdir(raw_project.folder)
        patch.setattr(sys, "argv", ["scan", "available"])
        stages_scan.main()
    said = capsys.readouterr().out
    assert "my-flowers: {layout: flowers-102, path: my-flowers}" in said
    assert "not there: 102flowers.tgz (344,862,509 bytes" in said and "not there: setid.mat" not in said
    assert "holiday" not in said
