"""The index: where every image lies in the shards. What training, evaluation and transfer depend on instead of the tars.

data/index/<set>.parquet, in shard order (train, val, test; shard; place): key str, split str, label i32, shard str,
offset i64 and size i64 of the image inside the tar, sha256 str of those bytes, width i32, height i32, orientation i8.
Metadata: classes (JSON list, index = label) and shards (JSON {tar: {sha256, bytes, images, split}}), so that a
changed shard is a changed index.
"""

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stages.lib.core import parquet, seal
from stages.lib.core.outcome import Refusal

COLUMNS: dict[str, np.dtype] = {
    "split": np.dtype(np.int8), "label": np.dtype(np.int32), "shard": np.dtype(np.int32), "offset": np.dtype(np.int64),
    "size": np.dtype(np.int32), "width": np.dtype(np.int32), "height": np.dtype(np.int32), "orientation": np.dtype(np.int8),
}  # fmt: skip
ROWS_AT_A_TIME = 1 << 16
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
    rows: np.ndarray | None = None
    """i64[N], rising: which rows of the split these are, where it was cut (subset.py); None: all of them."""
    percent: int = 100
    """Share of each class's images that was kept."""

    def __len__(self) -> int:
        return len(self.labels)

    def sides(self, i: int) -> tuple[int, int]:
        """(width, height) of an image, upright."""
        return self.width.item(i), self.height.item(i)

    @functools.cached_property
    def keys(self) -> list[str]:
        """Of every image, read when first asked for: training needs none, and a million take 100 MB."""
        with parquet.understood(self.path), pq.ParquetFile(self.path, page_checksum_verification=True) as file:
            column = file.read(columns=["key"])["key"].slice(self.first)
            mine = column.slice(0, len(self)) if self.rows is None else column.take(pa.array(self.rows))
            found: list[str] = mine.to_pylist()
            if len(found) != len(self) or None in found:
                raise ValueError("keys are missing")
        return found


def read_index(path: Path, split: str) -> Index:
    """One split of an index file. Raises Refusal where there is no such file or split, naming what exists, or it is damaged."""
    _must_exist(path)
    with parquet.understood(path):
        columns, words, metadata = _read(path, COLUMNS)
        there, classes, facts = _in_order(words["split"]), tuple(parquet.classes(metadata)), parquet.shards(metadata)
    if split not in there:
        raise Refusal(
            f"{path} has no split {split!r}, only {', '.join(there) or 'nothing'}. "
            "Choose one of those, or add images to the source."
        )
    with parquet.understood(path):
        rows = np.flatnonzero(columns.pop("split") == words["split"].index(split))
        first, last = int(rows[0]), int(rows[-1]) + 1
        mine = {name: column[first:last].copy() for name, column in columns.items()}  # lets go of the other splits
        used, shard_of = np.unique(mine["shard"], return_inverse=True)  # shards rise in the file, so these do
        shards = tuple(words["shard"][code] for code in used)
        _sound(mine, len(rows), len(classes))
        tars = [facts[name] for name in shards]
    lying = mine["orientation"] > 4  # turned by a quarter
    return Index(
        path=path,
        set_name=path.stem,
        split=split,
        first=first,
        classes=classes,
        labels=mine["label"],
        shard_of=shard_of.astype(np.int32),
        shards=shards,
        shard_sha256=tuple(tar["sha256"] for tar in tars),
        shard_bytes=tuple(tar["bytes"] for tar in tars),
        offset=mine["offset"],
        size=mine["size"],
        width=np.where(lying, mine["height"], mine["width"]),
        height=np.where(lying, mine["width"], mine["height"]),
        orientation=mine["orientation"],
    )


def splits(path: Path) -> tuple[str, ...]:
    """The splits an index file has, in the order train, val, test. Raises Refusal where there is no such file, or it is damaged."""
    _must_exist(path)
    with parquet.understood(path):
        return _in_order(_read(path, {"split": np.dtype(np.int8)})[1]["split"])


def _read(
    path: Path, wanted: dict[str, np.dtype]
) -> tuple[dict[str, np.ndarray], dict[str, list[str]], dict[bytes, bytes]]:
    """(columns, the words that codes of `split` and `shard` stand for, metadata), a part of the file at a time.

    pq.read_table, filter and to_numpy would import pandas: half a second for every stage that trains.
    """
    words: dict[str, list[str]] = {"split": [], "shard": []}
    options = {"read_dictionary": list(words), "page_checksum_verification": True}
    with _returned_memory(), pq.ParquetFile(path, **options) as file:
        columns = {name: np.empty(parquet.believable(file, path), kind) for name, kind in wanted.items()}
        done = 0
        for batch in file.iter_batches(ROWS_AT_A_TIME, columns=list(wanted)):
            for name in wanted:
                found = batch.column(name)
                values = np.from_dlpack(found.indices if name in words else found)
                if name in words:
                    values = _known(words[name], found.dictionary.to_pylist())[values]
                if not np.can_cast(values.dtype, wanted[name], "same_kind"):
                    raise TypeError(f"{name} holds {values.dtype}")
                columns[name][done : done + len(batch)] = values
            done += len(batch)
        if done != file.metadata.num_rows:
            raise ValueError(f"it has {done:,} rows, and says it has {file.metadata.num_rows:,}")
        metadata = seal.unbroken(file.schema_arrow.metadata)
    return columns, words, metadata


@contextlib.contextmanager
def _returned_memory() -> Iterator[None]:
    """Arrow's own allocator would keep what reading took, about as much as the columns, for as long as training runs."""
    usual = pa.default_memory_pool()
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        yield
    finally:
        pa.set_memory_pool(usual)


def _known(words: list[str], some: list[str]) -> np.ndarray:
    """i32[len(some)]: their places among `words`, which gains those it lacks."""
    place = {word: number for number, word in enumerate(words)}
    for word in some:
        place.setdefault(word, len(place))
    words[:] = place
    return np.array([place[word] for word in some], np.int32)


def _sound(columns: dict[str, np.ndarray], rows: int, classes: int) -> None:
    """Raises ValueError where the numbers of a split cannot be true: a gate, which says more, may never have seen this file."""
    checks: dict[str, Any] = {
        "rows of a split do not stand together": len(columns["label"]) == rows,
        "a label has no class": (columns["label"] >= 0) & (columns["label"] < classes),
        "an image lies before its shard": (columns["offset"] >= 0) & (columns["size"] >= 0),
        "an image has no pixels": (columns["width"] > 0) & (columns["height"] > 0),
    }
    if wrong := [what for what, holds in checks.items() if not np.all(holds)]:
        raise ValueError("; ".join(wrong))


def _in_order(found: list[str]) -> tuple[str, ...]:
    return tuple(sorted(found, key=ORDER.index))


def _must_exist(path: Path) -> None:
    if not path.is_file():
        raise Refusal(
            f"There is no index {path}. `dvc repro -s shard@{path.stem}` makes it; `dvc pull {path}` fetches one made elsewhere."
        )
