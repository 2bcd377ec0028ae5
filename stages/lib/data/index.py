"""The index: where every image lies in the shards. What training, evaluation and transfer depend on instead of the tars.

data/index/<set>.parquet, in shard order (train, val, test; shard; place): key str, split str, label i32, shard str,
offset i64 and size i64 of the image inside the tar, sha256 str of those bytes, width i32, height i32, orientation i8.
Metadata: classes (JSON list, index = label) and shards (JSON {tar: {sha256, bytes, images, split}}), so that a
changed shard is a changed index.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stages.lib.core.outcome import Refusal

COLUMNS = ["key", "split", "label", "shard", "offset", "size", "orientation"]
ORDER = ("train", "val", "test")


@dataclass(frozen=True)
class Index:
    """The images of one split, in shard order."""

    set_name: str
    split: str
    classes: tuple[str, ...]
    keys: list[str]
    labels: np.ndarray
    """i64[N]."""
    shard_of: np.ndarray
    """i32[N], into `shards`; rises."""
    shards: tuple[str, ...]
    """Tar names of this split."""
    shard_sha256: tuple[str, ...]
    """Hex, of each tar."""
    shard_bytes: tuple[int, ...]
    """Of each tar."""
    offset: np.ndarray
    """i64[N], bytes."""
    size: np.ndarray
    """i64[N], bytes."""
    orientation: np.ndarray
    """i8[N], EXIF orientation to apply, 1..8."""

    def __len__(self) -> int:
        return len(self.keys)


def read_index(path: Path, split: str) -> Index:
    """One split of an index file. Raises Refusal where there is no such file or split, naming what exists."""
    _must_exist(path)
    table = _read(path, COLUMNS)
    there = _in_order(table["split"].unique().to_pylist())
    if split not in there:
        raise Refusal(
            f"{path} has no split {split!r}, only {', '.join(there) or 'nothing'}. "
            "Choose one of those, or add images to the source."
        )
    rows = table["split"].to_pylist()
    table = table.slice(rows.index(split), rows.count(split))
    assert set(table["split"].to_pylist()) == {split}, f"{path}: rows of a split do not stand together"
    names = table["shard"].to_pylist()
    shards = tuple(dict.fromkeys(names))
    number = {name: place for place, name in enumerate(shards)}
    facts = json.loads(table.schema.metadata[b"shards"])
    return Index(
        set_name=path.stem,
        split=split,
        classes=tuple(json.loads(table.schema.metadata[b"classes"])),
        keys=table["key"].to_pylist(),
        labels=_numbers(table, "label").astype(np.int64),
        shard_of=np.array([number[name] for name in names], np.int32),
        shards=shards,
        shard_sha256=tuple(facts[name]["sha256"] for name in shards),
        shard_bytes=tuple(facts[name]["bytes"] for name in shards),
        offset=_numbers(table, "offset"),
        size=_numbers(table, "size"),
        orientation=_numbers(table, "orientation"),
    )


def splits(path: Path) -> tuple[str, ...]:
    """The splits an index file has, in the order train, val, test. Raises Refusal where there is no such file."""
    _must_exist(path)
    return _in_order(_read(path, ["split"])["split"].unique().to_pylist())


def _read(path: Path, columns: list[str]) -> pa.Table:
    """Columns of the file. pq.read_table, filter and to_numpy each import pandas: half a second for every stage that trains."""
    with pq.ParquetFile(path) as file:
        return file.read(columns=columns)


def _numbers(table: pa.Table, name: str) -> np.ndarray:
    """A column of numbers, as an array of its own."""
    return np.array(np.from_dlpack(table[name].combine_chunks()))


def _in_order(found: list[str]) -> tuple[str, ...]:
    return tuple(sorted(found, key=ORDER.index))


def _must_exist(path: Path) -> None:
    if not path.is_file():
        raise Refusal(
            f"There is no index {path}. `dvc repro -s shard@{path.stem}` makes it; `dvc pull {path}` fetches one made elsewhere."
        )
