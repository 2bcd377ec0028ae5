"""Stanford Cars: official archives, unpacked folders, the real devkit; the message for missing files says what to look for."""

import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from stages.lib.core.outcome import Refusal
from stages.lib.ingestion import cars_layout
from stages.lib.ingestion.layout import Layout
from tests.ingestion import official
from tests.ingestion.official import expanded, jpeg, mat_bytes, struct_array, tar_bytes, told
from tests.ingestion.raw_project import folder_of


def read(folder: Path) -> Layout:
    return cars_layout.read(*expanded(folder))


def unpacked(folder: Path, out: Path) -> Path:
    for name in ("cars_train.tgz", "cars_test.tgz", "car_devkit.tgz"):
        with tarfile.open(folder / name) as tar:
            tar.extractall(out, filter="data")
    (out / "cars_test_annos_withlabels.mat").write_bytes((folder / "cars_test_annos_withlabels.mat").read_bytes())
    return out


@pytest.mark.parametrize("way", ["archives", "unpacked"])
def test_read__labels_and_splits(tmp_path: Path, way: str) -> None:
    truth = official.cars(tmp_path / "in")
    folder = tmp_path / "in" if way == "archives" else unpacked(tmp_path / "in", tmp_path / "out")
    entries, text_of = expanded(folder)
    layout = cars_layout.read(entries, text_of)
    assert told(layout, text_of) == truth
    assert layout.classes == official.CARS and layout.rejected == []
    assert layout.skipped == ["2 files that are no images, labels or names"]  # README.txt, cars_test_annos.mat
    assert "cars_test/00001.jpg" in {image.path for image in layout.images}


def test_read__real_devkit(shared: Path, tmp_path: Path) -> None:
    """406 real images with the official files cut to ten classes; labels as the annotations have them, less 1."""
    with tarfile.open(shared / "data/stanford-cars-10.tar") as tar:
        tar.extractall(tmp_path, filter="data")
    layout = read(tmp_path)
    assert len(layout.images) == 406 and {image.split for image in layout.images} == {"train"}
    assert layout.classes[:2] == ("AM General Hummer SUV 2000", "Acura RL Sedan 2012")
    assert {image.label for image in layout.images} == set(range(10))
    assert layout.skipped[-1].startswith("the official test part: none of its images is there")


def annotations(*rows: tuple[object, object]) -> bytes:
    return mat_bytes(
        annotations=struct_array([{"class": label, "fname": name} for label, name in rows], (1, len(rows)))
    )


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def replace(name: str, data: bytes) -> Callable[[Path], object]:
    return lambda folder: folder_of(folder, {name: data})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            remove("devkit/cars_meta.mat"),
            r"not there: cars_train.tgz \(979,269,282 bytes, md5 065e5b463ae28d29e77c1b4b166cfe61\)(.|\n)*car_devkit.tgz \(330,960",
        ),
        (remove("devkit/cars_train_annos.mat"), "at least training images and devkit"),
        (
            remove("cars_test_annos_withlabels.mat"),
            r"their labels are not:\n  cars_test_annos_withlabels.mat \(185,758 bytes.*no longer answers",
        ),
        (remove("cars_train/00001.jpg"), "names 1 images that are not there: 00001.jpg"),
        (
            replace("devkit/cars_train_annos.mat", annotations((4, "00001.jpg"), (1, "00002.jpg"))),
            "has the class 4; cars_meta.mat names 1 to 3",
        ),
        (replace("devkit/cars_train_annos.mat", annotations((0, "00001.jpg"), (1, "00002.jpg"))), "has the class 0"),
        (
            replace("devkit/cars_train_annos.mat", annotations((1, "00001.jpg"), (2, "00001.jpg"))),
            "names an image twice",
        ),
        (
            replace("devkit/cars_train_annos.mat", mat_bytes(annotations=[1, 2])),
            "`annotations` is no struct array with fname, class",
        ),
        (replace("devkit/cars_meta.mat", mat_bytes(class_names=[1, 2])), "`class_names` is no cell array of texts"),
        (
            replace("cars_train.tgz", tar_bytes({"cars_train/00001.jpg": b""}, "w:gz")),
            "cars_train/00001.jpg is there twice",
        ),
    ],
)
def test_read__refuses(tmp_path: Path, change: Callable[[Path], object], words: str) -> None:
    official.cars(tmp_path / "in")
    change(folder := unpacked(tmp_path / "in", tmp_path / "out"))
    with pytest.raises(Refusal, match=words):
        read(folder)


def test_read__an_image_without_annotation_is_rejected(tmp_path: Path) -> None:
    official.cars(tmp_path / "in")
    folder = folder_of(unpacked(tmp_path / "in", tmp_path / "out"), {"cars_train/99999.jpg": jpeg(0)})
    assert read(folder).rejected == [("cars_train/99999.jpg", "is not in cars_train_annos.mat")]
