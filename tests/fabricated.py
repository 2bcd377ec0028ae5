"""A small set, its shards and a model, written in the pipeline's formats without running the pipeline: gates are tested on
files whose every row is known, and each fault is planted in one place."""

import hashlib
import io
import json
import struct
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

CLASSES = ["ant", "bee", "cow"]
COUNTS = {"train": 8, "val": 4}  # images of each class
PER_SHARD = 16


def images() -> dict[str, bytes]:
    """Key -> payload: 36 different ones of different lengths; no gate decodes them."""
    rng = np.random.default_rng(0)
    return {
        f"{split}/{name}/{n:03d}": rng.bytes(100 + 7 * n + len(name))
        for split, count in COUNTS.items()
        for name in CLASSES
        for n in range(count)
    }


def manifest() -> pd.DataFrame:
    """The manifest of images(), without a fault, its rows sorted by key."""
    rows = []
    for key, payload in sorted(images().items()):
        split, name, _ = key.split("/")
        digest = hashlib.sha256(payload).hexdigest()
        row = {"key": key, "split": split, "label": CLASSES.index(name), "class_name": name, "member": f"{key}.png"}
        row |= {
            "container": "",
            "offset": -1,
            "bytes": len(payload),
            "sha256": digest,
            "width": 8,
            "height": 8,
            "mode": "L",
        }
        stored = {"stored_bytes": len(payload), "stored_sha256": digest}
        rows.append(row | {"format": "PNG", "orientation": 1, "exif": 1} | stored)
    kinds = {"label": "int32", "width": "int32", "height": "int32", "orientation": "int8", "exif": "int8"}
    return pd.DataFrame(rows).astype(kinds)


def write_parquet(path: Path, table: pd.DataFrame, **metadata: Any) -> None:
    """A parquet file with JSON values as schema metadata."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = pa.Table.from_pandas(table, preserve_index=False)
    pq.write_table(content.replace_schema_metadata({name: json.dumps(value) for name, value in metadata.items()}), path)


def write_manifest(data: Path, table: pd.DataFrame, name: str = "toy") -> None:
    """data/manifest/<name>.parquet."""
    write_parquet(data / f"manifest/{name}.parquet", table, classes=CLASSES)


def write_shards(data: Path, table: pd.DataFrame, name: str = "toy") -> tuple[pd.DataFrame, dict[str, Any]]:
    """data/shards/<name>; returns (rows of the index, its list of tars), for write_index."""
    folder = data / "shards" / name
    folder.mkdir(parents=True, exist_ok=True)
    rows, listed, info = [], {}, {}
    for split in COUNTS:
        mine = table[table["split"] == split]
        lengths = {}
        for n, first in enumerate(range(0, len(mine), PER_SHARD)):
            shard, part = f"{name}-{split}-{n:06d}.tar", mine.iloc[first : first + PER_SHARD]
            rows += write_tar(folder / shard, part)
            content = (folder / shard).read_bytes()
            about = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
            listed[shard] = about | {"images": len(part), "split": split}
            lengths[shard] = len(part)
        info[split] = {
            "name": split,
            "num_samples": len(mine),
            "filenames": list(lengths),
            "shard_lengths": list(lengths.values()),
        }
    (folder / "_info.json").write_text(json.dumps({"splits": info}))
    return pd.DataFrame(rows), listed


def write_tar(path: Path, part: pd.DataFrame) -> list[dict[str, Any]]:
    """A tar of <key>.png, <key>.cls, <key>.json; returns the rows of the index."""
    payloads, rows = images(), []
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for row in part.to_dict("records"):
            key = row["key"]
            members = {"png": payloads[key], "cls": str(row["label"]).encode(), "json": b"{}"}
            placed = {name: row[name] for name in ("key", "split", "label", "sha256", "width", "height", "orientation")}
            rows.append(placed | {"shard": path.name, "offset": tar.offset + 512, "size": len(payloads[key])})
            for extension, content in members.items():
                member = tarfile.TarInfo(f"{key}.{extension}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return rows


def write_index(data: Path, rows: pd.DataFrame, listed: dict[str, Any], name: str = "toy") -> None:
    """data/index/<name>.parquet."""
    table = rows.astype({"shard": "category", "label": "int32"})
    write_parquet(data / f"index/{name}.parquet", table, classes=CLASSES, shards=listed)


def write_set(data: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Everything of the set, without a fault."""
    table = manifest()
    write_manifest(data, table)
    rows, listed = write_shards(data, table)
    write_index(data, rows, listed)
    return rows, listed


def tensors() -> dict[str, np.ndarray]:
    """A tiny distilled transformer's weights, as far as a gate looks."""
    rng = np.random.default_rng(1)
    shapes = {"cls_token": (1, 1, 4), "blocks.0.attn.qkv.weight": (12, 4), "norm.weight": (4,)}
    shapes |= {"head.weight": (3, 4), "head.bias": (3,), "head_dist.weight": (3, 4), "head_dist.bias": (3,)}
    made = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    return made | {"num_batches_tracked": np.array(250_000, dtype=np.int64)}


def write_safetensors(path: Path, content: dict[str, np.ndarray]) -> None:
    """By hand, after the format's own description: length of the header, header, bytes."""
    names = {np.dtype(np.float32): "F32", np.dtype(np.int64): "I64"}
    header, payload = {}, b""
    for name, values in content.items():
        end = len(payload) + values.nbytes
        header[name] = {"dtype": names[values.dtype], "shape": list(values.shape), "data_offsets": [len(payload), end]}
        payload += values.tobytes()
    text = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(text)) + text + payload)


HISTORY = "epoch,loss,lr,val_loss,val_top1\n0,1.2,0.1,,\n1,1.0,0.1,1.1,50\n2,0.9,0.05,1.05,75\n"


def write_model(
    data: Path, name: str, content: dict[str, np.ndarray], history: str = HISTORY, classes: int = 3
) -> None:
    """data/models/<name> and data/history/<name>.csv."""
    write_safetensors(data / f"models/{name}/model.safetensors", content)
    config = {"architecture": "toy", "num_classes": classes, "label_names": CLASSES[:classes]}
    config |= {"pretrained_cfg": {"classifier": ["head", "head_dist"]}}
    (data / f"models/{name}/config.json").write_text(json.dumps(config))
    (data / "history").mkdir(exist_ok=True)
    (data / f"history/{name}.csv").write_text(history)
