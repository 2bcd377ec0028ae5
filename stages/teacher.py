"""Get the RegNetY teacher: train it, or fetch weights somebody else trained.

in    data/index/<set>.parquet    where every image lies in the shards
      <teacher.fetch.path>        with teacher.fetch: its sha256 is checked
out   data/models/teacher         a timm folder
      data/history/teacher.csv    one row an epoch; a fetched teacher has one row with its measured top-1
      <run root>/teacher          checkpoints, metrics.jsonl, TensorBoard (survive a crash, no DVC out)
run   dvc repro -s teacher
"""

import sys
from pathlib import Path

import torch
from torch import nn

from stages.lib.core import files, load, outcome, runs
from stages.lib.core.signals import Watch
from stages.lib.data.index import read_index
from stages.lib.data.published import shards_of
from stages.lib.models import fetched, folder
from stages.lib.models import teacher as regnet
from stages.lib.objectives.classify import Classify
from stages.lib.params.published import PublishedUri
from stages.lib.params.system import System
from stages.lib.params.teacher import Teacher
from stages.lib.training import classifier, history, machine
from stages.lib.training.classifier import Material
from stages.lib.training.loop import Row

TEACHER = Path("data/models/teacher")


def main() -> None:
    """Train or fetch; write the same artefact either way."""
    set_name = sys.argv[1]
    cfg, system = load.load("teacher", Teacher), load.load("system", System)
    index_path = Path(f"data/index/{set_name}.parquet")
    shards = shards_of(set_name, load.load_optional("shard", "published_uri", PublishedUri), system)
    watch = Watch()
    with runs.open_run("teacher", None, [cfg], [index_path]) as run:
        device = machine.prepare(run, system)
        material = Material(read_index(index_path, "train"), read_index(index_path, "val"), shards)
        classes = material.train.classes
        torch.manual_seed(cfg.views.seed)
        network = regnet.create(cfg.architecture, cfg.sizes, len(classes))
        objective = Classify(network, forward, len(classes), cfg.label_smoothing)
        if cfg.fetch:
            fetched.load(network, cfg.fetch, files.raw_root())
            found = classifier.validate(
                objective.to(device), network, material, cfg.views.image_size, cfg.crop_pct, system.workers
            )
            rows: list[Row] = [{"epoch": 0, **found}]
        else:
            regnet.group_norm_statistics(network, cfg.norm_group)
            objective.to(device)
            rows = classifier.train("teacher", objective, network, network, cfg, material, run, system, watch)
        folder.save(
            network,
            TEACHER,
            cfg.architecture,
            regnet.model_args(cfg.sizes),
            cfg.views.image_size,
            cfg.crop_pct,
            classes,
            licence=cfg.fetch.licence if cfg.fetch else None,
        )
        history.write(Path("data/history/teacher.csv"), rows)


def forward(network: nn.Module, images: torch.Tensor, _: torch.Tensor | None) -> torch.Tensor:
    """f32[B, 3, H, W] -> f32[B, classes]; a convnet has no stochastic depth here."""
    logits: torch.Tensor = network(images)
    return logits


if __name__ == "__main__":
    outcome.run("teacher", main)
