"""Tars: every member by offset and hash; whatever could lose or smuggle images is refused by name."""

import gzip
import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from stages.lib.core.outcome import Refusal
from stages.lib.ingestion import tar_listing
from stages.lib.ingestion.listing import Entry
from tests.ingestion.raw_project import tar_of


def member(path: Path, name: str, kind: bytes = tarfile.REGTYPE, target: str = "", data: bytes = b"") -> Path:
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.size = kind, target, len(data)
        tar.addfile(info, io.BytesIO(data))
    return path


def test_entries__offsets_and_hashes(tmp_path: Path) -> None:
    files = {"./a/x.png": b"one", "a/" + "long" * 60 + ".png": b"two" * 999, "b/empty.png": b"", "c/": b"", "a/": b""}
    path = tar_of(tmp_path / "t.tar", files)
    found, ignored = tar_listing.entries(path)
    assert ignored == 0
    whole = path.read_bytes()
    assert {entry.member for entry in found} == {"a/x.png", "a/" + "long" * 60 + ".png", "b/empty.png", "c/"}
    for entry in found:
        if not entry.is_folder:
            data = files.get(entry.member, files.get(f"./{entry.member}"))
            assert whole[entry.offset : entry.offset + entry.bytes] == data
            assert entry.sha256 == hashlib.sha256(data).hexdigest()
    assert Entry("c/", 0, "", -1) in found


def test_entries__hidden_members_are_ignored(tmp_path: Path) -> None:
    found, ignored = tar_listing.entries(
        tar_of(tmp_path / "t.tar", {"a/._x.png": b"", "__MACOSX/a/x": b"", ".DS_Store": b"", "a/x": b"1"})
    )
    assert ([entry.member for entry in found], ignored) == (["a/x"], 3)


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("../evil.png", tarfile.REGTYPE, "'../evil.png', which leads out"),
        ("a/../../evil.png", tarfile.REGTYPE, "leads out"),
        ("/etc/evil.png", tarfile.REGTYPE, "'/etc/evil.png', which leads out"),
        ("a/link.png", tarfile.SYMTYPE, "'a/link.png', a link to 'there'"),
        ("a/hard.png", tarfile.LNKTYPE, "a link to 'there'"),
        ("a/device", tarfile.CHRTYPE, "'a/device', which is no plain file"),
        ("a/pipe", tarfile.FIFOTYPE, "no plain file"),
    ],
)
def test_entries__refuses_by_name(tmp_path: Path, name: str, kind: bytes, words: str) -> None:
    with pytest.raises(Refusal, match=words):
        tar_listing.entries(member(tmp_path / "t.tar", name, kind, "there"))


def test_entries__refuses_a_name_twice(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="'a/x' twice"):
        tar_listing.entries(tar_of(tmp_path / "t.tar", {"a/x": b"1", "./a/x": b"2"}))


def test_entries__refuses_compressed_and_foreign_files(tmp_path: Path) -> None:
    plain = tar_of(tmp_path / "t.tar", {"a/x": b"1"}).read_bytes()
    (tmp_path / "z.tar").write_bytes(gzip.compress(plain))
    with pytest.raises(Refusal, match="gzip-compressed"):
        tar_listing.entries(tmp_path / "z.tar")
    (tmp_path / "n.tar").write_bytes(b"hello" * 300)
    with pytest.raises(Refusal, match="no whole tar"):
        tar_listing.entries(tmp_path / "n.tar")


def test_entries__notices_damage_that_tarfile_takes_for_the_end(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "t.tar", {"a/x": b"1" * 600, "a/y": b"2" * 600})
    good = path.read_bytes()
    assert len(tar_listing.entries(path)[0]) == 2
    broken = bytearray(good)
    second = good.index(b"a/y")
    broken[second + 150] ^= 1  # inside the checksum field
    path.write_bytes(broken)
    with tarfile.open(path) as tar:
        assert tar.getnames() == ["a/x"]  # silently half
    with pytest.raises(Refusal, match=f"header at byte {second:,} is damaged"):
        tar_listing.entries(path)
    path.write_bytes(good + good)
    with pytest.raises(Refusal, match="goes on after its end mark"):
        tar_listing.entries(path)
    path.write_bytes(good[: second + 700])
    with pytest.raises(Refusal, match=r"cut off|no whole tar"):
        tar_listing.entries(path)
