"""The pipeline's own parquet files, damaged: one sentence, and never a wrong number."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.lib.core import parquet
from stages.lib.core.outcome import Refusal
from stages.lib.data.index import read_index
from tests import fabricated

SCHEMA = pa.schema([("key", pa.string()), ("label", pa.int32())])


def written(path: Path, key: list[Any], label: list[Any], **metadata: Any) -> Path:
    table = pa.table({"key": key, "label": label})
    about = {name: json.dumps(value) for name, value in metadata.items()}
    pq.write_table(table.replace_schema_metadata(about), path, compression="none")
    return path


def test_read__columns_in_the_order_and_types_of_the_schema(tmp_path: Path) -> None:
    path = written(tmp_path / "f.parquet", ["a", "b"], [1, 2], classes=["x"])
    table = parquet.read(path, SCHEMA)
    assert table.to_pydict() == {"key": ["a", "b"], "label": [1, 2]} and table.schema.types == SCHEMA.types
    assert parquet.classes(table.schema.metadata) == ["x"]


@pytest.mark.parametrize(
    ("key", "label"),
    [(["a", None], [1, 2]), (["a", "b"], [1, 1 << 40]), (["a", "b"], ["x", "y"]), ([1, 2], [1, None])],
    ids=["a missing text", "a number too large", "texts for numbers", "a missing number"],
)
def test_read__other_content_is_refused(tmp_path: Path, key: list[Any], label: list[Any]) -> None:
    with pytest.raises(Refusal, match=r"f\.parquet is damaged.*dvc checkout"):
        parquet.read(written(tmp_path / "f.parquet", key, label), SCHEMA)


def test_read__cut_anywhere_or_with_a_column_less_is_refused(tmp_path: Path) -> None:
    whole = written(tmp_path / "f.parquet", ["a", "b"] * 50, [1, 2] * 50).read_bytes()
    for end in [*range(0, len(whole), 37), len(whole) - 1]:
        (tmp_path / "cut.parquet").write_bytes(whole[:end])
        with pytest.raises(Refusal, match=r"cut\.parquet is damaged"):
            parquet.read(tmp_path / "cut.parquet", SCHEMA)
    with pytest.raises(Refusal, match="is damaged"):
        parquet.read(tmp_path / "f.parquet", pa.schema([*SCHEMA, ("split", pa.string())]))


def test_read__more_rows_than_bytes_take_no_memory(tmp_path: Path) -> None:
    """A column of one value is a few bytes for any number of rows: a million of them are no manifest."""
    path = written(tmp_path / "f.parquet", ["a"] * 1_000_000, [1] * 1_000_000)
    assert path.stat().st_size < 1_000_000
    with pytest.raises(Refusal, match="1,000,000 rows, in "):
        parquet.read(path, SCHEMA)


@pytest.mark.parametrize("name", ["../evil.tar", "/etc/passwd", "..", "a/b.tar", "a\0.tar", ""])
def test_index__a_shard_that_would_lie_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    """Its name is joined to the folder of shards, and to that of the cache that they are fetched into."""
    rows, listed = fabricated.write_set(tmp_path)
    assert len(read_index(tmp_path / "index/toy.parquet", "train")) == 24  # the control
    first = rows["shard"].iloc[0]
    renamed = {(name if shard == first else shard): about for shard, about in listed.items()}
    fabricated.write_index(tmp_path, rows.assign(shard=rows["shard"].replace(first, name)), renamed)
    with pytest.raises(Refusal, match=r"toy\.parquet is damaged.*is no name of a file"):
        read_index(tmp_path / "index/toy.parquet", "train")
