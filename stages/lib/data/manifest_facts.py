"""Facts about a manifest: what the gate before sharding looks at.

images  one row an image, as the manifest has it, with what can be known only by looking at the others
classes one row a class and split, also where the split has none of it
set     one row
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from stages.lib.core import parquet

SPLITS = ("train", "val", "test")
GUIDE = {
    "images": {
        "key": "names the image everywhere",
        "split": "train, val or test",
        "label": "number of its class",
        "class_name": "name of its class",
        "member": "file in the raw source",
        "container": "raw archive it lies in; empty for a file of its own, or where the source is one plain tar",
        "offset": "first byte in there, -1 where it has no place of its own",
        "bytes": "size of the image file",
        "sha256": "of the image file",
        "width": "pixels",
        "height": "pixels",
        "mode": "how Pillow reads its pixels",
        "format": "by content, whatever the name says",
        "orientation": "EXIF turn that will be applied",
        "exif": "EXIF turn found in the file",
        "stored_bytes": "size as shards hold it",
        "stored_sha256": "of the image as shards hold it",
        "listed_classes": "classes the manifest lists; a label is smaller",
        "listed_name": "name the manifest lists for this label",
        "same_bytes_in": "split and key of an image with the same bytes in an earlier split; train comes before val before test",
    },
    "classes": {
        "split": "each split that has images",
        "label": "number of the class",
        "class_name": "its name",
        "images": "images of it in this split",
        "share": "of the split's images",
    },
    "set": {
        "set": "name of the set",
        "images": "all splits",
        "train_images": "images to learn from",
        "val_images": "images to measure with",
        "test_images": "images nothing is chosen by",
        "listed_classes": "classes the manifest lists",
        "seen_classes": "labels that some image has",
        "repeated_class_names": "names listed more than once",
        "train_class_ratio": "images of the largest class in train over the smallest that has any",
        "copies_inside_splits": "images whose bytes another image of their split has too, the first not counted",
        "copies_share": "of all images",
    },
}
WIDTHS = {"label": pa.int32(), "width": pa.int32(), "height": pa.int32(), "orientation": pa.int8(), "exif": pa.int8()}
WHOLE = {"offset", "bytes", "stored_bytes", *WIDTHS}  # the columns of numbers
SCHEMA = pa.schema(
    [
        (name, WIDTHS.get(name, pa.int64()) if name in WHOLE else pa.string())
        for name in GUIDE["images"]
        if name not in ("listed_classes", "listed_name", "same_bytes_in")
    ]
)
"""The manifest's columns."""
NAMING = {"images": ("key", "split", "member", "offset"), "classes": ("split", "class_name"), "set": ("set",)}


def read(manifest: Path, set_name: str) -> dict[str, pd.DataFrame]:
    """Tables of facts by name, with the columns of GUIDE. Raises Refusal where the file is damaged."""
    content = parquet.read(manifest, SCHEMA)
    with parquet.understood(manifest):
        classes = parquet.classes(content.schema.metadata)
    images = content.to_pandas()
    images["listed_classes"] = len(classes)
    images["listed_name"] = listed_names(images["label"].to_numpy(), classes)
    images["same_bytes_in"] = same_bytes_in(images)
    per_class = class_counts(images, classes)
    return {"images": images, "classes": per_class, "set": whole_set(images, per_class, classes, set_name)}


def listed_names(labels: np.ndarray, classes: list[str]) -> np.ndarray:
    """str[N]: the class list's name of every label; empty for a label that is not in it."""
    listed = (labels >= 0) & (labels < len(classes))
    return np.array([*classes, ""], dtype=object)[np.where(listed, labels, len(classes))]


def same_bytes_in(images: pd.DataFrame) -> pd.Series:
    """str[N]: `train <key>` where an earlier split holds the same bytes; empty where none does."""
    found = pd.Series("", index=images.index, dtype=object)
    shared = images[images["sha256"].duplicated(keep=False)]
    seen = pd.Series(dtype=object)  # sha256 -> the first place it was met
    for split in SPLITS:
        mine = shared[shared["split"] == split]
        found[mine.index] = mine["sha256"].map(seen).fillna("")
        first = mine[~mine["sha256"].isin(seen.index)].drop_duplicates("sha256")
        seen = pd.concat(
            [seen, pd.Series((split + " " + first["key"]).to_numpy(object), index=first["sha256"], dtype=object)]
        )
    return found


def class_counts(images: pd.DataFrame, classes: list[str]) -> pd.DataFrame:
    """One row for every listed class in every split that has images, the empty ones included."""
    splits = [split for split in SPLITS if (images["split"] == split).any()]
    every = pd.MultiIndex.from_product([splits, range(len(classes))], names=["split", "label"])
    counts = images.groupby(["split", "label"]).size().reindex(every, fill_value=0).rename("images").reset_index()
    counts["class_name"] = listed_names(counts["label"].to_numpy(int), classes)
    total = counts["split"].map(images["split"].value_counts()).astype(float)
    counts["share"] = counts["images"] / total
    return counts


def whole_set(images: pd.DataFrame, per_class: pd.DataFrame, classes: list[str], set_name: str) -> pd.DataFrame:
    """The set in one row."""
    train = per_class.loc[(per_class["split"] == "train") & (per_class["images"] > 0), "images"]
    copies = int(images.duplicated(["split", "sha256"]).sum())
    row = {
        "set": set_name,
        "images": len(images),
        **{f"{split}_images": int((images["split"] == split).sum()) for split in SPLITS},
        "listed_classes": len(classes),
        "seen_classes": int(images.loc[images["listed_name"] != "", "label"].nunique()),
        "repeated_class_names": len(classes) - len(set(classes)),
        "train_class_ratio": train.max() / train.min() if len(train) else np.nan,
        "copies_inside_splits": copies,
        "copies_share": copies / max(len(images), 1),
    }
    return pd.DataFrame([row])
