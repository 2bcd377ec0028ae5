"""The manifest: one row per good image of a set. What `ingest` hands to the gate and to `shard`.

Sorted by key. Schema metadata b"classes" is a JSON list, index = label. width, height and mode are those stored,
before any EXIF orientation is applied.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from stages.lib.core import parquet

SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("split", pa.string()),
        ("label", pa.int32()),
        ("class_name", pa.string()),
        ("member", pa.string()),
        ("container", pa.string()),
        ("offset", pa.int64()),
        ("bytes", pa.int64()),
        ("sha256", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("mode", pa.string()),
        ("format", pa.string()),
        ("orientation", pa.int8()),
        ("exif", pa.int8()),
        ("stored_bytes", pa.int64()),
        ("stored_sha256", pa.string()),
    ]
)
SPLITS = ("train", "val", "test")
REPEATING = ["split", "class_name", "container", "mode", "format"]  # columns worth a dictionary


class Row(NamedTuple):
    """One image."""

    key: str
    """`/`-separated, no dots, unique."""
    split: str
    label: int
    class_name: str
    member: str
    container: str
    """The raw file it lies in; empty: a file of its own, or the source is one plain tar."""
    offset: int
    """Of its first byte in there; -1: a file of its own, or one that only comes out in the container's order."""
    bytes: int
    sha256: str
    """Of the image file; of a CIFAR row, as the PNG of its pixels."""
    width: int
    height: int
    mode: str
    """Pillow's, as stored: L, RGB, CMYK, P, RGBA, I;16, ..."""
    format: str
    """Pillow's, by content and not by name: JPEG, PNG, ..."""
    orientation: int
    """EXIF orientation to apply; 1 unless ingest.exif is `apply`."""
    exif: int
    """EXIF orientation as found; 1: none."""
    stored_bytes: int
    """Of the bytes that shards hold: the image file, or a PNG of what their readers do not know."""
    stored_sha256: str


def write(path: Path, rows: Sequence[Row], classes: Sequence[str]) -> None:
    """Write to `path` as it is; the caller makes it atomic."""
    columns = zip(*sorted(rows), strict=True)
    arrays = [pa.array(values, field.type) for values, field in zip(columns, SCHEMA, strict=True)]
    metadata = {b"classes": json.dumps(list(classes), ensure_ascii=False).encode()}
    table = pa.Table.from_arrays(arrays, schema=SCHEMA.with_metadata(metadata))
    pq.write_table(table, path, compression="zstd", use_dictionary=REPEATING)


def read(path: Path) -> tuple[list[Row], list[str]]:
    """(rows by key, class names). Raises Refusal where the file is damaged."""
    table = parquet.read(path, SCHEMA)
    rows = list(map(Row, *(table[name].to_pylist() for name in SCHEMA.names)))
    with parquet.understood(path):
        return rows, parquet.classes(table.schema.metadata)
