"""Facts about shards: the manifest, the index and every byte of the tars, held against each other.

images  one row for every index row, and one for each key that only the manifest or only a tar knows
shards  one row a tar, of the index or of the folder
splits  one row a split
set     one row
"""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from stages.lib.core import parquet
from stages.lib.data.tar_look import Look, look

GUIDE = {
    "images": {
        "key": "names the image everywhere",
        "split": "by the index",
        "shard": "tar it lies in",
        "offset": "its first byte there",
        "size": "its bytes, by the index",
        "label": "by the index",
        "sha256": "by the index",
        "times_in_manifest": "rows with this key",
        "times_in_index": "rows with this key",
        "times_in_shards": "images with this key, counted in the tars themselves",
        "split_in_manifest": "",
        "label_in_manifest": "",
        "width": "of the stored image, by the index",
        "height": "",
        "sha256_in_manifest": "of the image file",
        "stored_bytes_in_manifest": "of the image where shards hold it as it is",
        "stored_sha256_in_manifest": "",
        "split_of_shard": "split that the index lists for the tar",
        "label_in_shard": "what its .cls file says, -1 without one",
        "store": "by the index: original, or anew where large images are stored smaller (shard.store)",
        "stored_anew": "1: its .json says that it was made smaller; 0: it is held as it is",
        "original_sha256_in_shard": "of the file it was made of, as its .json says",
        "width_in_shard": "of an image stored anew, in the image's own header",
        "height_in_shard": "",
        "stored_bytes_match": "whether the bytes at its place in the tar have its sha256",
    },
    "shards": {
        "shard": "tar in the index or in the folder",
        "split": "by the index",
        "problem": "why it could not be read to its end",
        "bytes": "on disk, -1 where the file is missing",
        "bytes_in_index": "",
        "sha256": "of the file",
        "sha256_in_index": "",
        "images": "counted in the tar",
        "images_in_index": "rows of the index in it",
        "images_listed": "what the index's list of tars says",
        "images_in_info": "what _info.json says, which timm reads",
    },
    "splits": {
        "split": "",
        "images_in_manifest": "",
        "images_in_index": "",
        "images_in_shards": "counted in the tars",
        "images_in_info": "what _info.json says, which timm reads",
    },
    "set": {
        "set": "name of the set",
        "images": "counted in the tars",
        "images_in_manifest": "",
        "images_in_index": "",
        "shards": "tars on disk",
        "bytes": "of the tars on disk",
    },
}
FROM_MANIFEST: dict[str, Any] = {"split": "", "label": -1, "sha256": "", "stored_bytes": -1, "stored_sha256": ""}
TYPES = {"label": pa.int32(), "stored_bytes": pa.int64(), "offset": pa.int64(), "size": pa.int64(), "width": pa.int32(),
         "height": pa.int32()}  # fmt: skip
"""Of the columns of numbers; the others are texts."""
MANIFEST = pa.schema([(name, TYPES.get(name, pa.string())) for name in ("key", *FROM_MANIFEST)])
INDEX = pa.schema(
    [
        (name, TYPES.get(name, pa.string()))
        for name in ("key", "split", "shard", "offset", "size", "label", "sha256", "width", "height")
    ]
)
FROM_SHARDS: dict[str, Any] = {
    "label_in_shard": -1,
    "stored_anew": 0,
    "original_sha256_in_shard": "",
    "width_in_shard": -1,
    "height_in_shard": -1,
}
"""Columns of each, and what stands where an image is not there."""
NAMING = {
    "images": ("key", "shard", "offset", "split"),
    "shards": ("shard", "split"),
    "splits": ("split",),
    "set": ("set",),
}


def read(manifest: Path, index: Path, folder: Path, set_name: str) -> dict[str, pd.DataFrame]:
    """Tables of facts by name, with the columns of GUIDE. Reads every shard; one image at a time is in memory for each core.

    Raises Refusal where one of the two parquet files is damaged.
    """
    wanted = parquet.read(manifest, MANIFEST).to_pandas()
    content = parquet.read(index, INDEX)
    with parquet.understood(index):
        listed = parquet.shards(content.schema.metadata)
        parquet.file_names(content["shard"].unique().to_pylist())
    store = "anew" if b"store" in content.schema.metadata else "original"
    placed = content.to_pandas().astype({"shard": "str"})
    rows = placed.groupby("shard").indices
    names = sorted({*listed, *rows, *(path.name for path in folder.glob("*.tar"))})
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashing and reading leave Python's lock
        done = pool.map(lambda name: look(folder / name, placed.iloc[rows.get(name, [])]), names)
        looks = dict(zip(names, done, strict=True))
    stored = pd.concat([look.found.assign(shard=name) for name, look in looks.items()], ignore_index=True)
    match = np.zeros(len(placed), dtype=bool)
    for name, places in rows.items():
        match[places] = looks[name].match
    info = read_info(folder / "_info.json")
    images = compare(wanted, placed.assign(stored_bytes_match=match), stored, listed).assign(store=store)
    shards = shard_table(names, looks, listed, placed, info)
    present = shards.loc[shards["bytes"] >= 0, "bytes"]
    whole = {
        "set": set_name,
        "images": len(stored),
        "images_in_manifest": len(wanted),
        "images_in_index": len(placed),
        "shards": len(present),
        "bytes": int(present.sum()),
    }
    splits = split_table(wanted, placed, shards, info)
    return {"images": images, "shards": shards, "splits": splits, "set": pd.DataFrame([whole])}


def compare(
    wanted: pd.DataFrame, placed: pd.DataFrame, stored: pd.DataFrame, listed: dict[str, dict[str, Any]]
) -> pd.DataFrame:
    """The images table: the index's rows, then what it does not know."""
    first = {
        "manifest": wanted.drop_duplicates("key").set_index("key"),
        "shards": stored.drop_duplicates("key").set_index("key"),
    }
    known = pd.concat([wanted["key"], stored["key"]]).drop_duplicates()
    rest = pd.DataFrame({"key": known[~known.isin(placed["key"])]})
    for column, empty in (("shard", ""), ("offset", -1)):
        rest[column] = _mapped(rest["key"], first["shards"][column], empty)
    for column, empty in (("split", ""), ("label", -1)):
        rest[column] = _mapped(rest["key"], first["manifest"][column], empty)
    empty_row = {"size": -1, "sha256": "", "width": -1, "height": -1, "stored_bytes_match": False}
    images = pd.concat([placed, rest.assign(**empty_row)], ignore_index=True)
    for where, table in (("manifest", wanted), ("index", placed), ("shards", stored)):
        images[f"times_in_{where}"] = _mapped(images["key"], table["key"].value_counts(), 0)
    for column, empty in FROM_MANIFEST.items():
        images[f"{column}_in_manifest"] = _mapped(images["key"], first["manifest"][column], empty)
    for column, empty in FROM_SHARDS.items():
        images[column] = _mapped(images["key"], first["shards"][column], empty)
    images["split_of_shard"] = (
        images["shard"].map({name: about.get("split", "") for name, about in listed.items()}).fillna("")
    )
    return images


def shard_table(
    names: list[str],
    looks: dict[str, Look],
    listed: dict[str, dict[str, Any]],
    placed: pd.DataFrame,
    info: dict[str, Any],
) -> pd.DataFrame:
    """One row a tar."""
    lengths = {
        name: n for part in info.values() for name, n in zip(part["filenames"], part["shard_lengths"], strict=False)
    }
    counts = placed["shard"].value_counts()
    rows = []
    for name in names:
        about, seen = listed.get(name, {}), looks[name]
        rows.append(
            {
                "shard": name,
                "split": about.get("split", ""),
                "problem": seen.problem,
                "bytes": seen.bytes,
                "bytes_in_index": about.get("bytes", -1),
                "sha256": seen.sha256,
                "sha256_in_index": about.get("sha256", ""),
                "images": len(seen.found),
                "images_in_index": int(counts.get(name, 0)),
                "images_listed": about.get("images", 0),
                "images_in_info": lengths.get(name, 0),
            }
        )
    return pd.DataFrame(rows, columns=list(GUIDE["shards"]))


def split_table(wanted: pd.DataFrame, placed: pd.DataFrame, shards: pd.DataFrame, info: dict[str, Any]) -> pd.DataFrame:
    """One row a split, of the manifest, the index or _info.json."""
    splits = pd.Series(sorted({*wanted["split"], *placed["split"], *info}), dtype="str")
    return pd.DataFrame(
        {
            "split": splits,
            "images_in_manifest": _mapped(splits, wanted["split"].value_counts(), 0),
            "images_in_index": _mapped(splits, placed["split"].value_counts(), 0),
            "images_in_shards": _mapped(splits, shards.groupby("split")["images"].sum(), 0),
            "images_in_info": splits.map(lambda split: info.get(split, {"num_samples": 0})["num_samples"]),
        }
    )


def read_info(path: Path) -> dict[str, Any]:
    """Splits of timm's _info.json; none where it is missing or unreadable, and the counts then show it."""
    try:
        splits: dict[str, Any] = json.loads(path.read_text())["splits"]
        whole = [_is_split(part) for part in splits.values()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
    return splits if all(whole) else {}


def _is_split(part: dict[str, Any]) -> bool:
    """Whether the counts and names are some. Raises KeyError, TypeError."""
    lengths = [part["num_samples"], *part["shard_lengths"]]
    return all(isinstance(one, int) for one in lengths) and all(isinstance(one, str) for one in part["filenames"])


def _mapped(keys: pd.Series, values: pd.Series, empty: Any) -> pd.Series:
    """values[keys], `empty` where there is none; numbers stay whole."""
    found = keys.map(values)
    return found.fillna(empty).astype("int64" if isinstance(empty, int) else "str")
