"""The hub's parquet files: bytes as stored, splits from names, class names from the schema, unlabelled images left out."""

import io
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.lib.core.outcome import Refusal
from stages.lib.ingestion import hub_layout, hub_parquet
from stages.lib.ingestion.layout import Layout
from stages.lib.ingestion.listing import Entry
from tests.ingestion import official
from tests.ingestion.official import HUB, jpeg, parquet_bytes

OPENER = (hub_parquet.opens, hub_parquet.inner)
ROWS = [(jpeg(place), f"folder/{place}.JPEG", place % 3) for place in range(70)]


def inner(data: bytes, name: str = "data/train-00000-of-00001.parquet") -> list[tuple[str, bytes]]:
    return list(hub_parquet.inner(name, io.BytesIO(data)))


def test_hub__images_labels_and_splits(tmp_path: Path) -> None:
    truth = official.hub(tmp_path)
    entries, text_of = official.expanded(tmp_path, OPENER)
    layout = hub_layout.read(entries, text_of)
    assert official.told(layout, text_of) == truth
    assert layout.classes == HUB
    assert layout.skipped == ["1 files that are no parquet files", "5 test images without a label"]
    paths = [image.path for image in layout.images]
    assert len(set(paths)) == len(paths) and "data/train-00001-of-00002/1/0000004-n01440001_4.JPEG" in paths


def test_inner__keeps_order_over_row_groups() -> None:
    found = inner(parquet_bytes(ROWS))
    assert found[0] == ("label-names.json", b'{"label_names": ["tench", "goldfish", "great white shark"]}')
    assert [name for name, _ in found[1:]] == [f"train/{place % 3}/{place:07d}-{place}.JPEG" for place in range(70)]
    assert [data for _, data in found[1:]] == [data for data, _, _ in ROWS]


def test_inner__img_and_fine_label_and_other_columns(tmp_path: Path) -> None:
    data = parquet_bytes(ROWS[:3], image="img", label="fine_label")
    table = pq.read_table(io.BytesIO(data)).append_column("coarse_label", pa.array([7, 7, 7]))
    pq.write_table(table, tmp_path / "x.parquet")
    with (tmp_path / "x.parquet").open("rb") as file:
        assert [name for name, _ in hub_parquet.inner("cifar100/test-00000-of-00001.parquet", file)] == [
            "label-names.json", "test/0/0000000-0.JPEG", "test/1/0000001-1.JPEG", "test/2/0000002-2.JPEG",
        ]  # fmt: skip


def test_inner__without_names_and_without_a_split() -> None:
    rows = [*ROWS[:1], (b"", None, None)]  # empty: for `ingest` to reject
    assert [name for name, _ in inner(parquet_bytes(rows, names=()), "0000.parquet")] == [
        "all/0/0000000-0.JPEG", "all/-1/0000001-image",
    ]  # fmt: skip


def test_inner__does_not_hold_a_row_group(tmp_path: Path) -> None:
    """One row group of 62 MB in pages of 1 MB: Arrow holds a few of them. Opened as usual, it holds the whole column."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("image", kind), ("label", pa.int64())])
    options: dict[str, Any] = {
        "compression": "none",
        "use_dictionary": False,
        "data_page_size": 1 << 20,
        "write_batch_size": 8,
    }
    with pq.ParquetWriter(tmp_path / "big.parquet", schema, **options) as writer:
        rows = [{"bytes": bytes([place % 251]) * (1 << 17), "path": "x.jpg"} for place in range(500)]
        writer.write_table(pa.Table.from_arrays([pa.array(rows, kind), pa.array(range(500))], schema=schema))
    del rows
    assert pq.read_metadata(tmp_path / "big.parquet").num_row_groups == 1
    before, most = pa.total_allocated_bytes(), 0
    tracemalloc.start()
    with (tmp_path / "big.parquet").open("rb") as file:
        for place, (_, data) in enumerate(hub_parquet.inner("big.parquet", file)):
            assert data == bytes([place % 251]) * (1 << 17)
            most = max(most, pa.total_allocated_bytes() - before)
        assert most + tracemalloc.get_traced_memory()[1] < 25e6
        file.seek(0)
        list(pq.ParquetFile(file, pre_buffer=False).iter_batches(hub_parquet.ROWS))  # negative control
        assert tracemalloc.get_traced_memory()[1] > 60e6
    tracemalloc.stop()


class Stream(io.BytesIO):
    def seekable(self) -> bool:
        return False


def test_inner__refuses() -> None:
    good = parquet_bytes(ROWS)
    with pytest.raises(Refusal, match="row 1 holds no image bytes"):
        inner(parquet_bytes([ROWS[0], (None, "a.jpg", 1)]))
    with pytest.raises(Refusal, match=r"columns picture: struct.*`image` or `img`"):
        inner(parquet_bytes(ROWS, image="picture"))
    with pytest.raises(Refusal, match="no parquet file"):
        inner(good[:-50])
    with pytest.raises(Refusal, match="no parquet file"):
        inner(good[:600] + bytes(200) + good[800:])
    with pytest.raises(Refusal, match="cannot be read from a stream"):
        list(hub_parquet.inner("x.parquet", Stream(good)))
    table = pq.read_table(io.BytesIO(good)).replace_schema_metadata({"huggingface": "{"})
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    with pytest.raises(Refusal, match=r"metadata of .* cannot be understood"):
        inner(buffer.getvalue())


def layout_of(members: list[str], names: dict[str, list[str]] | None = None) -> Layout:
    texts: dict[str, Any] = {f"{file}/label-names.json": {"label_names": one} for file, one in (names or {}).items()}
    entries = [Entry(name, 1, "0", -1) for name in [*members, *texts]]
    return hub_layout.read(entries, lambda entry: json.dumps(texts[entry.member]).encode())


def test_layout__refuses() -> None:
    two = ["a-train.parquet/train/0/0000000-x.jpg", "b-train.parquet/train/1/0000000-x.jpg"]
    assert layout_of(two).classes == ("0", "1")
    assert layout_of(two, {"a-train.parquet": ["same", "same"]}).classes == ("same (0)", "same (1)")
    with pytest.raises(Refusal, match=r"a-train.parquet and b-train.parquet name different classes"):
        layout_of(two, {"a-train.parquet": ["x", "y"], "b-train.parquet": ["y", "x"]})
    with pytest.raises(Refusal, match="name 1 classes, and an image has label 1"):
        layout_of(two, {"a-train.parquet": ["x"]})
    with pytest.raises(Refusal, match=r"others, such as c.parquet, do not"):
        layout_of([*two, "c.parquet/all/0/0000000-x.jpg"])
    with pytest.raises(Refusal, match="no labelled image"):
        layout_of(["a-test.parquet/test/-1/0000000-x.jpg"])
    with pytest.raises(Refusal, match="has label 5000000"):
        layout_of(["a.parquet/all/5000000/0000000-x.jpg"])
