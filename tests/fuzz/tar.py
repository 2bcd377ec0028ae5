"""Tars as a reader meets them: listed by `scan`, expanded by `ingest`, looked through by the gate, read by the loader."""

import gzip
import io
import random
import tarfile
from pathlib import Path

import pandas as pd

from stages.lib.core.outcome import Refusal
from stages.lib.data import tar_look
from stages.lib.data.index import read_index
from stages.lib.data.shards import ShardReader
from stages.lib.ingestion import expansion, tar_listing
from tests import fabricated
from tests.fuzz.target import Target

SHARD = "toy-train-000000.tar"
FIELDS = {"name": (0, 100), "mode": (100, 8), "size": (124, 12), "mtime": (136, 12), "kind": (156, 1), "link": (157, 100),
          "magic": (257, 8), "prefix": (345, 155), "sparse": (386, 109)}  # fmt: skip
KINDS = b"0123456789xgLKSDVMX\0A"
SIZES = (b"00000000000\0", b"77777777777\0", b"00000000001 ", b"\x80" + bytes(10) + b"\xff", b"\xff" * 12, b"\x80" + b"\xff" * 11,
         b"\xff" * 11 + b"\x00", b"-0000000001\0", b"        512 ", b"9999999999z\0", b"00000001000\0")  # fmt: skip
NAMES = (
    b"../up.jpg",
    b"/etc/passwd",
    b"a/../../b.jpg",
    b".",
    b"./",
    b"a//b.jpg",
    b"\xff\xfe.jpg",
    b"x.jpg",
    b"x.cls",
    b"x.json",
)
PAX = (b"path=../../up", b"size=99999999999999", b"size=-1", b"size=x", b"GNU.sparse.map=0,1", b"GNU.sparse.major=1",
       b"GNU.sparse.size=9999999999", b"GNU.sparse.numblocks=999999999", b"GNU.sparse.minor=0", b"hdrcharset=BINARY",
       b"mtime=nan", b"path=", b"linkpath=/etc/passwd", b"GNU.sparse.offset=1", b"GNU.sparse.numbytes=1")  # fmt: skip
JSONS = (
    b'{"stored": 1}',
    b'{"stored": {}, "sha256": []}',
    b'{"stored": ' + b"[" * 5000,
    b'{"stored": {"width": 1e999}, "sha256": 1}',
)


def headers(data: bytes) -> list[int]:
    """Places of what looks like a header."""
    return [at for at in range(0, len(data) - 511, 512) if data[at + 257 : at + 262] == b"ustar"]


def signed(header: bytes) -> bytes:
    """The header with the sum that fits it."""
    blank = header[:148] + b" " * 8 + header[156:]
    return header[:148] + b"%06o\0 " % sum(blank) + header[156:]


def lie(dice: random.Random, data: bytes) -> bytes:
    """One field of one header says something else, and its checksum is right."""
    places = headers(data)
    if not places:
        return data
    at, field = dice.choice(places), dice.choice(list(FIELDS))
    start, size = FIELDS[field]
    values: dict[str, list[bytes]] = {"size": [*SIZES], "name": [*NAMES], "prefix": [*NAMES], "link": [*NAMES],
                                      "kind": [KINDS[n : n + 1] for n in range(len(KINDS))]}  # fmt: skip
    value = dice.choice(values.get(field, [dice.randbytes(size), bytes(size), b"7" * size]))[:size].ljust(size, b"\0")
    header = data[at : at + 512]
    return data[:at] + signed(header[:start] + value + header[start + size :]) + data[at + 512 :]


def extended(dice: random.Random, data: bytes) -> bytes:
    """A PAX header, or a long name, comes before some member; its own length may lie."""
    places = headers(data) or [0]
    at = dice.choice(places)
    records = b""
    for text in dice.choices(PAX, k=dice.randint(1, 4)):
        length = len(text) + 4 + dice.choice((0, 0, 0, 1, -1, 50))
        records += b"%d %s\n" % (length, text)
    kind = dice.choice(b"xxxgLKS")
    body = records if kind in b"xg" else dice.choice(NAMES) * dice.choice((1, 40))
    size = dice.choice((len(body), len(body), len(body) + 1, 0, 1 << 33))
    header = bytearray(512)
    header[:4], header[124:136], header[156], header[257:265] = b"long", b"%011o\0" % size, kind, b"ustar\x0000"
    return data[:at] + signed(bytes(header)) + body.ljust(-(-len(body) // 512) * 512, b"\0") + data[at:]


def told(dice: random.Random, data: bytes) -> bytes:
    """What a .json says, changed where it stands."""
    places = [at for at in headers(data) if b".json" in data[at : at + 100]]
    if not places:
        return data
    at, text = dice.choice(places), dice.choice(JSONS)
    header = data[at : at + 124] + b"%011o\0" % len(text) + data[at + 136 : at + 512]
    return data[:at] + signed(header) + text.ljust(-(-len(text) // 512) * 512, b"\0") + data[at + 1024 :]


def unusual() -> bytes:
    """Folders, a PAX name, a GNU long name, a tar in a tar."""
    out, inner = io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w") as tar:
        tar.addfile(_named("deep/a.jpg", 3), io.BytesIO(b"abc"))
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(_named("r\xe9sum\xe9/" + "n" * 150 + ".jpg", 5), io.BytesIO(b"bytes"))
        tar.addfile(_named("inner.tar", len(inner.getvalue())), io.BytesIO(inner.getvalue()))
    first = out.getvalue().rstrip(b"\0")
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        folder = tarfile.TarInfo("empty")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        tar.addfile(_named("l/" + "o" * 200 + "ng.jpg", 1), io.BytesIO(b"x"))
    return first + bytes(-len(first) % 512) + out.getvalue()


def _named(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size = size
    return info


def target(folder: Path) -> Target:
    """The four ways a tar is read; the index is that of the first good one."""
    rows, _ = fabricated.write_set(folder)
    mine: pd.DataFrame = rows[rows["shard"] == SHARD]
    index = read_index(folder / "index/toy.parquet", "train")
    whole = (folder / "shards/toy" / SHARD).read_bytes()
    other = unusual()
    shard = folder / "shards/toy" / SHARD

    def expanded(path: Path, name: str) -> None:
        with path.open("rb") as file:
            for member in expansion.expand(name, file, lambda _: None, in_place=True):
                assert member.data is None or len(member.data) == member.size

    def loaded(path: Path) -> None:
        shard.write_bytes(path.read_bytes())
        reader = ShardReader(index, shard.parent)
        for row in range(len(index)):
            assert len(reader.read(row)) == index.size[row]

    def read(path: Path) -> None:
        tar_look.look(path, mine)
        refused: list[Refusal] = []
        for one in (tar_listing.entries, lambda p: expanded(p, "set.tar"), lambda p: expanded(p, "set.tar.gz"), loaded):
            try:
                one(path)
            except Refusal as error:
                refused.append(error)
        if len(refused) == 4:  # a shard cut behind its last image is read by some
            raise refused[0]

    tokens = [*NAMES, *PAX, *SIZES, b"ustar\x0000", b"ustar  \0", bytes(512), bytes(1024)]
    return Target(read, [whole, other, gzip.compress(other, mtime=0)], tokens, [lie, lie, extended, told])
