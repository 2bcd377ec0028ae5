"""ingest: one good row per image; what is bad is named with its reason; a split that depends on content alone."""

import csv
import io
import json
import logging
import os

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from stages.lib.core.outcome import Refusal
from stages.lib.ingestion.manifest import SCHEMA
from tests.ingestion.raw_project import RawProject, encoded, picture, png, raw_project

__all__ = ["raw_project"]
PLAIN = {f"{name}/{n}.png": png(10 * k + n) for k, name in enumerate("ab") for n in range(5)}


def exif(orientation: int) -> Image.Exif:
    found = Image.Exif()
    found[0x0112] = orientation
    return found


def rows(project: RawProject) -> dict[str, dict[str, object]]:
    return {row["key"]: row for row in project.table("manifest")}


def test_ingest__a_row_per_image(raw_project: RawProject) -> None:
    raw_project.tree(PLAIN)
    found = rows(raw_project.run("scan", "ingest"))
    listing = raw_project.listing()
    assert list(found) == sorted(name.removesuffix(".png") for name in PLAIN)
    row = found["b/3"]
    assert {row["split"], found["a/0"]["split"]} <= {"train", "val"}
    assert {**row, "split": ""} == {
        "key": "b/3", "split": "", "label": 1, "class_name": "b", "member": "b/3.png", "container": "", "offset": -1,
        "bytes": len(PLAIN["b/3.png"]), "sha256": listing["b/3.png"]["sha256"],
        "width": 20, "height": 14, "mode": "RGB", "format": "PNG", "orientation": 1, "exif": 1,
        "stored_bytes": len(PLAIN["b/3.png"]), "stored_sha256": listing["b/3.png"]["sha256"],
    }  # fmt: skip
    table = pq.read_table(raw_project.folder / "data/manifest/things.parquet")
    assert table.schema.remove_metadata() == SCHEMA
    assert json.loads(table.schema.metadata[b"classes"]) == ["a", "b"]
    assert raw_project.rejected() == "member,reason\n"
    assert sorted(row["key"] for row in found.values() if row["split"] == "val") == expected_val()


def expected_val() -> list[str]:
    import hashlib

    sha = {name.removesuffix(".png"): hashlib.sha256(data).hexdigest() for name, data in PLAIN.items()}
    return sorted(min((key for key in sha if key.startswith(name)), key=sha.__getitem__) for name in "ab")


def test_ingest__odd_images_are_good_and_said(raw_project: RawProject, caplog: pytest.LogCaptureFixture) -> None:
    odd = {
        "a/named.JPEG": png(1),
        "a/cmyk.jpg": encoded(picture(2, mode="CMYK"), "JPEG"),
        "a/grey.jpg": encoded(picture(3, mode="L"), "JPEG"),
        "b/palette.png": encoded(picture(4, mode="P")),
        "b/alpha.png": encoded(picture(5, mode="RGBA")),
        "b/turned.jpg": encoded(picture(6), "JPEG", exif=exif(6)),
        "b/deep.png": encoded(Image.fromarray(np.full((14, 20), 999, np.uint16))),
        "b/moving.gif": encoded(picture(7), "GIF", save_all=True, append_images=[picture(8)]),
    }
    raw_project.tree({**PLAIN, **odd})
    with caplog.at_level(logging.INFO):
        found = rows(raw_project.run("scan", "ingest"))
    kinds = {key: (row["mode"], row["format"]) for key, row in found.items()}
    assert kinds["a/named"] == ("RGB", "PNG")
    assert kinds["a/cmyk"] == ("CMYK", "JPEG")
    assert kinds["a/grey"] == ("L", "JPEG")
    assert (kinds["b/palette"][0], kinds["b/alpha"][0], kinds["b/deep"][0]) == ("P", "RGBA", "I;16")
    assert kinds["b/moving"][1] == "GIF"
    assert (found["b/turned"]["exif"], found["b/turned"]["orientation"], found["b/turned"]["width"]) == (6, 1, 20)
    assert "1 images carry an EXIF orientation, which is ignored" in caplog.text
    assert "1 images are animations; their first frame counts" in caplog.text
    raw_project.params("ingest", exif="apply")
    found = rows(raw_project.run("ingest"))
    assert (found["b/turned"]["orientation"], found["b/turned"]["width"], found["a/0"]["orientation"]) == (6, 20, 1)


def bad_files() -> dict[str, bytes]:
    jpeg = encoded(picture(9, (64, 64)), "JPEG")
    return {"a/cut.jpg": jpeg[:-40], "a/zero.png": b"", "b/words.png": b"not an image", "stray.png": png(50)}


def test_ingest__bad_images_are_named_with_reasons(raw_project: RawProject) -> None:
    raw_project.tree({**PLAIN, **bad_files()})
    raw_project.params("ingest", max_bad=3)
    with pytest.raises(Refusal, match=r"4 files cannot be used, and ingest\.max_bad allows 3") as refusal:
        raw_project.run("scan", "ingest")
    for words in (
        "a/cut.jpg: OSError: ",
        "a/zero.png: the file is empty",
        "b/words.png: no image",
        "stray.png: lies in no class folder",
    ):
        assert words in str(refusal.value)
    raw_project.params("ingest", max_bad=4)
    found = rows(raw_project.run("ingest"))
    assert list(found) == sorted(name.removesuffix(".png") for name in PLAIN)
    table = list(csv.reader(io.StringIO(raw_project.rejected())))
    assert [row[0] for row in table] == ["member", "a/cut.jpg", "a/zero.png", "b/words.png", "stray.png"]


def test_ingest__names_ten_and_counts_the_rest(raw_project: RawProject) -> None:
    raw_project.tree({**PLAIN, **{f"a/x{n:02d}.png": b"" for n in range(13)}})
    with pytest.raises(Refusal, match=r"x09\.png: the file is empty(.|\n)*and 3 more") as refusal:
        raw_project.run("scan", "ingest")
    assert "x10.png" not in str(refusal.value)
    assert raw_project.rejected().count("\n") == 14


def test_ingest__stems_that_collide(raw_project: RawProject) -> None:
    raw_project.tree({**PLAIN, "a/0.JPEG": encoded(picture(60), "JPEG"), "a/v1.2.png": png(61)})
    found = rows(raw_project.run("scan", "ingest"))
    assert {"a/0-jpeg", "a/0-png", "a/v1_2", "a/1"} <= set(found)
    assert "a/0" not in found


def test_ingest__equal_content_never_straddles(raw_project: RawProject) -> None:
    raw_project.tree({f"{name}/{n}.png": png(n % 4) for name in "ab" for n in range(8)} | PLAIN)
    raw_project.params("ingest", val_fraction=0.5)
    found = rows(raw_project.run("scan", "ingest")).values()
    sides = {split: {row["sha256"] for row in found if row["split"] == split} for split in ("train", "val")}
    assert sides["val"] and not sides["train"] & sides["val"]


def test_ingest__a_test_split_is_left_alone(raw_project: RawProject) -> None:
    raw_project.tree({f"train/{k}": v for k, v in PLAIN.items()} | {"test/a/0.png": png(70), "test/b/0.png": png(71)})
    found = rows(raw_project.run("scan", "ingest"))
    splits = [row["split"] for row in found.values()]
    assert (splits.count("train"), splits.count("val"), splits.count("test")) == (8, 2, 2)
    assert found["test/a/0"]["split"] == "test"


def test_ingest__same_bytes_for_folder_tar_and_processes(
    raw_project: RawProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = PLAIN | {"a/cut.jpg": bad_files()["a/cut.jpg"]}
    raw_project.params("ingest", max_bad=1)
    raw_project.tree(files)
    first = raw_project.run("scan", "ingest").outputs()
    assert raw_project.run("ingest").outputs() == first
    monkeypatch.setattr("stages.lib.ingestion.parallel.SMALL", 0)
    monkeypatch.setattr("stages.lib.ingestion.findings.TOGETHER", 2)
    raw_project.params("system", processes=2)
    assert raw_project.run("ingest").outputs() == first
    tree = rows(raw_project)
    raw_project.tar({f"wrapped-1.0/{name}": data for name, data in files.items()})
    tar = rows(raw_project.run("scan", "ingest"))
    assert [{**row, "offset": 0, "member": ""} for row in tar.values()] == [
        {**row, "offset": 0, "member": ""} for row in tree.values()
    ]
    samples = raw_project.outputs()["data/samples/things.png"]
    assert samples == first["data/samples/things.png"]
    with Image.open(io.BytesIO(samples)) as image:
        assert image.size == (8 * 65 + 1, 6 * 65 + 1)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"a/1.png": png(1)}, "1 class .a.; a classifier needs"),
        ({"a/1.png": png(1), "b/": b"", "c/1.png": png(2)}, "1 class folders are empty: b/"),
        ({"a/1.png": png(1), "b/1.png": png(2)}, "2 images, too few for a validation split"),
        ({"readme.txt": b"none"}, "no image in a class folder"),
    ],
)
def test_ingest__refuses_too_little(raw_project: RawProject, files: dict[str, bytes], words: str) -> None:
    raw_project.tree(files)
    with pytest.raises(Refusal, match=words):
        raw_project.run("scan", "ingest")


def test_ingest__refuses_a_class_without_a_good_image(raw_project: RawProject) -> None:
    raw_project.tree({**PLAIN, "c/1.png": b"", "c/2.png": b""})
    raw_project.params("ingest", max_bad=2)
    with pytest.raises(Refusal, match="1 of 3 classes have no good training image: c"):
        raw_project.run("scan", "ingest")


def test_ingest__notices_that_the_source_has_changed(raw_project: RawProject) -> None:
    place = raw_project.tree(PLAIN)
    raw_project.run("scan")
    (place / "a/1.png").write_bytes(png(99))
    with pytest.raises(Refusal, match=r"a/1.png .* has changed since it was scanned"):
        raw_project.run("ingest")
    (place / "a/1.png").unlink()
    with pytest.raises(Refusal, match="it is gone"):
        raw_project.run("ingest")
    place.rename(place.with_name("elsewhere"))
    with pytest.raises(Refusal, match=r"raw images are not at .*things"):
        raw_project.run("ingest")


def test_ingest__tiny_imagenet_layout(raw_project: RawProject) -> None:
    files = {
        f"t/train/n0{c}/images/n0{c}_{n}.JPEG": encoded(picture(c * 9 + n), "JPEG") for c in (1, 2) for n in range(3)
    }
    files |= {f"t/val/images/val_{n}.JPEG": encoded(picture(80 + n), "JPEG") for n in range(2)}
    files |= {"t/wnids.txt": b"n02\nn01\n", "t/words.txt": b"n01\ttench, Tinca tinca\n", "t/test/images/q.JPEG": b""}
    files["t/val/val_annotations.txt"] = b"val_0.JPEG\tn02\t0\t0\t1\t1\nval_1.JPEG\tn01\t0\t0\t1\t1\n"
    raw_project.tar(files, "tiny-imagenet")
    found = rows(raw_project.run("scan", "ingest"))
    told = [(key, row["split"], row["label"], row["class_name"]) for key, row in found.items()]
    assert told[0] == ("train/n01/images/n01_0", "train", 0, "tench")
    assert told[-2:] == [("val/images/val_0", "val", 1, "n02"), ("val/images/val_1", "val", 0, "tench")]
    assert len(told) == 8


def test_ingest__linked_files_count_as_files(raw_project: RawProject) -> None:
    place = raw_project.tree(PLAIN)
    os.symlink(raw_project.folder / "far.png", place / "a" / "link.png")
    (raw_project.folder / "far.png").write_bytes(png(90))
    assert "a/link" in rows(raw_project.run("scan", "ingest"))
