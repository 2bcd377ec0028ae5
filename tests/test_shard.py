"""shard: identical bytes on every build; other people's readers see what the manifest says; a killed build goes on."""

import gzip
import hashlib
import io
import json
import logging
import signal
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset
from PIL import Image
from timm.data import create_dataset

from stages import shard
from stages.lib.core.outcome import Refusal
from stages.lib.core.signals import Stopped, Watch
from stages.lib.data.decode import decode
from stages.lib.data.endings import ENDINGS
from stages.lib.data.shards import ShardReader
from stages.lib.ingestion import shard_writer
from stages.lib.ingestion.manifest import Row
from stages.lib.ingestion.parallel import Crew
from tests.ingestion.raw_project import ROOT, RawProject, encoded, folder_of, picture, png, raw_project, tar_of

__all__ = ["raw_project"]
ODD = {
    "train/a/cmyk.jpg": encoded(picture(1, mode="CMYK"), "JPEG"),
    "train/a/named.JPEG": png(2),
    "train/a/web.webp": encoded(picture(3), "WEBP"),
    "train/b/moving.gif": encoded(picture(4), "GIF", save_all=True, append_images=[picture(5)]),
    "train/b/old.bmp": encoded(picture(6), "BMP"),
    "train/b/print.tif": encoded(picture(7, mode="CMYK"), "TIFF"),
    "train/b/" + "long" * 50 + ".png": png(8),
    "train/ü/ö.png": png(9),
    "train/b/deep.png": encoded(Image.fromarray(np.arange(280, dtype=np.uint16).reshape(14, 20) * 200)),
}
FILES = ODD | {
    f"{split}/{name}/{n}.png": png(100 * s + 10 * k + n)
    for s, split in enumerate(("train", "val"))
    for k, name in enumerate("abü")
    for n in range(4)
}


@pytest.fixture
def made(raw_project: RawProject) -> RawProject:
    raw_project.tree(FILES)
    raw_project.params("shard", images_per_shard=8)
    return raw_project.run("scan", "ingest", "shard")


def manifest(project: RawProject, split: str) -> dict[str, dict[str, object]]:
    return {row["key"]: row for row in project.table("manifest") if row["split"] == split}


def expected(project: RawProject, row: dict[str, object]) -> np.ndarray:
    return np.asarray(decode((project.raw / "things" / str(row["member"])).read_bytes()))


def test_shard__webdataset_reads_every_key_label_and_pixel(made: RawProject) -> None:
    for split, tars in (("train", 3), ("val", 2)):
        urls = [str(path) for path in sorted(made.shards.glob(f"things-{split}-*.tar"))]
        assert len(urls) == tars
        rows = manifest(made, split)
        seen = {}
        for sample in webdataset.WebDataset(urls, shardshuffle=False, empty_check=False):
            (data,) = [sample[kind] for kind in ("jpg", "png", "webp") if kind in sample]
            seen[sample["__key__"]] = (int(sample["cls"]), data, json.loads(sample["json"]))
        assert set(seen) == set(rows)
        for key, (label, data, about) in seen.items():
            assert label == rows[key]["label"] == about["label"]
            assert about["sha256"] == rows[key]["sha256"]
            assert np.array_equal(np.asarray(decode(data)), expected(made, rows[key]))


def test_shard__timm_reads_the_same(made: RawProject) -> None:
    index = made.index("val")
    dataset = create_dataset("wds/things", root=str(made.shards), split="val", is_training=False)
    found = [(np.asarray(image), label) for image, label in dataset]
    rows = manifest(made, "val")
    assert len(found) == len(index) == len(dataset)
    for (pixels, label), key, wanted in zip(found, index.keys, index.labels, strict=True):
        assert label == wanted
        assert np.array_equal(pixels, expected(made, rows[key]))
    train = create_dataset("wds/things", root=str(made.shards), split="train", is_training=True, batch_size=1)
    labels = sorted(label for _, label in train)
    assert labels == sorted(made.index("train").labels.tolist())  # webp, gif and tif too


def test_shard__index_and_info_tell_the_truth(made: RawProject) -> None:
    table = pq.read_table(made.folder / "data/index/things.parquet")
    shards = json.loads(table.schema.metadata[b"shards"])
    info = json.loads((made.shards / "_info.json").read_text())
    assert [row["split"] for row in table.to_pylist()] == ["train"] * 21 + ["val"] * 12
    assert list(shards) == info["splits"]["train"]["filenames"] + info["splits"]["val"]["filenames"]
    assert info["splits"]["train"] == {
        "name": "train",
        "num_samples": 21,
        "filenames": [f"things-train-{n:06d}.tar" for n in range(3)],
        "shard_lengths": [8, 8, 5],
    }
    by_key = manifest(made, "train") | manifest(made, "val")
    for row in table.to_pylist():
        data = (made.shards / row["shard"]).read_bytes()[row["offset"] : row["offset"] + row["size"]]
        assert hashlib.sha256(data).hexdigest() == row["sha256"]
        source = by_key[row["key"]]
        if source["format"] in ENDINGS:  # stored as it came
            assert (row["sha256"], row["size"]) == (source["sha256"], source["bytes"])
        else:
            assert row["sha256"] != source["sha256"] and data[1:4] == b"PNG"
    for name, about in shards.items():
        data = (made.shards / name).read_bytes()
        assert (about["bytes"], about["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())


def test_shard__members_carry_no_time_and_no_user(made: RawProject) -> None:
    with tarfile.open(made.shards / "things-train-000000.tar") as tar:
        members = tar.getmembers()
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in members} == {(0, 0, 0, "", "", 0o644)}
    assert [m.name.partition(".")[2] for m in members[1::3]] == ["cls"] * 8
    assert [m.name.partition(".")[2] for m in members[2::3]] == ["json"] * 8


def test_shard__says_what_is_stored_anew(raw_project: RawProject, caplog: pytest.LogCaptureFixture) -> None:
    raw_project.tree(FILES)
    with caplog.at_level(logging.INFO):
        raw_project.run("scan", "ingest", "shard")
    for kind in ("GIF", "BMP", "TIFF"):
        assert f"1 {kind} images are stored as PNG" in caplog.text


def test_shard__same_bytes_on_every_build_and_for_every_number_of_processes(
    made: RawProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = made.outputs()
    assert made.run("shard").outputs() == first
    monkeypatch.setattr("stages.lib.ingestion.parallel.SMALL", 0)
    made.params("system", processes=2)
    assert made.run("shard").outputs() == first
    made.params("shard", seed=1)
    assert made.run("shard").outputs() != first  # negative control: the comparison sees an order


def test_shard__a_tar_source_gives_the_same_shards(made: RawProject) -> None:
    first = {path.name: path.read_bytes() for path in made.shards.iterdir()}
    made.tar(FILES)
    made.run("scan", "ingest", "shard")
    assert {path.name: path.read_bytes() for path in made.shards.iterdir()} == first


@pytest.mark.parametrize("kind", ["things.tgz", "things.tar.gz"])
def test_shard__a_compressed_source_gives_the_same_shards(made: RawProject, kind: str) -> None:
    """Its images come in the archive's order and go where they belong."""
    first = {path.name: path.read_bytes() for path in made.shards.iterdir()}
    sheet = (made.folder / "data/samples/things.png").read_bytes()
    plain = made.tar(dict(reversed(FILES.items())))
    (made.raw / kind).write_bytes(gzip.compress(plain.read_bytes()))
    made.params("sources", things={"layout": "folder", "path": kind})
    made.run("scan", "ingest", "shard")
    assert [row["member"] for row in made.table("listing")] == [kind]
    assert {row["container"] for row in made.table("manifest")} == {kind}
    assert {path.name: path.read_bytes() for path in made.shards.iterdir()} == first
    assert (made.folder / "data/samples/things.png").read_bytes() == sheet


def test_shard__a_killed_copy_in_order_goes_on(made: RawProject, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies whole in a half-filled shard is not read again; what was torn is."""
    plain = made.tar(FILES)
    (made.raw / "things.tgz").write_bytes(gzip.compress(plain.read_bytes()))
    made.params("sources", things={"layout": "folder", "path": "things.tgz"})
    first = made.run("scan", "ingest", "shard").outputs()
    original = shard_writer.sample
    written: list[str] = []

    def dying(row: Row, data: bytes) -> bytes:
        if len(written) == 10:
            raise KeyboardInterrupt
        written.append(row.key)
        return original(row, data)[: 700 if len(written) == 10 else None]  # the last one is torn

    monkeypatch.setattr(shard_writer, "sample", dying)
    with pytest.raises(KeyboardInterrupt):
        made.run("shard")
    again: list[str] = []
    monkeypatch.setattr(shard_writer, "sample", lambda row, data: again.append(row.key) or original(row, data))
    assert made.run("shard").outputs() == first
    assert not set(again) & set(written[:9]) and written[9] in again
    assert len(again) == len(made.table("manifest")) - 9


def test_shard__an_archive_that_changed_since_ingestion_is_refused_by_name(made: RawProject) -> None:
    def gzipped(files: dict[str, bytes]) -> None:
        (made.raw / "things.tgz").write_bytes(gzip.compress(made.tar(files).read_bytes()))
        made.params("sources", things={"layout": "folder", "path": "things.tgz"})

    gzipped(FILES)
    made.run("scan", "ingest")
    gzipped(FILES | {"train/a/2.png": png(999)})
    with pytest.raises(Refusal, match=r"train/a/2\.png in .* has changed since it was ingested \(its sha256"):
        made.run("shard")
    gzipped({name: data for name, data in FILES.items() if name != "train/a/2.png"})
    with pytest.raises(
        Refusal, match=r"train/a/2\.png in .* has changed since it was ingested \(it and 0 others are gone"
    ):
        made.run("shard")


def builds(project: RawProject) -> Path:
    """The one build folder there is."""
    (marker,) = project.folder.glob("data/runs/shard@things/*/identity.json")
    return marker.parent


def test_shard__a_killed_build_goes_on(made: RawProject, monkeypatch: pytest.MonkeyPatch) -> None:
    first = made.outputs()
    original, written = shard_writer.build, []

    def dying(job: shard_writer.Job) -> shard_writer.Shard:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(job.target.name)
        return original(job)

    monkeypatch.setattr(shard_writer, "build", dying)
    with pytest.raises(KeyboardInterrupt):
        made.run("shard")
    build = builds(made)
    assert sorted(path.name for path in build.glob("*.tar")) == written
    damaged = build / written[1]
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")  # same size: only its hash tells
    (build / "things-val-000000.tar").write_bytes(b"half")  # no sidecar: not believed
    inode = (build / written[0]).stat().st_ino
    before = {path.name: path.stat().st_ino for path in build.glob("*.tar")}
    after: dict[str, int] = {}
    monkeypatch.setattr(shard_writer, "build", original)
    publish = shard.publish

    def watched(folder: Path, *rest: object) -> None:
        publish(folder, *rest)  # type: ignore[arg-type]
        after.update({path.name: path.stat().st_ino for path in folder.glob("*.tar")})

    monkeypatch.setattr(shard, "publish", watched)
    assert made.run("shard").outputs() == first
    again = sorted(name for name, place in after.items() if before.get(name) != place)
    assert again == [
        "things-train-000001.tar",
        "things-train-000002.tar",
        "things-val-000000.tar",
        "things-val-000001.tar",
    ]
    assert (made.shards / written[0]).stat().st_ino == inode
    assert not list(made.folder.glob("data/runs/shard@things/*/*"))


def test_shard__another_recipe_takes_nothing_over(made: RawProject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.shard.publish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        made.run("shard")
    kept = builds(made)
    made.params("shard", seed=5)
    with pytest.raises(KeyboardInterrupt):
        made.run("shard")
    folders = [marker.parent for marker in made.folder.glob("data/runs/shard@things/*/identity.json")]
    assert len(folders) == 2 and kept in folders


def test_shard__changed_raw_data_is_refused_by_name(made: RawProject) -> None:
    folder_of(made.raw / "things", {"train/a/2.png": png(999)})
    with pytest.raises(Refusal, match=r"train/a/2\.png in .* has changed since it was scanned"):
        made.run("shard")
    tar_of(made.raw / "things.tar", {"x": b""})
    made.params("sources", things={"layout": "folder", "path": "things.tar"})
    with pytest.raises(Refusal, match="a folder has become a file"):
        made.run("shard")


def test_crew__stops_between_two_tasks(raw_project: RawProject) -> None:
    assert raw_project.folder.is_dir()  # its fixture gives the signal handlers back
    watch, done = Watch(), []

    def work(task: int) -> int:
        done.append(task)
        if task == 1:
            signal.raise_signal(signal.SIGTERM)
        return task

    with pytest.raises(Stopped):
        list(Crew(1, watch, 100.0).ordered("tasks", work, range(4)))
    assert done == [0, 1]


def test_shard__a_slice_of_tiny_imagenet(raw_project: RawProject, shared: Path) -> None:
    """Real JPEGs out of a tar: 4 classes, each image's bytes found again in the shards."""
    source = shared / "data" / "tiny-imagenet-100.tar"
    if not source.is_file():
        pytest.skip(f"no {source}")
    files: dict[str, bytes] = {}
    with tarfile.open(source) as tar:
        wnids = sorted(tar.extractfile("wnids.txt").read().split())[:4]  # type: ignore[union-attr]
        files["wnids.txt"] = b"\n".join(wnids)
        notes = tar.extractfile("val/val_annotations.txt").read()  # type: ignore[union-attr]
        wanted = {line.split(b"\t")[0].decode() for line in notes.splitlines() if line.split(b"\t")[1] in wnids}
        files["val/val_annotations.txt"] = notes
        for member in tar.getmembers():
            parts = member.name.split("/")
            if (parts[0] == "train" and parts[1].encode() in wnids) or (
                parts[:2] == ["val", "images"] and parts[2] in wanted
            ):
                files[member.name] = tar.extractfile(member).read()  # type: ignore[union-attr]
    raw_project.tar(files, "tiny-imagenet")
    raw_project.run("scan", "ingest", "shard")
    index = raw_project.index("val")
    reader = ShardReader(index, raw_project.shards)
    label_of = {
        row.split(b"\t")[0].decode(): wnids.index(row.split(b"\t")[1])
        for row in notes.splitlines()
        if row.split(b"\t")[1] in wnids
    }
    assert len(index) == len(wanted) == 200
    for place, key in enumerate(index.keys):
        data = reader.read(place)
        assert data == files[f"{key}.JPEG"]
        assert index.labels[place] == label_of[key.split("/")[-1] + ".JPEG"]
        assert decode(data).size == Image.open(io.BytesIO(data)).size == (64, 64)


def test_shard__odd_formats_pass_the_gate_and_one_changed_byte_does_not(
    made: RawProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GIF, BMP and TIFF are stored as PNG: the gate must not take that for damage."""
    from stages import validate

    (made.folder / "data/expectations").symlink_to(ROOT / "data/expectations")
    monkeypatch.chdir(made.folder)
    monkeypatch.setattr("sys.argv", ["validate", "shards", "things"])
    validate.main()
    assert (made.folder / "data/gates/shards-things.json").is_file()
    tar = next((made.folder / "data/shards/things").glob("*train-000000.tar"))
    data = bytearray(tar.read_bytes())
    data[600] ^= 1
    tar.unlink()
    tar.write_bytes(data)
    with pytest.raises(Refusal, match="stays shut"):
        validate.main()
