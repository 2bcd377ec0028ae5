"""Fine-tune the trained model on another set (Touvron et al. 2021, Table 7).

in    data/index/<set>.parquet             the set's own images
      data/models/<transfer.model>         its heads are replaced
out   data/models/transfer-<set>           a timm folder
      data/metrics/transfer-<set>.json     on the set's test split, else on its validation split
      data/predictions/transfer-<set>.parquet      likewise, one row an image
      data/plots/transfer-<set>-reliability.csv    likewise
      data/history/transfer-<set>.csv      one row an epoch
      <run root>/transfer@<set>            checkpoints, metrics.jsonl, TensorBoard (survive a crash, no DVC out)
run   dvc repro -s transfer@<set>
"""

import sys
from functools import partial
from pathlib import Path

import torch

from stages.lib.core import load, ranks, runs
from stages.lib.core.signals import Watch
from stages.lib.data.index import read_index, splits
from stages.lib.data.published import shards_of
from stages.lib.models import architecture, deit, folder
from stages.lib.objectives.classify import Classify
from stages.lib.params.published import PublishedUri
from stages.lib.params.system import System
from stages.lib.params.transfer import Transfer
from stages.lib.training import classifier, evidence, history, launcher, machine, measure, transformer_kernels
from stages.lib.training.classifier import Material


def main() -> None:
    """Transfer, or go on; write the model and its measured accuracy."""
    set_name = sys.argv[1]
    cfg, system = load.load("transfer", Transfer), load.load("system", System)
    index_path = Path(f"data/index/{set_name}.parquet")
    shards = shards_of(set_name, load.load_optional("shard", "published_uri", PublishedUri), system)
    origin, name = Path(f"data/models/{cfg.model}"), f"transfer-{set_name}"
    watch = Watch()
    with runs.open_run("transfer", set_name, [cfg], [index_path, origin], ranks.first()) as run:
        device = machine.prepare(run, system)
        material = Material(read_index(index_path, "train"), read_index(index_path, "val"), shards)
        classes = material.train.classes
        student = deit.enlarge(folder.load(origin)[0], cfg.views.image_size, cfg.drop_path, cfg.drop_path_shape)
        deit.fresh_heads(student, len(classes), cfg.head_std, torch.Generator().manual_seed(cfg.views.seed))
        objective = Classify(student, deit.mean_logits, len(classes), cfg.label_smoothing).to(device)
        transformer_kernels.prepare_classifier(run, student, cfg, system)
        rows = classifier.train(
            name, objective, student, partial(deit.mean_logits, student), cfg, material, run, system, watch
        )
        if not ranks.first():
            return
        kind, arguments = architecture.classifier(deit.sizes(student), cfg.views.image_size, deit.is_distilled(student))
        size, derived = cfg.views.image_size, folder.lineage(origin)
        folder.save(
            student, Path("data/models") / name, kind, arguments, size, cfg.crop_pct, classes, derived_from=derived
        )
        history.write(Path(f"data/history/{name}.csv"), rows)
        split = "test" if "test" in splits(index_path) else "val"
        index = read_index(index_path, split)
        evidence.write(name, measure.examine(Path("data/models") / name, index, shards, 256, system, shared=False))


if __name__ == "__main__":
    launcher.run("transfer", main, groups=lambda: load.load("transfer", Transfer).groups)
