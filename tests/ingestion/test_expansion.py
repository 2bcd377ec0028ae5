"""Archives inside archives: what comes out, where it lies, and what is refused."""

import gzip
import io
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

import pytest

from stages.lib.core.outcome import Refusal
from stages.lib.ingestion.expansion import Member, Reader, Sequential, expand, opens
from tests.ingestion.raw_project import tar_of

FILES = {"a/1.jpg": b"one" * 300, "a/._1.jpg": b"clutter", "b/2.jpg": b"", "b/3.jpg": bytes(range(256)) * 9}
SEEN = {name: data for name, data in FILES.items() if "._" not in name}


def words(_: str, file: BinaryIO) -> Iterator[tuple[str, bytes]]:
    """A container that is no tar: one word a file."""
    for number, word in enumerate(file.read().split()):
        yield f"{number}.txt", word


def reader_of(name: str) -> Reader | None:
    return words if name.endswith(".words") else None


def inside(path: Path, in_place: bool = False) -> list[Member]:
    with path.open("rb") as file:
        return list(expand(path.name, file, reader_of, in_place))


def nested(folder: Path) -> Path:
    inner = tar_of(folder / "inner.tar", FILES).read_bytes()
    words = {"deep.tar": inner, "list.words": b"yes no", "zipped.tgz": gzip.compress(inner)}
    return tar_of(folder / "outer.tar", {"plain.jpg": b"plain", **words})


def test_expand__tars_in_tars_keep_their_places(tmp_path: Path) -> None:
    """Every payload is found again at its place in the outermost file; nothing of it was read."""
    path = nested(tmp_path)
    found = {member.path: member for member in inside(path, in_place=True)}
    whole = path.read_bytes()
    for name, data in {"plain.jpg": b"plain", **{f"deep.tar/{name}": data for name, data in SEEN.items()}}.items():
        member = found[f"outer.tar/{name}"]
        assert member.data is None and whole[member.offset : member.offset + member.size] == data
    for name, data in SEEN.items():  # compressed: no place, so the bytes come along
        assert found[f"outer.tar/zipped.tgz/{name}"] == Member(f"outer.tar/zipped.tgz/{name}", -1, len(data), data)
    assert found["outer.tar/list.words/1.txt"].data == b"no"
    assert len(found) == 1 + 3 + 3 + 2


def test_expand__a_stream_brings_the_same_bytes(tmp_path: Path) -> None:
    path = nested(tmp_path)
    here = {member.path: member for member in inside(path, in_place=True)}
    streamed = {member.path: member for member in inside(path)}
    assert [(m.path, m.offset, m.size) for m in here.values()] == [
        (m.path, m.offset, m.size) for m in streamed.values()
    ]
    assert streamed["outer.tar/deep.tar/b/3.jpg"].data == FILES["b/3.jpg"]


def test_expand__reads_forwards_only_from_what_is_compressed(tmp_path: Path) -> None:
    """A gzip stream that went back would decompress everything again."""
    plain = tar_of(tmp_path / "t.tar", {f"{n}.jpg": bytes(70_000 + n) for n in range(9)}).read_bytes()

    class Forwards(io.BytesIO):
        def seek(self, offset: int, whence: int = 0) -> int:
            assert whence == 0 and offset >= self.tell(), "back"
            return super().seek(offset, whence)

    stream = Sequential(cast(BinaryIO, Forwards(plain)))
    found = list(expand("t.tar", cast(BinaryIO, stream), reader_of, False))
    assert [len(member.data or b"") for member in found] == [70_000 + n for n in range(9)]


@pytest.mark.parametrize("cut", [30, 400, 900])
def test_expand__refuses_what_is_cut(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "t.tgz"
    path.write_bytes(gzip.compress(tar_of(tmp_path / "t.tar", FILES).read_bytes(), 0)[:cut])
    with pytest.raises(Refusal, match=r"t\.tgz.*(no whole|cut off)"):
        inside(path)
    inner = tar_of(tmp_path / "inner.tar", FILES).read_bytes()
    torn = tar_of(tmp_path / "outer.tar", {"deep.tar": inner[: -len(inner) + 1024 + cut]})
    with pytest.raises(Refusal, match=r"deep\.tar.*(no whole|cut off|is damaged)"):
        inside(torn)


def test_expand__refuses_a_name_twice_and_a_damaged_header(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="'a/x' twice"):
        inside(tar_of(tmp_path / "t.tar", {"a/x": b"1", "./a/x": b"2"}))
    path = tar_of(tmp_path / "u.tar", FILES)
    broken = bytearray(path.read_bytes())
    broken[broken.index(b"b/3") + 150] ^= 1
    path.write_bytes(broken)
    with pytest.raises(Refusal, match="is damaged"):
        inside(path)


def test_expand__refuses_a_file_that_would_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.lib.ingestion.expansion.LARGEST", 1000)
    path = tar_of(tmp_path / "t.tar", {"small": bytes(1000), "bomb": bytes(1001)})
    with pytest.raises(Refusal, match=r"t\.tar/bomb would unfold to 1,001 bytes"):
        inside(path)
    assert len(inside(path, in_place=True)) == 2  # it is read at its place, if ever


def test_sequential__looks_back_a_little_and_no_further() -> None:
    stream = Sequential(io.BytesIO(bytes(range(256)) * 1000))
    assert stream.read(1000)[-1] == 999 % 256
    stream.seek(500)
    assert stream.read(2) == bytes([500 % 256, 501 % 256])
    stream.seek(200_000)
    assert stream.tell() == 200_000 and stream.read(1) == bytes([200_000 % 256])
    with pytest.raises(OSError, match="no longer there"):
        stream.seek(0)


def test_opens__by_name() -> None:
    assert [opens(name, reader_of) for name in ("a.tar", "A.TGZ", "a.tar.gz", "x.words", "a.jpg", "a.gz")] == [
        True, True, True, True, False, False,
    ]  # fmt: skip
