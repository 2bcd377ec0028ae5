"""Parquet files as the hub stores data sets: others write them, `ingest` reads them."""

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from stages.lib.ingestion import hub_parquet
from tests.fuzz.tables import footer, pages
from tests.fuzz.target import Target


def made(compression: str, version: str) -> bytes:
    """40 rows, with class names in the metadata."""
    rows = [{"bytes": b"image %d" % n * 20, "path": f"{n}.jpg"} for n in range(40)]
    about = {"info": {"features": {"label": {"names": ["ant", "bee"], "_type": "ClassLabel"}}}}
    table = pa.table({"image": rows, "label": pa.array([n % 2 for n in range(40)])})
    out = io.BytesIO()
    table = table.replace_schema_metadata({"huggingface": json.dumps(about)})
    pq.write_table(table, out, compression=compression, data_page_version=version, row_group_size=16)
    return out.getvalue()


def target(_folder: Path) -> Target:
    """Every image."""

    def read(path: Path) -> None:
        with path.open("rb") as file:
            for name, data in hub_parquet.inner("train-0.parquet", file):
                assert isinstance(name, str) and isinstance(data, bytes)

    good = [made("snappy", "1.0"), made("none", "2.0"), made("zstd", "1.0")]
    return Target(read, good, [b"PAR1", b"huggingface", b"[]", b"{}"], [footer, footer, pages])
