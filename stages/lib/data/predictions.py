"""data/predictions/<model>.parquet: what a model says of every image of a split, a row an image, in the order of the index.

key str, label i32, <head>_top1 i32 of every head, model_top1 i32, model_prob f32 and model_nll f32: the class that the model's
own forward gives, its softmax, and the negative log-likelihood of the label in nats. Metadata: about (JSON {set, split, stamp}),
under a seal.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stages.lib.core import files, parquet, seal
from stages.lib.core.outcome import Refusal
from stages.lib.data import stamp
from stages.lib.data.stamp import Stamp

HEADS = ("class", "dist", "fused_logits", "fused_probs")
ROUNDING = 1e-4  # metrics have four decimals
OWN = "model"  # what the model's own forward gives
BASE = {"key": pa.string(), "label": pa.int32(), f"{OWN}_top1": pa.int32()}


@dataclass(frozen=True)
class Predictions:
    """Answers of one model; the set, split and stamp are empty for a file from before they were written."""

    path: Path
    set_name: str
    split: str
    stamp: Stamp
    keys: list[str]
    labels: np.ndarray
    """i32[N]."""
    heads: dict[str, np.ndarray]
    """Predicted classes i32[N] of every head, and of the model itself (OWN)."""

    def right(self, head: str) -> np.ndarray:
        """bool[N]: where a head is right."""
        found: np.ndarray = self.heads[head] == self.labels
        return found


def write(path: Path, columns: Mapping[str, pa.Array], set_name: str, split: str, stamp: Stamp) -> None:
    """Replace the file."""
    about = {"set": set_name, "split": split, "stamp": stamp}
    table = pa.table(dict(columns)).replace_schema_metadata(seal.sealed({b"about": json.dumps(about).encode()}))
    with files.replace(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)


def read(path: Path) -> Predictions:
    """Raises Refusal where there is no such file, or it is damaged."""
    if not path.is_file():
        raise Refusal(
            f"There is no {path}: `dvc repro evaluate@{path.stem}` makes it, `dvc pull {path}` fetches one made elsewhere."
        )
    with parquet.understood(path):
        there = [head for head in HEADS if f"{head}_top1" in pq.read_schema(path).names]
    table = parquet.read(path, pa.schema(BASE | {f"{head}_top1": pa.int32() for head in there}))
    with parquet.understood(path):
        about: dict[str, Any] = {"set": "", "split": "", "stamp": []} | json.loads(
            (table.schema.metadata or {}).get(b"about", b"{}")
        )
        numbers = {name: np.from_dlpack(table[name].combine_chunks()) for name in table.column_names if name != "key"}
        answers = {head: numbers[f"{head}_top1"] for head in (*there, OWN)}
        keys = table["key"].to_pylist()
        if not keys:
            raise ValueError("it holds no image")
    return Predictions(path, about["set"], about["split"], about["stamp"], keys, numbers["label"], answers)


def contradiction(found: Predictions, metrics: Mapping[str, Any]) -> str:
    """What metrics say that their predictions do not, in a few words; empty where both may be of one measurement."""
    if found.stamp and metrics.get("stamp") and (apart := stamp.difference(metrics["stamp"], found.stamp)):
        return f"they were made from different {apart}"
    if metrics["images"] != len(found.keys):
        return f"{metrics['images']:,} images were measured, {len(found.keys):,} predicted"
    for head, values in metrics["heads"].items():
        top1 = 100 * float(found.right(head).mean()) if head in found.heads else None
        if top1 is None or abs(top1 - values["top1"]) > ROUNDING:
            return (
                f"heads.{head}.top1 is {values['top1']}, of the predictions {top1 if top1 is None else round(top1, 4)}"
            )
    return ""


def must_share(first: Predictions, second: Predictions) -> None:
    """Raise Refusal unless both are of the same images, in one order and with the same labels."""
    again = f"Measure both on one set and split: {first.path} and {second.path} are not comparable"
    if first.keys != second.keys:
        odd = len(set(first.keys) ^ set(second.keys))
        what = f"{odd:,} keys are in one alone" if odd else "the same keys, in another order"
        raise Refusal(
            f"{again}: {len(first.keys):,} images and {len(second.keys):,}, {what} "
            f"(set and split {_where(first)} and {_where(second)})."
        )
    if (other := np.flatnonzero(first.labels != second.labels)).size:
        row = int(other[0])
        raise Refusal(
            f"{again}: {other.size:,} of {len(first.keys):,} images have another label, the first is {first.keys[row]} "
            f"with {first.labels[row]} and {second.labels[row]}."
        )


def _where(one: Predictions) -> str:
    return f"{one.set_name} {one.split}".strip() or "unknown"
