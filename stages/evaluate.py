"""Measure a trained model: every image of the split exactly once, every head (Touvron et al. 2021, section 4).

in    data/index/<set>.parquet                where every image lies in the shards
      data/models/<model>                     weights, and the preprocessing they want
out   data/metrics/<model>.json               accuracy, likelihood and calibration of every head, agreement of the heads
      data/predictions/<model>.parquet        one row an image
      data/plots/<model>-reliability.csv      of every head, confidence and accuracy by confidence
      data/plots/<model>-confusion.csv        actual and predicted class, one row an image
      data/plots/<model>-classes.csv          images and top-1 of every class
run   dvc repro -s evaluate@<model>
"""

import logging
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from stages.lib.core import load, ranks
from stages.lib.data.index import read_index
from stages.lib.data.published import shards_of
from stages.lib.params.evaluate import Evaluate
from stages.lib.params.published import PublishedUri
from stages.lib.params.system import System
from stages.lib.training import accuracy, evidence, launcher, measure
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
    model, names = evidence.own(measured.tally.heads()), np.array(index.classes)
    pairs = zip(names[index.labels], names[model.predicted], strict=True)
    evidence.write_csv(Path(f"data/plots/{name}-confusion.csv"), ("actual", "predicted"), pairs)
    classes = class_rows(measured, model)
    evidence.write_csv(Path(f"data/plots/{name}-classes.csv"), ("class", "images", "top1"), classes)
    metrics = evidence.write(name, measured)
    numbers = ", ".join(f"{head} {values['top1']:.2f} %" for head, values in metrics["heads"].items())
    log.info("%s on the %d %s images of %s: top-1 %s", name, len(index), cfg.split, set_name, numbers)


def class_rows(measured: Measured, model: Judged) -> Iterable[tuple[str, int, str]]:
    """(class, images, top-1 in percent) in the order of labels; no accuracy where the split has no image."""
    classes = measured.index.classes
    images, right = accuracy.per_class(model.predicted, measured.tally.labels, len(classes))
    for name, count, hits in zip(classes, images.tolist(), right.tolist(), strict=True):
        yield name, count, f"{100 * hits / count:.4f}" if count else ""


if __name__ == "__main__":
    launcher.run("evaluate", main)
