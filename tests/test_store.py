"""shard.store: large images are stored smaller, with the same bytes every time, small ones as they are; the gate knows both."""

import gzip
import hashlib
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset
from PIL import Image
from timm.data import create_dataset

from stages import validate
from stages.lib.core import seal
from stages.lib.core.outcome import Refusal
from stages.lib.data.decode import decode
from stages.lib.ingestion import fidelity, reencode, shard_writer, spool
from stages.lib.ingestion.reencode import Anew
from stages.lib.params.shard import Store
from tests.ingestion.raw_project import ROOT, RawProject, encoded, picture, png, raw_project, tar_of

__all__ = ["raw_project"]
STORE = {"short_side": 32, "quality": 90, "subsampling": "4:4:4"}


def turned(seed: int, size: tuple[int, int], orientation: int) -> bytes:
    """A JPEG whose EXIF says how to turn it."""
    tags = Image.Exif()
    tags[0x0112] = orientation
    return encoded(picture(seed, size), "JPEG", exif=tags)


LARGE = {
    "train/a/wide.jpg": encoded(picture(1, (120, 64)), "JPEG", quality=95),
    "train/a/high.png": encoded(picture(2, (50, 99))),
    "train/b/turned.jpg": turned(3, (90, 60), 6),
    "train/b/grey.jpg": encoded(picture(4, (80, 60), "L"), "JPEG"),
    "train/b/cmyk.jpg": encoded(picture(5, (66, 70), "CMYK"), "JPEG"),
    "train/a/web.webp": encoded(picture(6, (70, 70)), "WEBP"),
    "train/a/old.bmp": encoded(picture(7, (64, 65)), "BMP"),
}
SIZES = {
    "train/a/wide": (60, 32), "train/a/high": (32, 63), "train/b/turned": (48, 32), "train/b/grey": (43, 32),
    "train/b/cmyk": (32, 34), "train/a/web": (32, 32), "train/a/old": (32, 33),
}  # fmt: skip
SMALL = {
    "train/a/small.jpg": encoded(picture(8, (200, 32)), "JPEG", quality=60),
    "train/b/small.gif": encoded(picture(9, (31, 40)), "GIF"),
}
FILES = LARGE | SMALL | {f"val/{name}/{n}.png": png(100 + 10 * k + n) for k, name in enumerate("ab") for n in range(4)}


@pytest.fixture
def made(raw_project: RawProject) -> RawProject:
    raw_project.tree(FILES)
    raw_project.params("shard", images_per_shard=4, store=STORE)
    return raw_project.run("scan", "ingest", "shard")


def index(project: RawProject) -> dict[str, dict[str, Any]]:
    return {row["key"]: row for row in project.table("index")}


def image(project: RawProject, row: dict[str, Any]) -> bytes:
    return (project.shards / row["shard"]).read_bytes()[row["offset"] : row["offset"] + row["size"]]


def told(project: RawProject) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((project.folder / "data/stored/things.json").read_text())
    return found


def products(project: RawProject) -> dict[str, bytes]:
    """What `shard` makes."""
    return {
        name: data for name, data in project.outputs().items() if name.split("/")[1] in ("shards", "index", "stored")
    }


def test_store__the_index_tells_of_the_stored_images(made: RawProject) -> None:
    rows, manifest = index(made), {row["key"]: row for row in made.table("manifest")}
    assert set(rows) == set(manifest)
    for key, row in rows.items():
        data = image(made, row)
        assert hashlib.sha256(data).hexdigest() == row["sha256"]
        stored = Image.open(io.BytesIO(data))
        assert stored.size == (row["width"], row["height"])
        if key in SIZES:
            assert (stored.format, stored.mode, stored.size) == ("JPEG", "RGB", SIZES[key])
        else:
            assert (row["sha256"], row["size"]) == (manifest[key]["stored_sha256"], manifest[key]["stored_bytes"])
    assert image(made, rows["train/a/small"]) == SMALL["train/a/small.jpg"]


def test_store__pixels_are_the_originals_resized_and_encoded(made: RawProject) -> None:
    rows = index(made)
    for name, original in LARGE.items():
        key = name.rpartition(".")[0]
        smaller = decode(original).resize(SIZES[key], Image.Resampling.BICUBIC)
        stored = decode(image(made, rows[key]))
        assert fidelity.psnr(stored, smaller) > 30, key
        options: dict[str, Any] = {"quality": 90, "subsampling": "4:4:4", "restart_marker_rows": 1}
        again = decode(encoded(smaller, "JPEG", **options))
        assert np.array_equal(np.asarray(stored), np.asarray(again)), key


def test_store__other_readers_see_the_same(made: RawProject) -> None:
    urls = [str(path) for path in sorted(made.shards.glob("*.tar"))]
    rows, seen = index(made), 0
    for sample in webdataset.WebDataset(urls, shardshuffle=False, empty_check=False):
        key, about = sample["__key__"], json.loads(sample["json"])
        assert int(sample["cls"]) == rows[key]["label"]
        assert ("stored" in about) == (key in SIZES)
        if key in SIZES:
            assert hashlib.sha256(sample["jpg"]).hexdigest() == about["stored"]["sha256"] == rows[key]["sha256"]
            assert list(about) == sorted(about) and (about["stored"]["width"], about["stored"]["height"]) == SIZES[key]
        seen += 1
    assert seen == len(rows)
    dataset = create_dataset("wds/things", root=str(made.shards), split="train", is_training=True, batch_size=1)
    assert len(list(dataset)) == sum(row["split"] == "train" for row in rows.values())


@pytest.mark.parametrize(("exif", "orientation"), [("ignore", 1), ("apply", 6)])
def test_store__orientation_stays_in_the_tag_and_in_the_index_and_pixels_are_not_turned(
    raw_project: RawProject, exif: str, orientation: int
) -> None:
    raw_project.tree(FILES)
    raw_project.params("ingest", exif=exif)
    raw_project.params("shard", store=STORE)
    row = index(raw_project.run("scan", "ingest", "shard"))["train/b/turned"]
    data = image(raw_project, row)
    assert row["orientation"] == orientation and (row["width"], row["height"]) == (48, 32)
    assert Image.open(io.BytesIO(data)).getexif()[0x0112] == 6
    assert "exif" not in Image.open(io.BytesIO(image(raw_project, index(raw_project)["train/a/wide"]))).info
    upright = decode(LARGE["train/b/turned.jpg"], row["orientation"])
    assert decode(data, row["orientation"]).size == ((48, 32) if exif == "ignore" else (32, 48))
    size = decode(data, row["orientation"]).size
    assert fidelity.psnr(decode(data, row["orientation"]), upright.resize(size, Image.Resampling.BICUBIC)) > 30


def test_store__a_restart_marker_ends_every_row_of_mcus() -> None:
    for subsampling, high in (("4:4:4", 8), ("4:2:2", 8), ("4:2:0", 16)):
        store = Store(short_side=100, quality=80, subsampling=subsampling)
        row = shard_row(LARGE_PICTURE.size)
        data, anew = reencode.encode(encoded(LARGE_PICTURE), row, store, False)
        markers = sum(data.count(bytes([0xFF, 0xD0 + n])) for n in range(8))
        assert markers == -(-anew.height // high) - 1, subsampling
        interval = data.index(b"\xff\xdd\x00\x04")
        across = -(-anew.width // (8 if subsampling == "4:4:4" else 16))
        assert int.from_bytes(data[interval + 4 : interval + 6], "big") == across


LARGE_PICTURE = picture(11, (301, 200))


def shard_row(size: tuple[int, int], **changes: Any) -> Any:
    from tests.ingestion.test_shard_copy import row_of

    return row_of("k", "k.png", b"", width=size[0], height=size[1], **changes)


@pytest.mark.parametrize(
    ("size", "short", "wanted"),
    [
        ((500, 375), 320, (427, 320)),  # 426.67
        ((375, 500), 320, (320, 427)),
        ((641, 640), 320, (321, 320)),  # 320.5: half, up
        ((1000, 333), 332, (997, 332)),
        ((320, 500), 320, None),
        ((65500, 300), 299, (65282, 299)),
        ((90000, 300), 299, None),  # JPEG has no room for 89,700 pixels
    ],
)
def test_size__rounds_to_the_nearest_pixel(size: tuple[int, int], short: int, wanted: tuple[int, int] | None) -> None:
    store, row = Store(short_side=short, quality=90, subsampling="4:4:4"), shard_row(size)
    assert reencode.is_stored_anew(row, store) == (wanted is not None)
    if wanted:
        assert reencode.size(row, store) == wanted
    assert not reencode.is_stored_anew(row, None)


def test_store__same_bytes_for_every_build_and_number_of_processes(
    made: RawProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = products(made)
    assert len(first) > 4
    assert products(made.run("shard")) == first
    monkeypatch.setattr("stages.lib.ingestion.parallel.SMALL", 0)
    made.params("system", processes=2)
    assert products(made.run("shard")) == first
    made.params("shard", store=STORE | {"quality": 89})
    assert products(made.run("shard")) != first  # negative control


def compressed(project: RawProject) -> None:
    """The same images as an archive that comes in its own order only."""
    plain = tar_of(project.raw / "things.tar", dict(reversed(FILES.items())))
    (project.raw / "things.tgz").write_bytes(gzip.compress(plain.read_bytes()))
    project.params("sources", things={"layout": "folder", "path": "things.tgz"})


@pytest.mark.parametrize("processes", [1, 2])
def test_store__a_source_in_its_own_order_gives_the_same_shards(
    made: RawProject, monkeypatch: pytest.MonkeyPatch, processes: int
) -> None:
    first = products(made)
    compressed(made)
    monkeypatch.setattr("stages.lib.ingestion.parallel.SMALL", 0)
    made.params("system", processes=processes)
    assert products(made.run("scan", "ingest", "shard")) == first


def test_store__a_killed_encoding_goes_on(made: RawProject, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was kept whole is not encoded again; what was torn is."""
    first = products(made)
    compressed(made)
    made.run("scan", "ingest")
    original, kept = spool.append, []

    def dying(path: Path, number: int, data: bytes, anew: Anew | None) -> None:
        original(path, number, data, anew)
        kept.append(path)
        if len(kept) == 6:
            path.write_bytes(path.read_bytes()[:-1])  # the last one is torn
            raise KeyboardInterrupt

    monkeypatch.setattr(spool, "append", dying)
    with pytest.raises(KeyboardInterrupt):
        made.run("shard")
    monkeypatch.setattr(spool, "append", original)
    encode, again = shard_writer.encoded, []
    monkeypatch.setattr(shard_writer, "encoded", lambda task: again.append(task.row.key) or encode(task))
    assert products(made.run("shard")) == first
    assert len(again) == len(FILES) - 5
    assert not list(made.folder.glob("data/runs/shard@things/*/*"))


def test_store__a_killed_build_takes_over_what_it_had_encoded(
    made: RawProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = products(made)
    original, done = shard_writer.build, []

    def dying(job: shard_writer.Job) -> shard_writer.Shard:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(job)
        return original(job)

    monkeypatch.setattr(shard_writer, "build", dying)
    with pytest.raises(KeyboardInterrupt):
        made.run("shard")
    monkeypatch.setattr(shard_writer, "build", original)
    encode, again = reencode.encode, []
    monkeypatch.setattr(reencode, "encode", lambda data, row, *rest: again.append(row.key) or encode(data, row, *rest))
    assert products(made.run("shard")) == first  # facts of the finished shards, PSNR too, come from their sidecars
    assert set(again) == set(SIZES) - {row.key for job in done for row in job.rows} != set(SIZES)


def test_store__says_what_it_costs(made: RawProject) -> None:
    found = told(made)
    rows, manifest = index(made), made.table("manifest")
    assert found["store"] == STORE and (found["images"], found["images_stored_anew"]) == (len(FILES), len(LARGE))
    assert found["original_bytes"] == sum(row["bytes"] for row in manifest) == sum(map(len, FILES.values()))
    assert found["stored_bytes"] == sum(row["size"] for row in rows.values())
    assert found["stored_share"] == round(found["stored_bytes"] / found["original_bytes"], 6)
    coding = [
        fidelity.psnr(decode(image(made, rows[key])), decode(LARGE[name]).resize(SIZES[key], Image.Resampling.BICUBIC))
        for name in LARGE
        for key in [name.rpartition(".")[0]]
    ]
    assert found["images_measured"] == len(LARGE)
    assert found["coding_psnr_db"]["mean"] == round(float(np.mean(coding)), 2)
    assert found["coding_psnr_db"]["p5"] == round(float(np.percentile(coding, 5)), 2)
    assert found["crop_psnr_db"]["p5"] <= found["crop_psnr_db"]["mean"]
    made.params("shard", store=STORE | {"quality": 30})
    worse = told(made.run("shard"))
    assert worse["coding_psnr_db"]["mean"] < found["coding_psnr_db"]["mean"] - 2
    assert worse["stored_bytes"] < found["stored_bytes"]


def test_store__original_says_that_nothing_was_lost(made: RawProject) -> None:
    made.params("shard", store="original")
    found = told(made.run("shard"))
    assert (found["store"], found["lost"], found["images_stored_anew"]) == ("original", "nothing", 0)
    assert "crop_psnr_db" not in found
    assert b"store" not in pq.read_schema(made.folder / "data/index/things.parquet").metadata


def test_psnr__known_answers() -> None:
    black, grey = Image.new("RGB", (8, 4)), Image.new("RGB", (8, 4), (10, 10, 10))
    assert fidelity.psnr(black, black) == fidelity.EQUAL
    assert fidelity.psnr(black, grey) == round(10 * np.log10(255**2 / 100), 3) == 28.131
    one = Image.new("RGB", (8, 4))
    one.putpixel((0, 0), (0, 255, 0))  # a value of 96
    assert fidelity.psnr(black, one) == round(10 * np.log10(96), 3)


def test_crop_psnr__the_same_picture_is_equal_and_a_shifted_one_is_not() -> None:
    whole = picture(3, (400, 300))
    assert fidelity.crop_psnr(whole, whole, "k") == fidelity.EQUAL
    near = fidelity.crop_psnr(whole.resize((320, 240), Image.Resampling.BICUBIC), whole, "k")
    far = fidelity.crop_psnr(whole.transpose(Image.Transpose.FLIP_LEFT_RIGHT), whole, "k")
    assert near > 35 > 20 > far  # boxes lie at the same place in both


def test_sample__follows_from_the_keys_alone() -> None:
    keys = [f"k/{n}" for n in range(1000)]
    assert fidelity.sample(keys) == fidelity.sample(reversed(keys)) and len(fidelity.sample(keys)) == fidelity.SAMPLE
    assert fidelity.sample(keys[:9]) == set(keys[:9])


@pytest.fixture
def gate(made: RawProject, monkeypatch: pytest.MonkeyPatch) -> RawProject:
    (made.folder / "data/expectations").symlink_to(ROOT / "data/expectations")
    monkeypatch.chdir(made.folder)
    monkeypatch.setattr(sys, "argv", ["validate", "shards", "things"])
    validate.main()
    return made


def failed() -> set[str]:
    with pytest.raises(Refusal, match="stays shut"):
        validate.main()
    found = json.loads(Path("data/gate-details/shards-things.json").read_text())["expectations"]
    return {
        " ".join(str(one["kwargs"][name]) for name in ("column", "column_A") if name in one["kwargs"])
        for one in found
        if one["table"] == "images" and not one["success"]
    }


def change(project: RawProject, table: str, key: str, column: str, value: Any, **metadata: Any) -> None:
    path = project.folder / f"data/{table}/things.parquet"
    content = pq.read_table(path)
    place = content["key"].to_pylist().index(key)
    values = content[column].to_pylist()
    values[place] = value
    number = content.schema.get_field_index(column)
    changed = content.set_column(number, content.schema.field(number), [type_of(content, column, values)])
    kept = {name: text for name, text in content.schema.metadata.items() if metadata.get(name.decode(), "") is not None}
    pq.write_table(changed.replace_schema_metadata(seal.sealed(kept) if seal.SEAL in kept else kept), path)


def type_of(content: Any, column: str, values: list[Any]) -> Any:
    import pyarrow as pa

    return pa.array(values, content.schema.field(column).type)


@pytest.mark.usefixtures("gate")
def test_gate__passes_and_its_facts_tell_what_was_made_smaller() -> None:
    details = json.loads(Path("data/gate-details/shards-things.json").read_text())
    assert details["passed"] and Path("data/gates/shards-things.json").is_file()


@pytest.mark.parametrize(
    ("table", "key", "column", "value", "wanted"),
    [
        ("manifest", "train/a/wide", "sha256", "0" * 64, {"original_sha256_in_shard"}),
        ("manifest", "train/a/wide", "label", 1, {"label"}),
        ("manifest", "train/a/small", "stored_sha256", "0" * 64, {"sha256"}),
        ("manifest", "train/a/small", "stored_bytes", 1, {"size"}),
        ("index", "train/a/wide", "sha256", "0" * 64, {"stored_bytes_match"}),
        ("index", "train/a/wide", "width", 61, {"width"}),
        ("index", "train/a/wide", "height", 61, {"height"}),
        ("index", "train/a/wide", "label", 1, {"label"}),
    ],
)
def test_gate__one_wrong_value_keeps_it_shut(
    gate: RawProject, table: str, key: str, column: str, value: Any, wanted: set[str]
) -> None:
    change(gate, table, key, column, value)
    assert failed() == wanted


def test_gate__an_image_made_smaller_without_leave_keeps_it_shut(gate: RawProject) -> None:
    """An index of `store: original` that lies over smaller images."""
    change(gate, "index", "train/a/wide", "label", 0, store=None)
    assert failed() == {"stored_anew"}
