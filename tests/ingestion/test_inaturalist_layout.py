"""iNaturalist: class numbers by first appearance in the training annotations, names from categories.json."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stages.lib.core.outcome import Refusal
from stages.lib.ingestion import inaturalist_layout
from stages.lib.ingestion.layout import Layout
from tests.ingestion import official
from tests.ingestion.official import INAT, expanded, told
from tests.ingestion.raw_project import folder_of


def read(folder: Path) -> Layout:
    return inaturalist_layout.read(*expanded(folder))


@pytest.mark.parametrize("year", [2018, 2019])
def test_archives__labels_splits_and_names(tmp_path: Path, year: int) -> None:
    truth = official.inaturalist(tmp_path, year)
    entries, text_of = expanded(tmp_path)
    layout = inaturalist_layout.read(entries, text_of)
    assert told(layout, text_of) == truth
    assert layout.classes == ("Corvus corax", "Amanita muscaria", "Rana temporaria")  # ids 5, 2, 9
    assert layout.skipped == [] and layout.rejected == []
    assert all(image.path.startswith(f"train_val{year}/Aves/") for image in layout.images)


def test_archives__class_numbers_are_not_sorted_ids(tmp_path: Path) -> None:
    """Negative control of the documented choice."""
    official.inaturalist(tmp_path)
    labels = {int(image.path.split("/")[2]): image.label for image in read(tmp_path).images}
    assert labels == {5: 0, 2: 1, 9: 2}
    assert labels != {category: place for place, category in enumerate(sorted(INAT))}


def unpacked(tmp_path: Path) -> dict[str, bytes]:
    """The same files, unpacked."""
    official.inaturalist(tmp_path / "in")
    entries, text_of = expanded(tmp_path / "in")
    return {entry.member.partition("/")[2]: text_of(entry) for entry in entries}


def test_folder__unpacked_and_wrapped(tmp_path: Path) -> None:
    content = unpacked(tmp_path)
    folder_of(tmp_path / "out", {f"inat/{name}": data for name, data in content.items()})
    layout = read(tmp_path / "out")
    assert len(layout.images) == 18 and layout.classes[0] == "Corvus corax"


def test_folder__without_categories_the_names_are_the_obfuscated_ones(tmp_path: Path) -> None:
    content = unpacked(tmp_path)
    del content["categories.json"]
    layout = read(folder_of(tmp_path / "out", content))
    assert layout.classes == ("00000005", "00000002", "00000009")
    assert layout.skipped == ["the true class names: categories.json is not there, so they are those of train2018.json"]


def edit(name: str, change: Callable[[Any], Any]) -> Callable[[dict[str, bytes]], None]:
    def changed(content: dict[str, bytes]) -> None:
        value = json.loads(content[name])
        content[name] = json.dumps(change(value) or value).encode()

    return changed


TRAIN, VAL, NAMES = "train2018.json", "val2018.json", "categories.json"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda content: content.pop(VAL),
            r"once each; found train2018.json.(.|\n)*not there: val2018.json.tar.gz \(md5 f2ed8bfe3e99",
        ),
        (lambda content: content.pop(TRAIN), "found val2018.json"),
        (lambda content: content.update({"val2019.json": b"{}"}), "found train2018.json, val2018.json, val2019.json"),
        (lambda content: content.pop(f"train_val2018/Aves/5/{0:032x}.jpg"), "names 1 images that are not there"),
        (lambda content: content.update({f"more/train_val2018/Aves/5/{0:032x}.jpg": b""}), "is there twice"),
        (lambda content: content.update({TRAIN: b"{"}), "train2018.json is no JSON that can be read"),
        (lambda content: content.update({TRAIN: b"[" * 100_000}), "train2018.json is no JSON that can be read"),
        (edit(TRAIN, lambda value: value.pop("annotations") and None), "KeyError: 'annotations'"),
        (
            edit(TRAIN, lambda value: value["annotations"].append({"image_id": 0, "category_id": 2})),
            "an image has two annotations",
        ),
        (edit(TRAIN, lambda value: value["annotations"][0].update(category_id=[1])), "no whole numbers"),
        (
            edit(VAL, lambda value: value["annotations"][0].update(category_id=77)),
            "val2018.json has categories without a training image: 77",
        ),
        (edit(NAMES, lambda value: {"categories": value}), "categories.json is no list of categories"),
    ],
)
def test_read__refuses(tmp_path: Path, change: Callable[[dict[str, bytes]], object], words: str) -> None:
    content = unpacked(tmp_path)
    change(content)
    with pytest.raises(Refusal, match=words):
        read(folder_of(tmp_path / "out", content))


def test_read__says_and_rejects_what_is_not_annotated(tmp_path: Path) -> None:
    content = unpacked(tmp_path)
    edit(TRAIN, lambda value: value["annotations"].pop() and None)(content)
    layout = read(folder_of(tmp_path / "out", {**content, "test2018/x.jpg": b"x", "readme.txt": b"x"}))
    assert [reason for _, reason in layout.rejected] == ["has no annotation in train2018.json"]
    assert layout.skipped == ["2 files that neither annotation file names"]
