"""Opens an image parquet file as the hub stores data sets: every image's bytes, and the class names its schema carries.

Columns: `image` or `img`, a struct<bytes, path>, and `label` or `fine_label`, whole numbers; -1 or null: not labelled.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from stages.lib.core.outcome import Refusal
from stages.lib.ingestion.inner_names import plain
from stages.lib.ingestion.split_names import split_of

IMAGES, LABELS = ("image", "img"), ("label", "fine_label")
NAMES = "label-names.json"
"""The path under which class names come out, where the file has some: {"label_names": [...]}, index = label."""
NO_SPLIT = "all"
ROWS = 32  # images in memory at once
BUFFER = 1 << 20  # bytes; without it Arrow holds a row group's whole column, 100 MB and more


def opens(path: str) -> bool:
    """Whether a file of this name is one."""
    return path.lower().endswith(".parquet")


def inner(name: str, file: BinaryIO) -> Iterator[tuple[str, bytes]]:
    """(NAMES, JSON) if there are names, then (`<split>/<label>/<row:07d>-<name>`, image bytes) in the file's order.

    split: from the file's name (split_names), or NO_SPLIT. file: seekable, since a parquet file is described at its end.
    Raises Refusal for other columns, rows without bytes and what cannot be read.
    """
    if not file.seekable():
        raise Refusal(f"{name} cannot be read from a stream, for a parquet file is described at its end. Unpack it.")
    split = split_of(name) or NO_SPLIT
    try:
        table = pq.ParquetFile(file, buffer_size=BUFFER, pre_buffer=False)
        image, label = _columns(name, table.schema_arrow)
        if names := _class_names(name, table.schema_arrow.metadata or {}, label):
            yield NAMES, json.dumps({"label_names": names}, ensure_ascii=False).encode()
        row = 0
        for part in table.iter_batches(batch_size=ROWS, columns=[image, label], use_threads=False):
            for found, number in zip(part[image].to_pylist(), part[label].to_pylist(), strict=True):
                yield _inner(name, split, row, found, -1 if number is None else number)
                row += 1
    except (
        pa.ArrowException,
        OSError,
        ValueError,
        KeyError,
        IndexError,
        MemoryError,
    ) as error:  # Arrow's words for damage
        raise Refusal(
            f"{name} is no parquet file that can be read to its end ({type(error).__name__}: {str(error)[:300]}). Get it again."
        ) from None


def _inner(name: str, split: str, row: int, found: dict[str, Any] | None, label: int) -> tuple[str, bytes]:
    data = (found or {}).get("bytes")
    if data is None:
        raise Refusal(
            f"{name}: row {row} holds no image bytes, only a path or nothing. Get the files with the images inside."
        )
    stem = plain((found or {}).get("path") or "image")
    return f"{split}/{label}/{row:07d}-{stem}", data


def _columns(name: str, schema: pa.Schema) -> tuple[str, str]:
    """Names of the image and the label column. Raises Refusal."""
    image = next((column for column in IMAGES if column in schema.names), "")
    label = next((column for column in LABELS if column in schema.names), "")
    good = (
        image
        and label
        and pa.types.is_struct(schema.field(image).type)
        and "bytes" in [field.name for field in schema.field(image).type]
        and pa.types.is_integer(schema.field(label).type)
    )
    if not good:
        found = ", ".join(f"{field.name}: {field.type}" for field in schema)
        raise Refusal(
            f"{name} has the columns {found}. An image data set of the hub has `image` or `img`, a struct<bytes, path>, "
            "and `label` or `fine_label`, a whole number."
        )
    return image, label


def _class_names(name: str, metadata: dict[bytes, bytes], label: str) -> Sequence[str]:
    """Those of the ClassLabel in the metadata that the hub's library writes; empty where there is none."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
        names: list[str] = features.get(label, {}).get("names") or []
    except (ValueError, AttributeError):
        raise Refusal(
            f"The `huggingface` metadata of {name} cannot be understood, so its class names are lost. Get it again."
        ) from None
    if not isinstance(names, list) or not all(isinstance(one, str) for one in names):
        raise Refusal(f"The class names of `{label}` in {name} are no list of texts. Get it again.")
    return names
