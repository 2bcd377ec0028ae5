"""The index: where every image lies in the shards. What training, evaluation and transfer depend on instead of the tars.

data/index/<set>.parquet, in shard order (train, val, test; shard; place): key str, split str, label i32, shard str,
offset i64 and size i64 of the image inside the tar, sha256 str of those bytes, width i32, height i32, orientation i8.
Metadata: classes (JSON list, index = label) and shards (JSON {tar: {sha256, bytes, images, split}}), so that a
changed shard is a changed index.
"""

import functools
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stages.lib.core.outcome import Refusal

COLUMNS = ["split", "label", "shard", "offset", "size", "width", "height", "orientation"]
ORDER = ("train", "val", "test")


@dataclass(frozen=True)
class Index:
    """The images of one split, in shard order; 29 bytes an image, and its key once somebody asks for keys."""

    path: Path
    set_name: str
    split: str
    first: int
    """Row of the file where the split begins."""
    classes: tuple[str, ...]
    labels: np.ndarray
    """i32[N]."""
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
    """i32[N], bytes."""
    width: np.ndarray
    """i32[N], pixels, upright: with the orientation applied."""
    height: np.ndarray
    """i32[N], likewise."""
    orientation: np.ndarray
    """i8[N], EXIF orientation to apply, 1..8."""

    def __len__(self) -> int:
        return len(self.labels)

    @functools.cached_property
    def keys(self) -> list[str]:
        """Of every image, read when first asked for: training needs none, and a million take 100 MB."""
        found: list[str] = _read(self.path, ["key"])["key"].slice(self.first, len(self)).to_pylist()
        return found


def read_index(path: Path, split: str) -> Index:
    """One split of an index file. Raises Refusal where there is no such file or split, naming what exists."""
    _must_exist(path)
    table = _read(path, COLUMNS)
    codes, names = _coded(table, "split")
    there = _in_order([names[code] for code in np.unique(codes)])
    if split not in there:
        raise Refusal(
            f"{path} has no split {split!r}, only {', '.join(there) or 'nothing'}. "
            "Choose one of those, or add images to the source."
        )
    rows = np.flatnonzero(codes == names.index(split))
    assert len(rows) == rows[-1] - rows[0] + 1, f"{path}: rows of a split do not stand together"
    table = table.slice(int(rows[0]), len(rows))
    codes, names = _coded(table, "shard")
    used, shard_of = np.unique(codes, return_inverse=True)  # a split's shards rise, so their codes do
    shards = tuple(names[code] for code in used)
    facts = json.loads(table.schema.metadata[b"shards"])
    orientation = _numbers(table, "orientation")
    sides = _numbers(table, "width"), _numbers(table, "height")
    lying = orientation > 4  # turned by a quarter
    return Index(
        path=path,
        set_name=path.stem,
        split=split,
        first=int(rows[0]),
        classes=tuple(json.loads(table.schema.metadata[b"classes"])),
        labels=_numbers(table, "label"),
        shard_of=shard_of.astype(np.int32),
        shards=shards,
        shard_sha256=tuple(facts[name]["sha256"] for name in shards),
        shard_bytes=tuple(facts[name]["bytes"] for name in shards),
        offset=_numbers(table, "offset"),
        size=_numbers(table, "size").astype(np.int32),
        width=np.where(lying, sides[1], sides[0]),
        height=np.where(lying, sides[0], sides[1]),
        orientation=orientation,
    )


def splits(path: Path) -> tuple[str, ...]:
    """The splits an index file has, in the order train, val, test. Raises Refusal where there is no such file."""
    _must_exist(path)
    codes, names = _coded(_read(path, ["split"]), "split")
    return _in_order([names[code] for code in np.unique(codes)])


def _read(path: Path, columns: list[str]) -> pa.Table:
    """Columns of the file, `split` and `shard` as codes. pq.read_table, filter and to_numpy each import pandas: half a second for
    every stage that trains."""
    with pq.ParquetFile(path, read_dictionary=["split", "shard"]) as file:
        return file.read(columns=columns)


def _coded(table: pa.Table, name: str) -> tuple[np.ndarray, list[str]]:
    """(i32[N], words): a column of few words."""
    column = table[name].unify_dictionaries().combine_chunks()
    if isinstance(column, pa.ChunkedArray):  # no rows at all
        return np.empty(0, np.int32), []
    return np.array(np.from_dlpack(column.indices)), column.dictionary.to_pylist()


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
