"""Opens the pipeline's own parquet files: the columns that were promised, or a Refusal that says how to get the file back.

They travel through caches, remotes and other people's disks, so nothing in one is believed before it was looked at: a damaged
file ends in one sentence, and never in a number that was read wrongly or in memory for rows that are not there.
"""

import contextlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from stages.lib.core import seal
from stages.lib.core.outcome import Refusal

DAMAGE = (
    pa.ArrowException,
    OSError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    OverflowError,
    MemoryError,
)
"""What a damaged file makes Arrow, NumPy or a look at its metadata raise."""


@contextlib.contextmanager
def understood(path: Path) -> Iterator[None]:
    """Around whatever takes a file apart: what damage raises there leaves as a Refusal."""
    try:
        yield
    except DAMAGE as error:
        raise Refusal(
            f"{path} is damaged, or not the file its name says ({type(error).__name__}: {str(error)[:300]}). "
            f"`dvc checkout --force {path}` restores it, `dvc repro` makes it again."
        ) from None


def read(path: Path, schema: pa.Schema) -> pa.Table:
    """The columns of `schema`, in its order and types, with the file's own metadata; no value is missing. Raises Refusal."""
    with understood(path), pq.ParquetFile(path, page_checksum_verification=True) as file:
        rows = believable(file, path)
        table = file.read(columns=schema.names)
        table.validate(full=True)  # texts are UTF-8, lengths fit
        if table.num_rows != rows:
            raise ValueError(f"it has {table.num_rows:,} rows, and says it has {rows:,}")
        if empty := [name for name in schema.names if table[name].null_count]:
            raise ValueError(f"values are missing in {', '.join(empty)}")
        metadata = seal.unbroken(file.schema_arrow.metadata)
        return table.select(schema.names).cast(schema).replace_schema_metadata(metadata)


def believable(file: pq.ParquetFile, path: Path) -> int:
    """How many rows a file says it has. Raises ValueError where that is more than its bytes could hold."""
    rows, size = int(file.metadata.num_rows), path.stat().st_size
    if not 0 <= rows <= size:  # a key and a sha256 of their own take far more than a byte
        raise ValueError(f"it says it has {rows:,} rows, in {size:,} bytes")
    return rows


def classes(metadata: dict[bytes, bytes] | None) -> list[str]:
    """The class names in a file's metadata, index = label. Raises ValueError or KeyError where there are none."""
    names = entry(metadata, "classes")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("`classes` is no list of texts")
    return names


def shards(metadata: dict[bytes, bytes] | None) -> dict[str, dict[str, Any]]:
    """{tar: {sha256, bytes, images, split}} of an index's metadata. Raises ValueError or KeyError where that is not there."""
    found = entry(metadata, "shards")
    kinds = {"sha256": str, "bytes": int, "images": int, "split": str}
    if not isinstance(found, dict) or not all(isinstance(about, dict) for about in found.values()):
        raise ValueError("`shards` is no list of tars")
    file_names(found)
    for name, about in found.items():
        known = {"images": 0, "split": ""} | about
        if wrong := [key for key, kind in kinds.items() if type(known.get(key)) is not kind]:
            raise ValueError(f"`shards` says no {', '.join(wrong)} of {name!r}")
    return found


def file_names(names: Iterable[str]) -> None:
    """Raises ValueError for one that would lead out of the folder it is looked for, or written, in."""
    for name in names:
        if name in ("", ".", "..") or "/" in name or "\0" in name:
            raise ValueError(f"{name!r} is no name of a file")


def entry(metadata: dict[bytes, bytes] | None, name: str) -> Any:
    """What stands under a name of the metadata, JSON. Raises ValueError or KeyError."""
    try:
        return json.loads((metadata or {})[name.encode()])
    except RecursionError:
        raise ValueError(f"`{name}` is nested too deeply") from None
