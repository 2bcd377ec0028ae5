"""CIFAR's python batches: exact pixels, fine labels, official splits; what is no batch or not whole is refused."""

import io
import itertools
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from stages.lib.core.outcome import Refusal
from stages.lib.ingestion import cifar_batches, cifar_layout
from stages.lib.ingestion.layout import Layout
from stages.lib.ingestion.listing import Entry
from tests.ingestion import official
from tests.ingestion.official import Truth, python2_pickle

OPENER = (cifar_batches.opens, cifar_batches.inner)


def read(folder: Path) -> tuple[Layout, Any]:
    entries, text_of = official.expanded(folder, OPENER)
    return cifar_layout.read(entries, text_of), text_of


def decoded(truth: list[Truth]) -> list[tuple[str, int, str, bytes]]:
    """Pixels instead of files: PNGs of one picture may differ."""
    return sorted((one.split, one.label, one.class_name, Image.open(io.BytesIO(one.data)).tobytes()) for one in truth)


def unpacked(archive: Path, folder: Path) -> Path:
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder


@pytest.mark.parametrize("way", ["archive", "unpacked"])
def test_cifar10__pixels_labels_and_splits(tmp_path: Path, way: str) -> None:
    truth = official.cifar10(tmp_path / "in")
    source = tmp_path / "in"
    if way == "unpacked":
        source = unpacked(source / "cifar-10-python.tar.gz", tmp_path / "out")
    layout, text_of = read(source)
    assert decoded(official.told(layout, text_of)) == decoded(truth)
    assert layout.classes == tuple(official.CIFAR10_NAMES)
    assert layout.rejected == [] and layout.skipped == ["1 files that are no batches"]
    assert {image.split for image in layout.images} == {"train", "test"}
    assert len({image.path for image in layout.images}) == len(truth) == 120


def test_cifar100__fine_labels(tmp_path: Path) -> None:
    truth = official.cifar100(tmp_path)
    layout, text_of = read(tmp_path)
    assert decoded(official.told(layout, text_of)) == decoded(truth)
    assert len(layout.classes) == 100 and layout.classes[42] == "class number 42"
    assert sum(image.split == "train" for image in layout.images) == 200


def test_cifar10__real_images(shared: Path) -> None:
    """Real CIFAR pictures through a batch: bit for bit the pixels that went in."""
    with tarfile.open(shared / "data/cifar10.tar.gz") as tar:
        first = itertools.islice((info for info in tar if info.isreg()), 8)
        images = [Image.open(io.BytesIO(tar.extractfile(info).read())).convert("RGB") for info in first]  # type: ignore[union-attr]
    data = np.stack([np.asarray(image).transpose(2, 0, 1).reshape(-1) for image in images])
    batch = python2_pickle(
        {"labels": [3] * 4 + [8] * 4, "data": data, "filenames": [f"x{place}.png" for place in range(8)]}
    )
    found = list(cifar_batches.inner("data_batch_1", io.BytesIO(batch)))
    assert [name for name, _ in found][::4] == ["3/00000-x0.png", "8/00004-x4.png"]
    for image, (_, png) in zip(images, found, strict=True):
        opened = Image.open(io.BytesIO(png))
        opened.load()
        assert (opened.format, opened.mode, opened.tobytes()) == ("PNG", "RGB", image.tobytes())


def test_png_of__is_whole_by_its_checksums() -> None:
    planes = np.random.default_rng(0).integers(0, 256, (3, 32, 32), dtype=np.uint8)
    png = cifar_batches.png_of(planes)
    with Image.open(io.BytesIO(png)) as image:
        image.verify()
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png))).transpose(2, 0, 1), planes)
    broken = bytearray(png)
    broken[60] ^= 1
    with pytest.raises((OSError, SyntaxError)), Image.open(io.BytesIO(bytes(broken))) as image:
        image.verify()


GOOD = {"data": np.zeros((2, 3072), np.uint8), "labels": [0, 9], "filenames": ["a_s_000001.png", "b.png"]}


def test_inner__names_are_made_fit_for_paths() -> None:
    content = {**GOOD, "filenames": ["../../etc/pass wd.png", "x" * 500]}
    names = [name for name, _ in cifar_batches.inner("b", io.BytesIO(python2_pickle(content)))]
    assert names == ["0/00000-pass_wd.png", f"9/00001-{'x' * 100}.png"]
    assert [name for name, _ in cifar_batches.inner("b", io.BytesIO(python2_pickle(GOOD)))] == [
        "0/00000-a_s_000001.png",
        "9/00001-b.png",
    ]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"data": np.zeros((2, 3071), np.uint8)}, r"`data` is uint8\[2, 3071\]; it should be uint8\[n, 3072\]"),
        ({"data": np.zeros((2, 3072), np.int64)}, r"`data` is int64\[2, 3072\]"),
        ({"data": "pixels"}, "`data` is no array"),
        ({"labels": [0]}, "no list of 2 numbers"),
        ({"labels": [0, 10]}, "`labels` holds '10'; labels are whole numbers from 0 to 9"),
        ({"labels": [0, -1]}, "`labels` holds '-1'"),
        ({"labels": ["0", "1"]}, "`labels` holds '0'"),
        ({"fine_labels": [0, 100]}, "from 0 to 99"),
        ({"filenames": ["a.png"]}, "1 entries for 2 images"),
        ({"filenames": [1, 2]}, "`filenames` is no list of texts"),
        ({"label_names": [1]}, "`label_names` is no list of texts"),
    ],
)
def test_inner__refuses_what_is_no_batch(change: dict[str, Any], words: str) -> None:
    with pytest.raises(Refusal, match=words):
        list(cifar_batches.inner("data_batch_3", io.BytesIO(python2_pickle({**GOOD, **change}))))


SMALL = python2_pickle({**GOOD, "batch_label": "training batch 1 of 5"})
OUTSIDE = [place for place in range(len(SMALL)) if not 200 < place < len(SMALL) - 120 or SMALL[place]]
"""Places in it that are no pixel: all pixels are 0."""


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(OUTSIDE), st.integers(0, 255)), min_size=1, max_size=5))
def test_inner__any_damage_is_refused_or_read(changes: list[tuple[int, int]]) -> None:
    data = bytearray(SMALL)
    for place, value in changes:
        data[place] = value
    try:
        for name, content in cifar_batches.inner("data_batch_1", io.BytesIO(bytes(data))):
            assert name == cifar_batches.NAMES or (name.count("/") == 1 and content.startswith(b"\x89PNG"))
    except Refusal:
        pass


def member(name: str) -> Entry:
    return Entry(name, 1, "0", -1)


TEN = [f"data_batch_{number}/3/00000-a.png" for number in range(1, 6)] + ["test_batch/3/00000-a.png"]
META = "batches.meta/batches.meta.json"


def layout_of(*members: str, names: int = 10) -> Layout:
    text = b'{"label_names": [' + b", ".join(b'"same"' for _ in range(names)) + b"]}"
    return cifar_layout.read([member(name) for name in members], lambda _: text)


def test_layout__refuses_parts_of_a_set() -> None:
    assert layout_of(*TEN, META).classes[3] == "same (3)"
    with pytest.raises(Refusal, match="data_batch_2 missing, none too many"):
        layout_of(*TEN[:1], *TEN[2:], META)
    with pytest.raises(Refusal, match="test missing"):
        layout_of("train/3/00000-a.png", META)
    with pytest.raises(Refusal, match="has label 3, and the set names 2 classes"):
        layout_of(*TEN, META, names=2)
    with pytest.raises(
        Refusal,
        match=r"found none.*\n.*cifar-10-python.tar.gz \(170,498,071 bytes, md5 c58f30108f718f92721af3b95e74349a\)",
    ):
        layout_of(*TEN)
    with pytest.raises(Refusal, match=r"found a/batches.meta.json, b/batches.meta.json"):
        layout_of(*TEN, "a/batches.meta.json", "b/batches.meta.json")
