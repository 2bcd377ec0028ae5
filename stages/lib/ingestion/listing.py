"""The listing of a raw source: one row a file, its content and where it lies. What `scan` hands to `ingest`.

Columns: member str (POSIX path inside the source), bytes i64, sha256 str (hex), offset i64 (of the payload inside the
tar; -1: a file of its own). Sorted by member. An empty folder is a row too: member ends in `/`, sha256 is empty. No
times, no paths.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from stages.lib.core import parquet

SCHEMA = pa.schema([("member", pa.string()), ("bytes", pa.int64()), ("sha256", pa.string()), ("offset", pa.int64())])


class Entry(NamedTuple):
    """One row."""

    member: str
    bytes: int
    sha256: str
    offset: int

    @property
    def is_folder(self) -> bool:
        """Whether this says that a folder is empty."""
        return self.member.endswith("/")


def table_of(entries: Iterable[Entry]) -> pa.Table:
    """Entries in any order -> table."""
    columns = zip(*sorted(entries), strict=True)
    arrays = [pa.array(values, field.type) for values, field in zip(columns, SCHEMA, strict=False)]
    return pa.Table.from_arrays(arrays, schema=SCHEMA) if arrays else SCHEMA.empty_table()


def write(path: Path, table: pa.Table) -> None:
    """Write to `path` as it is; the caller makes it atomic. Hashes repeat too seldom for a dictionary."""
    pq.write_table(table, path, compression="zstd", use_dictionary=False)


def read(path: Path) -> Iterator[Entry]:
    """Entries in order of member. Raises Refusal where the file is damaged."""
    table = parquet.read(path, SCHEMA)
    return map(Entry, *(table[name].to_pylist() for name in SCHEMA.names))
