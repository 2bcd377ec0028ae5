"""Existing webdataset tars, with and without _info.json and class names; our own shards come back as they went in."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import webdataset

from stages.lib.core.outcome import Refusal
from stages.lib.ingestion import webdataset_layout
from stages.lib.ingestion.layout import Layout
from stages.lib.ingestion.listing import Entry
from tests.ingestion import official
from tests.ingestion.official import WDS, expanded, jpeg, tar_bytes, told
from tests.ingestion.raw_project import RawProject, folder_of, png, raw_project

__all__ = ["raw_project"]


def read(folder: Path) -> Layout:
    return webdataset_layout.read(*expanded(folder))


@pytest.mark.parametrize("info", [True, False])
@pytest.mark.parametrize("names", [True, False])
def test_tars__labels_splits_and_names(tmp_path: Path, info: bool, names: bool) -> None:
    truth = official.webdataset_tars(tmp_path, info, names)
    entries, text_of = expanded(tmp_path)
    layout = webdataset_layout.read(entries, text_of)
    assert told(layout, text_of) == truth
    assert layout.classes == (WDS if names else ("0", "1", "2"))
    assert layout.skipped == [] and layout.rejected == []
    paths = {image.path for image in layout.images}
    assert len(paths) == 36 and "things-train-000001/sample/000000.jpg" in paths  # the same key in three tars


def test_tars__webdataset_reads_the_same(tmp_path: Path) -> None:
    """The published library, on the same tars, pairs the same images with the same labels."""
    official.webdataset_tars(tmp_path)
    tars = [str(path) for path in sorted(tmp_path.glob("*train*.tar"))]
    theirs = sorted((sample["jpg"], int(sample["cls"])) for sample in webdataset.WebDataset(tars, shardshuffle=False))
    entries, text_of = expanded(tmp_path)
    layout = webdataset_layout.read(entries, text_of)
    assert sorted((text_of(image.entry), image.label) for image in layout.images if image.split == "train") == theirs


def test_tars__our_own_shards(raw_project: RawProject) -> None:
    raw_project.tree({f"{name}/{place}.png": png(10 * place + len(name)) for name in ("a", "bb") for place in range(8)})
    raw_project.run("scan", "ingest", "shard")
    entries, text_of = expanded(raw_project.shards)
    layout = webdataset_layout.read(entries, text_of)
    ours = sorted(
        (row["split"], row["label"], row["class_name"], row["sha256"]) for row in raw_project.table("manifest")
    )
    assert ours == sorted(
        (one.split, one.label, one.class_name, hashlib.sha256(one.data).hexdigest()) for one in told(layout, text_of)
    )


def test_tars__a_single_one_that_is_the_source() -> None:
    texts = {"a.cls": b"1\n", "b.cls": b"0"}
    entries = [Entry(name, 1, "0", -1) for name in ("a.jpg", "b.JPG", *texts)]
    layout = webdataset_layout.read(entries, lambda entry: texts[entry.member])
    assert sorted((image.path, image.split, image.label) for image in layout.images) == [
        ("a.jpg", "", 1),
        ("b.jpg", "", 0),
    ]


def test_tars__one_json_a_class_is_read(tmp_path: Path) -> None:
    official.webdataset_tars(tmp_path)
    entries, text_of = expanded(tmp_path)
    asked: list[str] = []

    def watched(entry: Entry) -> bytes:
        asked.append(entry.member)
        return text_of(entry)

    webdataset_layout.read(entries, watched)
    assert sum(name.endswith(".cls") for name in asked) == 36
    assert sum(name.endswith(".json") for name in asked) == 3 + 1  # and _info.json


def test_tars__what_is_no_sample_is_rejected_or_said(tmp_path: Path) -> None:
    official.webdataset_tars(tmp_path, info=False)
    odd = {
        "1.jpg": jpeg(1), "2.jpg": jpeg(2), "2.png": png(2), "2.cls": b"0", "3.cls": b"0", "4.jpg": jpeg(4), "4.cls": b"dog",
        "5.txt": b"words", "6.jpg": jpeg(6), "6.cls": b"99999999999",
    }  # fmt: skip
    folder_of(tmp_path, {"odd-train.tar": tar_bytes(odd), "dataset.json": b"{}"})
    layout = read(tmp_path)
    assert dict(layout.rejected) == {
        "odd-train.tar/1.jpg": "has no 1.cls beside it",
        "odd-train.tar/2.jpg": "belongs to a sample with 2 images",
        "odd-train.tar/2.png": "belongs to a sample with 2 images",
        "odd-train.tar/3.cls": "belongs to a sample with 0 images",
        "odd-train.tar/4.jpg": "has a .cls of 'dog', no class number",
        "odd-train.tar/6.jpg": "has a .cls of '99999999999', no class number",
    }
    assert layout.skipped == ["2 files that belong to no sample"]
    assert len(layout.images) == 36


def info(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def changed(folder: Path) -> None:
        content = json.loads((folder / "_info.json").read_text())
        change(content["splits"])
        (folder / "_info.json").write_text(json.dumps(content))

    return changed


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda folder: (folder / "things-train-000001.tar").unlink(),
            "lists things-train-000001.tar with 12 samples; 0 are there",
        ),
        (info(lambda splits: splits["train"]["shard_lengths"].__setitem__(0, 13)), "with 13 samples; 12 are there"),
        (
            info(lambda splits: splits.update(everything=splits.pop("train"))),
            r"does not say \{splits: .*KeyError: 'everything'",
        ),
        (lambda folder: (folder / "_info.json").write_text("{"), "does not say"),
        (lambda folder: folder_of(folder, {"more/_info.json": b"{}"}), "both describe the set"),
        (lambda folder: folder_of(folder, {"_info.json": b'{"splits": {}}'}), "no labelled image"),
    ],
)
def test_read__refuses_what_does_not_fit_its_description(
    tmp_path: Path, change: Callable[[Path], object], words: str
) -> None:
    official.webdataset_tars(tmp_path)
    change(tmp_path)
    with pytest.raises(Refusal, match=words):
        read(tmp_path)


def test_read__refuses_names_that_do_not_tell_splits(tmp_path: Path) -> None:
    official.webdataset_tars(tmp_path, info=False)
    one = tar_bytes({"1.jpg": jpeg(1), "1.cls": b"0"})
    folder_of(tmp_path / "x", {"more.tar": one})
    with pytest.raises(Refusal, match=r"others do not: x/more.tar"):
        read(tmp_path)
    folder_of(tmp_path / "y", {"train-val.tar": one})
    with pytest.raises(Refusal, match=r"y/train-val.tar names the splits train and val"):
        read(tmp_path)
    with pytest.raises(Refusal, match="no labelled image"):
        read(folder_of(tmp_path / "z", {"a.tar": tar_bytes({"a.txt": b"x"})}))


def test_read__unlisted_tars_are_said(tmp_path: Path) -> None:
    official.webdataset_tars(tmp_path)
    folder_of(tmp_path, {"more.tar": tar_bytes({"1.jpg": jpeg(1), "1.cls": b"7"})})
    layout = read(tmp_path)
    assert layout.skipped == ["1 tars that _info.json does not list: more.tar"] and layout.classes == WDS
