"""The pipeline's own parquet: a listing, a manifest and an index, read as ingest, gates and training read them."""

import random
from pathlib import Path

import pyarrow.parquet as pq

from stages.lib.core.outcome import Refusal
from stages.lib.data import manifest_facts, shard_facts
from stages.lib.data.index import read_index, splits
from stages.lib.ingestion import listing, manifest
from tests import fabricated
from tests.fuzz.mutation import NUMBERS
from tests.fuzz.target import Target


def footer(dice: random.Random, data: bytes) -> bytes:
    """Something in the description at the end, whose length stays right."""
    size = int.from_bytes(data[-8:-4], "little")
    if not 0 < size < len(data) - 8:
        return data
    start, body = len(data) - 8 - size, bytearray(data[-8 - size : -8])
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(len(body))
        if dice.random() < 0.5:
            body[at] ^= 1 << dice.randrange(8)
        else:
            body[at : at + 1] = varint(dice.choice(NUMBERS))
    return data[:start] + bytes(body) + len(body).to_bytes(4, "little") + b"PAR1"


def varint(number: int) -> bytes:
    """As Thrift's compact protocol writes it."""
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def pages(dice: random.Random, data: bytes) -> bytes:
    """Bytes of the columns; the description stays whole."""
    end = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    if not 4 < end < len(data):
        return data
    changed = bytearray(data)
    for _ in range(dice.randint(1, 8)):
        changed[dice.randrange(4, end)] = dice.choice((0, 255, 128, dice.randrange(256)))
    return bytes(changed)


def target(folder: Path) -> Target:
    """All readers meet every file: what is no manifest must be refused as one, too."""
    fabricated.write_set(folder)
    made, index, listed = folder / "manifest/toy.parquet", folder / "index/toy.parquet", folder / "listing.parquet"
    rows = [manifest.Row(**row) for row in fabricated.manifest().to_dict("records")]
    ours = folder / "ours.parquet"
    manifest.write(ours, rows, fabricated.CLASSES)
    listing.write(listed, listing.table_of(listing.Entry(row.member, row.bytes, row.sha256, -1) for row in rows))
    plain = folder / "plain.parquet"
    pq.write_table(pq.read_table(ours), plain, compression="none", data_page_version="2.0", use_dictionary=False)

    def indexed(path: Path) -> None:
        for split in splits(path):
            found = read_index(path, split)
            assert len(found.keys) == len(found)

    def read(path: Path) -> None:
        refused: list[Refusal] = []
        for one in (
            manifest.read,
            lambda p: list(listing.read(p)),
            lambda p: manifest_facts.read(p, "toy"),
            indexed,
            lambda p: shard_facts.read(p, index, folder / "shards/toy", "toy"),
            lambda p: shard_facts.read(made, p, folder / "shards/toy", "toy"),
        ):
            try:
                one(path)
            except Refusal as error:
                refused.append(error)
        if len(refused) == 6:  # a manifest is no index, and so some always do
            raise refused[0]

    good = [path.read_bytes() for path in (ours, made, index, listed, plain)]
    return Target(read, good, [b"PAR1", b"classes", b"[]", b"{}", b"null", b"shards"], [footer, footer, pages])
