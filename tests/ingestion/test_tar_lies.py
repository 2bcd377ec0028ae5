"""Tars that lie about where they would be unpacked, what they hold, how long their parts are: refused, and nothing is written."""

import gzip
import io
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from stages.lib.core.outcome import Refusal
from stages.lib.data import tar_look
from stages.lib.ingestion import expansion, tar_listing
from tests.fuzz.tar import signed

MOST_BYTES = 32 << 20


def header(
    name: bytes, size: bytes = b"00000000000\0", kind: bytes = b"0", link: bytes = b"", prefix: bytes = b""
) -> bytes:
    """512 bytes as ustar has them, with the right checksum."""
    block = bytearray(512)
    block[: len(name)], block[100:108], block[108:116], block[116:124] = name, b"0000644\0", b"0000000\0", b"0000000\0"
    block[124:136], block[136:148], block[156:157] = size.ljust(12, b"\0"), b"00000000000\0", kind
    block[157 : 157 + len(link)], block[257:265], block[345 : 345 + len(prefix)] = link, b"ustar\x0000", prefix
    return signed(bytes(block))


def member(name: bytes, data: bytes = b"x", **more: bytes) -> bytes:
    return header(name, b"%011o\0" % len(data), **more) + data.ljust(-(-len(data) // 512) * 512, b"\0")


def pax(*records: bytes, kind: bytes = b"x") -> bytes:
    """Records `key=value`, each with its own length before it."""
    body = b""
    for record in records:
        length = len(record) + 3
        while len(str(length)) + len(record) + 2 != length:
            length += 1
        body += b"%d %s\n" % (length, record)
    return member(b"PaxHeaders/x", body, kind=kind)


END = bytes(1024)
GOOD = member(b"a/good.png", b"good")
LIES: dict[str, tuple[bytes, str]] = {
    "up, in the prefix": (member(b"evil.png", prefix=b"../.."), "leads out of the tar"),
    "up, by PAX": (pax(b"path=a/../../evil.png") + member(b"a/fine.png"), "leads out of the tar"),
    "absolute, by PAX": (pax(b"path=/etc/evil.png") + member(b"a/fine.png"), "leads out of the tar"),
    "up, by a GNU long name": (
        member(b"././@LongLink", b"../evil.png\0", kind=b"L") + member(b"a/fine.png"),
        "leads out",
    ),
    "up, for all members": (pax(b"path=../evil.png", kind=b"g") + member(b"a/fine.png"), "leads out of the tar"),
    "a link, by PAX": (
        pax(b"linkpath=/etc/passwd") + member(b"a/l.png", b"", kind=b"2", link=b"x"),
        "a link to '/etc/passwd'",
    ),
    "a block device": (member(b"a/sda", b"", kind=b"4"), "no plain file"),
    "a GNU sparse file": (member(b"a/s.png", kind=b"S"), "no plain file|no whole tar"),
    "a PAX sparse file": (
        pax(b"GNU.sparse.map=0,1", b"GNU.sparse.size=999999999999") + member(b"a/s.png"),
        "no plain file",
    ),
    "a sparse map of nothing": (pax(b"GNU.sparse.map=x", b"GNU.sparse.size=1") + member(b"a/s.png"), "no whole tar"),
    "8 exabytes by PAX": (pax(b"size=9223372036854775807") + member(b"a/b.png"), "no whole tar"),
    "a negative size by PAX": (pax(b"size=-512") + member(b"a/b.png"), "no whole tar"),
    "a negative size": (header(b"a/b.png", b"\xff" * 12) + bytes(512), "no whole tar"),
    "a size of 2^88": (header(b"a/b.png", b"\x80" + b"\xff" * 11) + bytes(512), "no whole tar"),
    "more than is there": (header(b"a/b.png", b"00077777777\0") + bytes(512), "no whole tar|cut off"),
    "PAX records of 8 GB": (header(b"p", b"77777777777\0", kind=b"x") + bytes(512), "no whole tar"),
    "a long name of 8 GB": (header(b"././@LongLink", b"77777777777\0", kind=b"L") + bytes(512), "no whole tar"),
    "PAX headers for PAX headers": (pax(b"mtime=1") * 5000 + member(b"a/b.png"), "no whole tar"),
    "a name that is not UTF-8": (member(b"a/\xff.png"), "not UTF-8"),
}


@pytest.fixture(params=["a file", "gzipped", "inside another"])
def read(request: pytest.FixtureRequest) -> Callable[[Path, bytes], object]:
    """The three ways a tar arrives: listed as a source, or expanded from an archive."""

    def listed(folder: Path, data: bytes) -> object:
        (folder / "t.tar").write_bytes(data)
        return [entry.member for entry in tar_listing.entries(folder / "t.tar")[0]]

    def expanded(name: str, data: bytes) -> object:
        return [one.path for one in expansion.expand(name, io.BytesIO(data), lambda _: None, in_place=False)]

    ways: dict[str, Callable[[Path, bytes], object]] = {
        "a file": listed,
        "gzipped": lambda _, data: expanded("t.tar.gz", gzip.compress(data, 1)),
        "inside another": lambda _, data: expanded("o.tar", member(b"t.tar", data) + END),
    }
    return ways[request.param]


@pytest.mark.parametrize("what", LIES)
def test_tar__a_lie_is_refused_in_little_memory_and_nothing_is_written(
    what: str, read: Callable[[Path, bytes], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data, words = LIES[what]
    assert read(tmp_path, GOOD + END)  # the control
    tracemalloc.start()
    try:
        with pytest.raises(Refusal, match=words):
            read(tmp_path, GOOD + data + END)
        assert tracemalloc.get_traced_memory()[1] < MOST_BYTES
    finally:
        tracemalloc.stop()
    assert [path.name for path in tmp_path.rglob("*")] in (["t.tar"], [])


@pytest.mark.parametrize("what", LIES)
def test_look__a_gate_says_what_is_wrong_and_never_fails(what: str, tmp_path: Path) -> None:
    """A shard may be anybody's by the time the gate looks; what it holds is then not what the index says."""
    import pandas as pd

    (tmp_path / "t.tar").write_bytes(GOOD + LIES[what][0] + END)
    found = tar_look.look(tmp_path / "t.tar", pd.DataFrame({"offset": [512], "size": [4], "sha256": ["0" * 64]}))
    assert found.found["key"].tolist()[:1] == ["a/good"] and not found.match.any()


def test_tar__many_members_take_no_more_memory_than_their_rows(tmp_path: Path) -> None:
    many = b"".join(header(b"a/%06d.png" % n) for n in range(10_000))
    (tmp_path / "m.tar").write_bytes(many + END)
    tracemalloc.start()
    try:
        assert len(tar_listing.entries(tmp_path / "m.tar")[0]) == 10_000
        assert tracemalloc.get_traced_memory()[1] < 10_000 * 1000
    finally:
        tracemalloc.stop()


def test_tar__records_for_all_members_are_bounded() -> None:
    """Each adds to a dictionary that tarfile keeps for ever."""
    data = b"".join(pax(b"comment%d=x" % n, kind=b"g") + member(b"a/%d.png" % n) for n in range(1500)) + END
    with pytest.raises(Refusal, match="records for all members"):
        for _ in expansion.expand("t.tar", io.BytesIO(data), lambda _: None, in_place=False):
            pass


def test_signed__the_headers_here_are_those_of_tarfile() -> None:
    """The control of the hand-made ones."""
    with tarfile.open(fileobj=io.BytesIO(GOOD + pax(b"path=b/long.png") + member(b"x", b"12") + END)) as tar:
        assert [(one.name, one.size) for one in tar] == [("a/good.png", 4), ("b/long.png", 2)]
