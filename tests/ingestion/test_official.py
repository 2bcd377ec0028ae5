"""Sentences about missing files, and names of splits and classes."""

import pytest

from stages.lib.core.outcome import Refusal
from stages.lib.ingestion import (
    cars_layout,
    cifar_layout,
    flowers_layout,
    imagenet_layout,
    inaturalist_layout,
    official,
)
from stages.lib.ingestion.class_names import distinct
from stages.lib.ingestion.official import Needed
from stages.lib.ingestion.split_names import split_of

NEEDED = (
    Needed("a.tgz", 1000, "0" * 32, "the images", "https://example.org/a.tgz"),
    Needed("b.mat", 0, "", "the labels", ""),
)


def test_missing__by_name_and_size() -> None:
    assert official.missing(NEEDED, {"deep/a.tgz": 1000, "b.mat": 7}) == ""
    assert official.missing(NEEDED, {}) == (
        "  not there: a.tgz (1,000 bytes, md5 00000000000000000000000000000000): the images; from https://example.org/a.tgz\n"
        "  not there: b.mat: the labels"
    )
    assert official.missing(NEEDED, {"a.tgz": 999, "b.mat": 1}).startswith("  999 bytes instead of 1,000, so not whole")
    assert official.missing(NEEDED, {"a.tgz/jpg/1.jpg": 5, "b.mat": 1}) == ""  # opened: its own size is not known
    assert official.missing(NEEDED, {"xa.tgz": 1000, "b.mat": 1}).startswith("  not there: a.tgz")


@pytest.mark.parametrize("layout", [cars_layout, cifar_layout, flowers_layout, imagenet_layout, inaturalist_layout])
def test_needed__is_well_formed(layout: object) -> None:
    for one in layout.NEEDED:  # type: ignore[attr-defined]
        assert one.name and one.what and one.bytes >= 0
        assert one.md5 == "" or (len(one.md5) == 32 and set(one.md5) <= set("0123456789abcdef"))
        assert one.url == "" or one.url.endswith(f"/{one.name}")
    assert all(ending == ending.lower() for ending in layout.TEXTS)  # type: ignore[attr-defined]


def test_needed__agrees_with_torchvision() -> None:
    """md5 and addresses are torchvision's, which checks what it downloads against them."""
    from torchvision.datasets import CIFAR10, CIFAR100, Flowers102, imagenet, inaturalist

    for theirs, (ours,) in ((CIFAR10, cifar_layout.CIFAR10), (CIFAR100, cifar_layout.CIFAR100)):
        assert (theirs.filename, theirs.tgz_md5, theirs.url) == (ours.name, ours.md5, ours.url)
    assert {(one.name, one.md5) for one in flowers_layout.NEEDED} == set(Flowers102._file_dict.values())
    assert {(one.name, one.md5) for one in imagenet_layout.NEEDED} == set(imagenet.ARCHIVE_META.values())
    for year, needed in (("2018", inaturalist_layout.NEEDED_2018), ("2019", inaturalist_layout.NEEDED_2019)):
        assert (inaturalist.DATASET_URLS[year], inaturalist.DATASET_MD5[year]) == (needed[0].url, needed[0].md5)
    assert [name.rstrip("?") for name in Flowers102.classes] == list(flowers_layout.NAMES)


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("data/train-00000-of-00294.parquet", "train"),
        ("data/validation-00000-of-00014.parquet", "val"),
        ("imagenet1k-validation-03.tar", "val"),
        ("default/test/0000.parquet", "test"),
        ("val/train_000.tar", "train"),
        ("valid.tar", "val"),
        ("Train1.tar", "train"),
        ("trainer-00.tar", ""),
        ("0000.parquet", ""),
        ("", ""),
    ],
)
def test_split_of__file_names(path: str, split: str) -> None:
    assert split_of(path) == split


def test_split_of__refuses_two_splits() -> None:
    with pytest.raises(Refusal, match="names the splits test and train"):
        split_of("x/train-test.tar")


def test_distinct__tags_stand_behind_shared_names_only() -> None:
    assert distinct(["crane", "dog", "crane"], ["n1", "n2", "n3"]) == ("crane (n1)", "dog", "crane (n3)")
