"""Shards are today's bytes, to the last bit: natively, in Python, and as tarfile and json would write them."""

import hashlib
import json
import pickle
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.lib.core.outcome import Refusal
from stages.lib.ingestion import raw, sample, shard_copy, shard_writer
from stages.lib.ingestion.manifest import Row
from stages.lib.ingestion.shard_writer import Job

GOLDEN = "a12f858f91e8f09093b97b171002594a35c0112c468fc4f2fa2ca1689e55d10a"
"""Of the shard below, computed with tarfile and json before there was anything faster. It must never change: a shard set that
exists must come out again byte for byte."""
KEYS = [
    "a/one", "a/" + "long" * 40, "ü/ö", 'b/quote"back\\slash', "b/tab\tnew\nline", "b/exactly" + "x" * 87, "b/" + "y" * 95,
    "c/empty", "c/block", "c/emoji\U0001f600\u2028\x7f",
]  # fmt: skip


def row_of(key: str, member: str, data: bytes, offset: int = -1, container: str = "", **changes: object) -> Row:
    digest = hashlib.sha256(data).hexdigest()
    row = Row(
        key, "train", 0, "class", member, container, offset, len(data), digest, 10, 20, "RGB", "JPEG", 1, 1, len(data), digest
    )  # fmt: skip
    return row._replace(**changes)


def content(seed: object, size: int) -> bytes:
    return (hashlib.sha256(str(seed).encode()).digest() * (size // 32 + 1))[:size]


def fabricated(folder: Path) -> list[Row]:
    """Ten files with odd names and sizes, and their rows."""
    rows = []
    for n, key in enumerate(KEYS):
        size = {"c/empty": 0, "c/block": 512}.get(key, 700 * n + 37)
        (folder / f"{n}.bin").write_bytes(content(n, size))
        changes = {"label": n * 111, "class_name": f"class {n} ä", "width": 10 + n, "height": 20 + n, "exif": 1 + n % 8}
        kind = ("JPEG", "PNG", "WEBP", "MPO")[n % 4]
        rows.append(row_of(key, f"{n}.bin", content(n, size), format=kind, **changes))
    return rows


@pytest.fixture(params=["native", "python"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Both ways to write a shard."""
    if request.param == "native" and shard_copy.library() is None:
        pytest.skip("no compiler, or a processor without SHA instructions")
    if request.param == "python":
        monkeypatch.setattr(shard_copy, "library", lambda: None)
    yield request.param


def job_of(folder: Path, rows: list[Row], source: Path | None = None) -> Job:
    return Job(raw.Place(str(source or folder)), folder / "out" / "set-train-000000.tar", "train", rows)


def test_build__an_existing_shard_comes_out_again_byte_for_byte(tmp_path: Path, way: str) -> None:
    job = job_of(tmp_path, fabricated(tmp_path))
    shard = shard_writer.build(job)
    assert (shard.sha256, shard.bytes) == (GOLDEN, 61440), way
    assert hashlib.sha256(job.target.read_bytes()).hexdigest() == GOLDEN
    assert shard.offsets == [512, 4608, 10240, 14336, 19456, 25088, 33280, 42496, 45056, 48128]
    assert shard_writer.build(job) == shard  # taken over from its sidecar


def test_build__one_character_more_is_another_shard(tmp_path: Path, way: str) -> None:
    """Negative control."""
    rows = fabricated(tmp_path)
    rows[3] = rows[3]._replace(class_name="class 3 ä.")
    assert shard_writer.build(job_of(tmp_path, rows)).sha256 != GOLDEN, way


def test_build__scattered_in_another_order_it_is_the_same(tmp_path: Path) -> None:
    rows = fabricated(tmp_path)
    job = job_of(tmp_path, rows)
    start_of = {row.key: (job, at) for row, at in shard_writer.missing(job)}
    images = [(row, (tmp_path / row.member).read_bytes()) for row in reversed(rows)]
    assert len(list(shard_writer.scatter([job], images, start_of))) == len(rows)
    shard = shard_writer.seal(job)
    assert (shard.sha256, shard.offsets[:2]) == (GOLDEN, [512, 4608])


@pytest.mark.parametrize("sizes", [range(0, 130), [511, 512, 513, 1023, 1024, 100_000, 3_000_001]])
def test_build__sums_are_hashlibs_at_every_border(tmp_path: Path, way: str, sizes: "range | list[int]") -> None:
    """Ends of 55, 56, 63 and 64 bytes fill a block of sha256 in different ways."""
    rows = []
    for size in sizes:
        (tmp_path / f"{size}").write_bytes(content(size, size))
        rows.append(row_of(f"k/{size}", f"{size}", content(size, size)))
    job = job_of(tmp_path, rows)
    shard = shard_writer.build(job)
    data = job.target.read_bytes()
    assert (shard.sha256, shard.bytes) == (hashlib.sha256(data).hexdigest(), len(data)), way
    for row, at in zip(rows, shard.offsets, strict=True):
        assert data[at : at + row.bytes] == content(row.bytes, row.bytes)
    with tarfile.open(job.target) as tar:
        assert [m.name for m in tar if m.name.endswith("jpg")] == [f"{row.key}.jpg" for row in rows]


def test_build__images_inside_archives_are_read_at_their_places(tmp_path: Path, way: str) -> None:
    data = [content(n, 1000 + n) for n in range(5)]
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/box.tar").write_bytes(b"-" * 7 + b"".join(data))
    at = [7 + sum(map(len, data[:n])) for n in range(5)]
    rows = [row_of(f"k/{n}", f"{n}", data[n], at[n], "box.tar") for n in range(5)]
    shard = shard_writer.build(job_of(tmp_path, rows, tmp_path / "raw"))
    alone = [row._replace(container="") for row in rows]  # the same file as a source of its own
    assert shard_writer.build(job_of(tmp_path / "2", alone, tmp_path / "raw/box.tar")) == shard, way


@pytest.mark.parametrize("fault", ["flipped", "shorter", "longer", "gone", "folder", "another container"])
def test_build__a_changed_image_is_refused_by_name_and_leaves_nothing(tmp_path: Path, way: str, fault: str) -> None:
    rows = fabricated(tmp_path)
    path = tmp_path / rows[4].member
    data = path.read_bytes()
    if fault == "flipped":
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif fault == "shorter":
        path.write_bytes(data[:-1])
    elif fault == "longer":
        path.write_bytes(data + b"x")
    elif fault == "another container":
        rows[4] = rows[4]._replace(container="absent.tar", offset=3)
    else:
        path.unlink()
    if fault == "folder":
        path.mkdir()
    with pytest.raises(Refusal, match=r"4\.bin in .* has changed since it was scanned"):
        shard_writer.build(job_of(tmp_path, rows))
    assert not list((tmp_path / "out").iterdir()), way


def test_copy__a_full_disk_is_an_error_of_the_system(tmp_path: Path) -> None:
    if shard_copy.library() is None:
        pytest.skip("no compiler, or a processor without SHA instructions")
    with open("/dev/full", "wb") as file, pytest.raises(OSError, match="No space left"):
        shard_copy.Copier(raw.Place(str(tmp_path)), fabricated(tmp_path), file.fileno()).copy()


def test_job__reaches_another_process_as_it_is(tmp_path: Path) -> None:
    job = job_of(tmp_path, fabricated(tmp_path))
    again = pickle.loads(pickle.dumps(job))
    assert again == job and isinstance(again.rows[0], Row)
    assert pickle.loads(pickle.dumps(job_of(tmp_path, []))).rows == []


TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@given(key=TEXT, name=TEXT, member=TEXT, label=st.integers(0, 10**6))
def test_sample__description_is_what_json_writes(key: str, name: str, member: str, label: int) -> None:
    row = row_of(key, member, b"x", class_name=name, label=label)
    names = ("key", "split", "label", "class_name", "member", "sha256", "width", "height", "mode", "format", "exif")
    wanted = json.dumps({name: getattr(row, name) for name in names}, sort_keys=True, ensure_ascii=False)
    assert sample.description(row) == wanted.encode()


@pytest.mark.parametrize("length", [1, 95, 96, 97, 100, 101, 255, 600])
@pytest.mark.parametrize("size", [0, 1, 511, 512, 8**11 - 1, 8**11])
def test_sample__headers_are_tarfiles(length: int, size: int) -> None:
    info = tarfile.TarInfo("ä" + "k" * length + ".jpg")
    info.size, info.mode = size, 0o644
    assert sample.before(row_of("ä" + "k" * length, "", b""), size) == info.tobuf(tarfile.GNU_FORMAT, "utf-8", "strict")
