"""Writes the index (stages/lib/data/index.py reads it); apart from reading, so that an edit here re-runs no training."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from stages.lib.core import seal

SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("split", pa.string()),
        ("label", pa.int32()),
        ("shard", pa.dictionary(pa.int32(), pa.string())),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("sha256", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("orientation", pa.int8()),
    ]
)


class Place(NamedTuple):
    """One row: an image in its shard. sha256 and size are of the bytes in the shard."""

    key: str
    split: str
    label: int
    shard: str
    offset: int
    size: int
    sha256: str
    width: int
    height: int
    orientation: int


def write(
    path: Path,
    places: Sequence[Place],
    classes: Sequence[str],
    shards: dict[str, dict[str, Any]],
    store: dict[str, Any] | None = None,
) -> None:
    """Write to `path` as it is; the caller makes it atomic. places: in shard order.

    store: of a set whose large images are stored anew; its gate reads it.
    """
    metadata = {
        b"classes": json.dumps(list(classes), ensure_ascii=False).encode(),
        b"shards": json.dumps(shards).encode(),
    }
    if store:
        metadata[b"store"] = json.dumps(store).encode()
    columns = zip(*places, strict=True)
    arrays = [pa.array(values, field.type) for values, field in zip(columns, SCHEMA, strict=True)]
    table = pa.Table.from_arrays(arrays, schema=SCHEMA.with_metadata(seal.sealed(metadata)))
    # Checksums, as training trusts every row of it without a look at the shards: stages/lib/data/index.py compares them.
    pq.write_table(table, path, compression="zstd", use_dictionary=["split", "shard"], write_page_checksum=True)
