"""Measure a trained model: every image of the split exactly once, every head (Touvron et al. 2021, section 4).

in    data/index/<set>.parquet                where every image lies in the shards
      data/models/<model>                     weights, and the preprocessing they want
out   data/metrics/<model>.json               accuracy and likelihood of every head, agreement of the heads
      data/predictions/<model>.parquet        one row an image
      data/plots/<model>-confusion.csv        actual and predicted class, one row an image
      data/plots/<model>-classes.csv          images and top-1 of every class
run   dvc repro -s evaluate@<model>
"""

import csv
import json
import logging
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stages.lib.core import files, load, ranks
from stages.lib.data.index import read_index
from stages.lib.data.published import shards_of
from stages.lib.params.evaluate import Evaluate
from stages.lib.params.published import PublishedUri
from stages.lib.params.system import System
from stages.lib.training import accuracy, launcher, measure
from stages.lib.training.accuracy import Judged
from stages.lib.training.measure import Measured

log = logging.getLogger(__name__)


def main() -> None:
    """Measure, and write numbers, predictions and what plots are drawn from."""
    name, set_name = sys.argv[1:3]
    cfg, system = load.load("evaluate", Evaluate), load.load("system", System)
    index = read_index(Path(f"data/index/{set_name}.parquet"), cfg.split)
    shards = shards_of(set_name, load.load_optional("shard", "published_uri", PublishedUri), system)
    measured = measure.examine(Path(f"data/models/{name}"), index, shards, cfg.batch_size, system)
    if not ranks.first():
        return
    metrics, heads = measured.metrics(), measured.tally.heads()
    model = heads.get("fused_logits", heads["class"])  # what timm's forward in eval mode gives
    write_predictions(Path(f"data/predictions/{name}.parquet"), measured, heads, model)
    names = np.array(index.classes)
    pairs = zip(names[index.labels], names[model.predicted], strict=True)
    write_csv(Path(f"data/plots/{name}-confusion.csv"), ("actual", "predicted"), pairs)
    write_csv(Path(f"data/plots/{name}-classes.csv"), ("class", "images", "top1"), class_rows(measured, model))
    with files.replace(Path(f"data/metrics/{name}.json")) as temporary:
        temporary.write_text(json.dumps(metrics, indent=1) + "\n")
    numbers = ", ".join(f"{head} {values['top1']:.2f} %" for head, values in metrics["heads"].items())
    log.info("%s on the %d %s images of %s: top-1 %s", name, len(index), cfg.split, set_name, numbers)


def write_predictions(path: Path, measured: Measured, heads: dict[str, Judged], model: Judged) -> None:
    """key, label, <head>_top1 of every head, model_top1 and model_prob: the softmax of what the model's forward gives."""
    columns = {
        "key": pa.array(measured.index.keys, pa.string()),
        "label": pa.array(measured.index.labels, pa.int32()),
        **{f"{head}_top1": pa.array(judged.predicted) for head, judged in heads.items()},
        "model_top1": pa.array(model.predicted),
        "model_prob": pa.array(model.probability),
    }
    with files.replace(path) as temporary:
        pq.write_table(pa.table(columns), temporary, compression="zstd")


def class_rows(measured: Measured, model: Judged) -> Iterable[tuple[str, int, str]]:
    """(class, images, top-1 in percent) in the order of labels; no accuracy where the split has no image."""
    classes = measured.index.classes
    images, right = accuracy.per_class(model.predicted, measured.tally.labels, len(classes))
    for name, count, hits in zip(classes, images.tolist(), right.tolist(), strict=True):
        yield name, count, f"{100 * hits / count:.4f}" if count else ""


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table for `dvc plots`."""
    with files.replace(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(header)
        table.writerows(rows)


if __name__ == "__main__":
    launcher.run("evaluate", main)
