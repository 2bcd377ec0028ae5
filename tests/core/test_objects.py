"""Objects of S3 read as files are: from a real server over a real connection, and past every fault."""

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from stages.lib.core import objects
from stages.lib.core.outcome import Refusal
from stages.lib.core.s3 import Unavailable
from tests.s3 import FAULTS, PASSING, QUICK, Server

CONTENT = np.random.default_rng(0).bytes(300_001)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PART = hashlib.sha256(CONTENT[1000:201_000]).hexdigest()


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five blocks instead of one."""
    monkeypatch.setattr(objects, "BLOCK", 1 << 16)
    monkeypatch.setattr(objects, "PIECE", 1 << 12)


def by_open(uri: str, _: Path) -> bool:
    with objects.open(uri, sha256=SHA256) as file:
        return file.read() == CONTENT


def by_read(uri: str, _: Path) -> bool:
    return objects.read(uri, 1000, 200_000, sha256=PART) == CONTENT[1000:201_000]


def by_download(uri: str, folder: Path) -> bool:
    objects.download(uri, folder / "copy", SHA256)
    return (folder / "copy").read_bytes() == CONTENT


PATHS = [by_open, by_read, by_download]  # streamed shards: tests/data/test_published.py
Access = Callable[[str, Path], bool]


@pytest.mark.parametrize("access", PATHS)
@pytest.mark.parametrize("kind", [fault for fault in FAULTS if fault != "flip"])
def test_fault__that_passes_gives_the_right_data_and_one_that_cannot_says_what_to_do(
    s3: Server, tmp_path: Path, access: Access, kind: str
) -> None:
    uri = s3.put("a/b.tar", CONTENT)
    s3.faults(kind, key="b.tar", times=3)
    if kind in PASSING:
        assert access(uri, tmp_path)
        assert s3.struck == 3
    else:
        with pytest.raises(
            Refusal, match={"expired": "expired.*Renew AWS_", "missing": "no object 'a/b.tar'"}[kind]
        ) as told:
            access(uri, tmp_path)
        assert "very-secret" not in str(told.value)
        assert [path.name for path in tmp_path.iterdir()] in ([], [".copy.part"])


@pytest.mark.parametrize("access", [by_read, by_download])
def test_flip__on_the_way_is_fetched_again(s3: Server, tmp_path: Path, access: Access) -> None:
    uri = s3.put("a", CONTENT)
    s3.faults("flip", times=1)
    assert access(uri, tmp_path)
    assert s3.struck == 1


@pytest.mark.parametrize("access", PATHS)
def test_flip__that_stays_is_refused_with_both_hashes(s3: Server, tmp_path: Path, access: Access) -> None:
    uri = s3.put("a", CONTENT[:150_000] + b"x" + CONTENT[150_001:])
    with pytest.raises(Refusal, match=r"has the sha256 .* is expected: it is damaged"):
        access(uri, tmp_path)
    assert not (tmp_path / "copy").exists()


def test_flip__is_noticed_without_a_sha256_where_the_server_keeps_a_sum_of_the_whole(s3: Server) -> None:
    uri = s3.put("a", CONTENT[:5000])
    s3.faults("flip", times=2)
    assert objects.open(uri).read() == CONTENT[:5000]
    assert s3.struck == 2


def test_flip__in_a_part_without_a_sha256_goes_unnoticed(s3: Server) -> None:
    """Why every sha256 that is known is given: a range has no checksum of its own."""
    uri = s3.put("a", CONTENT)
    s3.faults("flip", times=1)
    assert objects.read(uri, 0, 5000) != CONTENT[:5000]


@pytest.mark.parametrize("access", PATHS)
@pytest.mark.parametrize("kind", ["503", "cut", "stall"])
def test_fault__that_does_not_pass_ends_after_a_bounded_number_of_attempts(
    s3: Server, tmp_path: Path, access: Access, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.lib.core.s3.PATIENCE", QUICK._replace(attempts=3))
    uri = s3.put("a", CONTENT)
    s3.faults(kind)
    with pytest.raises(Unavailable, match=r"a: 3 attempts failed, the last with: .*run the same command again"):
        access(uri, tmp_path)
    assert s3.struck <= 3 * 3  # the first block of a stream, and the two behind it
    s3.heal()
    assert access(uri, tmp_path)


@pytest.mark.parametrize("seed", range(2))
def test_open__right_bytes_with_a_third_of_the_answers_spoilt(s3: Server, seed: int) -> None:
    uri = s3.put("a", CONTENT)
    for number, kind in enumerate(("500", "cut")):
        s3.faults(kind, share=0.15, seed=10 * seed + number)
    for _ in range(4):
        with objects.open(uri) as file:
            assert file.read() == CONTENT
    assert s3.struck


def test_cut__goes_on_where_it_broke_off_and_of_the_same_version(s3: Server) -> None:
    uri = s3.put("a", CONTENT)
    s3.faults("cut", times=1)
    assert objects.read(uri, 0, 60_000) == CONTENT[:60_000]
    first, second = (one.range for one in s3.seen)
    assert first == "bytes=0-59999"
    begin = int(second.removeprefix("bytes=").split("-")[0])
    assert 20_000 < begin <= 30_000


def test_open__a_changed_object_is_refused_and_never_mixed(s3: Server) -> None:
    uri = s3.put("a", CONTENT)
    with objects.open(uri) as file:
        assert file.read(1000) == CONTENT[:1000]
        s3.put("a", CONTENT[::-1])
        with pytest.raises(Refusal, match="has changed since it was first looked at"):
            file.read()
    etag = objects.stat(uri).etag
    assert objects.read(uri, 0, 10, etag) == CONTENT[::-1][:10]
    for access in (lambda: objects.read(uri, 0, 10, "0" * 32), lambda: objects.open(uri, "0" * 32)):
        with pytest.raises(Refusal, match="has changed"):
            access()


def test_open__seeks_like_a_file(s3: Server) -> None:
    uri, same, rng = s3.put("a", CONTENT), io.BytesIO(CONTENT), np.random.default_rng(1)
    with objects.open(uri) as file:
        for _ in range(60):
            whence = int(rng.integers(3))
            offset = int(rng.integers(0, len(CONTENT) + 10)) * (-1 if whence == os.SEEK_END else 1) % 290_000
            if whence == os.SEEK_CUR:
                offset %= 5000
            assert file.seek(offset, whence) == same.seek(offset, whence) == file.tell()
            size = int(rng.integers(0, 90_000))
            assert file.read(size) == same.read(size)


def test_open__large_ranges_whatever_is_read(s3: Server) -> None:
    uri = s3.put("a", CONTENT)
    with objects.open(uri) as file:
        while file.read(100):
            pass
    assert s3.counts == {("GET", "a"): 5}


def test_open__from_the_middle_and_at_the_end(s3: Server) -> None:
    uri, empty = s3.put("a", CONTENT), s3.put("b", b"")
    assert objects.open(uri, start=299_000).read() == CONTENT[299_000:]
    assert objects.open(uri, start=len(CONTENT)).read() == b""
    assert objects.open(empty, sha256=hashlib.sha256(b"").hexdigest()).read() == b""
    with pytest.raises(Refusal, match="b has the sha256 e3b0"):
        objects.open(empty, sha256=SHA256)


def test_open__tarfile_reads_members_and_skips(s3: Server) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for number in range(9):
            info = tarfile.TarInfo(f"{number}.jpg")
            info.size = 40_000 + number
            tar.addfile(info, io.BytesIO(CONTENT[number : number + info.size]))
    uri = s3.put("x.tar", packed.getvalue())
    with objects.open(uri) as file, tarfile.open(fileobj=file) as tar:
        assert [member.name for member in tar] == [f"{number}.jpg" for number in range(9)]
        for number in (7, 1):
            content = tar.extractfile(f"{number}.jpg")
            assert content is not None and content.read() == CONTENT[number : number + 40_000 + number]


def test_read__what_is_not_there_is_refused(s3: Server) -> None:
    uri = s3.put("a", b"abc")
    assert objects.read(uri, 1, 2) == b"bc" and objects.read(uri, 3, 0) == b""
    with pytest.raises(Refusal, match="has only 3 bytes; 5 from 1 on were asked for"):
        objects.read(uri, 1, 5)
    with pytest.raises(Refusal, match="ends before the place"):
        objects.read(uri, 3, 1)


def test_listing__names_in_order_of_one_folder_alone(s3: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "2")  # five objects are three pages
    names = ["a b.tar", "sub/é.jpg", "sub/#1?.jpg", "z", "Z"]
    for name in [*(f"raw/{name}" for name in names), "rawer/other", "raw/", "raw/empty/"]:
        s3.put(name, name.encode())
    for uri in (f"{s3.uri}/raw", f"{s3.uri}/raw/"):
        found = list(objects.listing(uri))
        assert [one.name for one in found] == sorted(names)
        for one in found:
            assert one.bytes == len(f"raw/{one.name}".encode())
            assert objects.read(objects.join(uri, one.name), 0, one.bytes, one.etag) == f"raw/{one.name}".encode()
    assert len(list(objects.listing(s3.uri))) == 6
    assert objects.stat(f"{s3.uri}/raw/z") == found[-1]


@pytest.mark.parametrize("kind", ["500", "cut", "stall", "expired"])
def test_listing__past_faults(s3: Server, kind: str) -> None:
    s3.put("raw/a", b"1")
    s3.faults(kind, key="^$", times=2)
    if kind == "expired":
        with pytest.raises(Refusal, match="expired"):
            list(objects.listing(f"{s3.uri}/raw"))
    else:
        assert [one.name for one in objects.listing(f"{s3.uri}/raw")] == ["a"]


def test_listing__of_nothing_is_refused(s3: Server) -> None:
    with pytest.raises(Refusal, match=f"nothing under 'raw/' in the bucket '{s3.bucket}'"):
        list(objects.listing(f"{s3.uri}/raw"))
    with pytest.raises(Refusal, match="no bucket 'nowhere-at-all'"):
        list(objects.listing("s3://nowhere-at-all/raw"))


def test_split__addresses() -> None:
    assert objects.split("s3://bucket/a b/#?.tar") == ("bucket", "a b/#?.tar")
    assert objects.split("s3://bucket") == ("bucket", "")
    assert objects.is_remote("s3://x") and not objects.is_remote("data/raw") and not objects.is_remote("https://x")
    for wrong in ("s3://", "s3:///key", "data/raw", "https://x/y"):
        with pytest.raises(Refusal, match="no S3 address; write s3://bucket/prefix"):
            objects.split(wrong)


def test_download__goes_on_where_a_killed_one_stopped(s3: Server, tmp_path: Path) -> None:
    uri, path = s3.put("a", CONTENT), tmp_path / "model" / "x.bin"
    path.parent.mkdir()
    (path.parent / ".x.bin.part").write_bytes(CONTENT[:200_000])
    objects.download(uri, path, SHA256)
    assert path.read_bytes() == CONTENT
    assert min(int(one.range[6:].split("-")[0]) for one in s3.seen) == 200_000
    before = len(s3.seen)
    objects.download(uri, path, SHA256)  # it is there
    assert len(s3.seen) == before
    assert [path.name for path in path.parent.iterdir()] == ["x.bin"]


@pytest.mark.parametrize("rest", [b"y" * 1000, CONTENT + b"more"])
def test_download__a_rest_of_something_else_is_thrown_away(s3: Server, tmp_path: Path, rest: bytes) -> None:
    (tmp_path / ".x.part").write_bytes(rest)
    objects.download(s3.put("a", CONTENT), tmp_path / "x", SHA256)
    assert (tmp_path / "x").read_bytes() == CONTENT
    (tmp_path / ".x.part").write_bytes(rest)
    objects.download(f"{s3.uri}/a", tmp_path / "x")  # no sha256: a rest is never believed
    assert (tmp_path / "x").read_bytes() == CONTENT


def test_download__two_at_once_fetch_it_once(s3: Server, tmp_path: Path) -> None:
    uri = s3.put("a", CONTENT)
    threads = [threading.Thread(target=objects.download, args=(uri, tmp_path / "x", SHA256)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "x").read_bytes() == CONTENT
    assert s3.counts == {("GET", "a"): 5}
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_credentials__missing_ones_and_a_deaf_server_are_named(s3: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = s3.put("a", CONTENT)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(Refusal, match="Set AWS_ACCESS_KEY_ID"):
        objects.read(uri, 0, 1)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # the port of nobody
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:9"):
        objects.read(uri, 0, 1)


def test_import__brings_no_boto3() -> None:
    code = "import sys; import stages.lib.core.objects, stages.lib.core.upload; sys.exit('boto3' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
