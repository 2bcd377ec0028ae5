"""Measure student and fine-tuned model on another set of the same classes: ImageNet-V2, -A, -R, -Sketch, or one of your own.

in    data/index/<set>.parquet              every image of it, whatever split ingestion gave it
      data/index/<main>.parquet             names of the classes that the models know
      data/models/{student,finetuned}
out   data/metrics/robust-<set>.json        both models' numbers, among the set's classes alone
run   dvc repro -s robust@<set>
"""

import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stages.lib.core import files, load, ranks
from stages.lib.data.index import read_index, splits
from stages.lib.data.published import shards_of
from stages.lib.params.evaluate import Evaluate
from stages.lib.params.published import PublishedUri
from stages.lib.params.system import System
from stages.lib.training import launcher, measure, others
from stages.lib.training.accuracy import Tally
from stages.lib.training.measure import Measured

log = logging.getLogger(__name__)
MODELS = ("student", "finetuned")


def main() -> None:
    """Measure, and write. Raises Refusal where a class is none of the main set's."""
    set_name, main_name = sys.argv[1:3]
    cfg, system = load.load("evaluate", Evaluate), load.load("system", System)
    main_set = read_index(Path(f"data/index/{main_name}.parquet"), "train")
    path = Path(f"data/index/{set_name}.parquet")
    shards = shards_of(set_name, load.load_optional("shard", "published_uri", PublishedUri), system)
    parts = [read_index(path, split) for split in splits(path)]
    columns = others.places(parts[0].classes, main_set)
    values: dict[str, Any] = {
        "set": set_name,
        "main": main_name,
        "images": sum(map(len, parts)),
        "classes": len(columns),
    }
    for name in MODELS:
        model = Path(f"data/models/{name}")
        values[name] = together(
            [measure.examine(model, part, shards, cfg.batch_size, system, among=(main_set, columns)) for part in parts]
        )
    if not ranks.first():
        return
    with files.replace(Path(f"data/metrics/robust-{set_name}.json")) as temporary:
        temporary.write_text(json.dumps(values, indent=1) + "\n")
    for name in MODELS:
        heads = ", ".join(f"{head} {numbers['top1']:.2f} %" for head, numbers in values[name]["heads"].items())
        log.info(
            "%s on the %d images of %s, of its %d classes: top-1 %s",
            name,
            values["images"],
            set_name,
            len(columns),
            heads,
        )


def together(parts: Sequence[Measured]) -> dict[str, Any]:
    """Of the splits of a set, measured one after the other, what metrics say of a model."""
    tally, first = Tally(parts[0].tally.classes), parts[0]
    tally.batches = [batch for part in parts for batch in part.tally.batches]
    about = {
        "image_size": first.preparation.size,
        "parameters": first.parameters,
        "macs": first.macs,
        "stamp": first.stamp,
    }
    return about | tally.metrics()


if __name__ == "__main__":
    launcher.run("robust", main)
