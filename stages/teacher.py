"""Get the teacher, a RegNetY or a transformer: train it, or take a RegNetY's weights that somebody else trained.

in    data/index/<set>.parquet    where every image lies in the shards
      <teacher.source>            unless it is `train`: a file, fetched if need be, whose sha256 is checked
out   data/models/teacher         a timm folder
      data/history/teacher.csv    one row an epoch; a fetched teacher has one row with its measured top-1
      <run root>/teacher          checkpoints, metrics.jsonl, TensorBoard (survive a crash, no DVC out)
run   dvc repro -s teacher
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from stages.lib.core import content, files, load, ranks, runs
from stages.lib.core.outcome import Refusal
from stages.lib.core.runs import Run
from stages.lib.core.signals import Watch
from stages.lib.data.index import read_index
from stages.lib.data.preparation import Preparation, preparation_of
from stages.lib.data.published import shards_of
from stages.lib.data.subset import part
from stages.lib.models import deit, fetched, folder, teacher_network
from stages.lib.models import teacher as regnet
from stages.lib.objectives.classify import Classify
from stages.lib.params.data import Data
from stages.lib.params.published import PublishedUri
from stages.lib.params.system import System
from stages.lib.params.teacher import Teacher
from stages.lib.training import classifier, convnet_kernels, history, launcher, machine, processes, transformer_kernels
from stages.lib.training.classifier import Material

TEACHER = Path("data/models/teacher")


def main() -> None:
    """Train or fetch; write the same artefact either way."""
    set_name = sys.argv[1]
    cfg, system = load.load("teacher", Teacher), load.load("system", System)
    data = load.load("data", Data)
    index_path = Path(f"data/index/{set_name}.parquet")
    shards = shards_of(set_name, load.load_optional("shard", "published_uri", PublishedUri), system)
    watch = Watch()
    with runs.open_run("teacher", None, [cfg, data], [index_path], ranks.first()) as run:
        device = machine.prepare(run, system)
        train = part(read_index(index_path, "train"), data.subset)
        material = Material(train, read_index(index_path, "val"), shards)
        classes = material.train.classes
        torch.manual_seed(cfg.views.seed)
        network = teacher_network.create(cfg, len(classes))
        objective = Classify(network, forward, len(classes), cfg.label_smoothing)
        about: dict[str, Any] = {}
        if cfg.source == "train":
            settle = prepared(run, network, cfg, system, device)
            logits = partial(forward, network)
            rows = classifier.train("teacher", objective, network, logits, cfg, material, run, system, watch, settle)
        else:
            about, preparation = take(network, cfg, classes)
            found = classifier.validate(objective.to(device), network, material, preparation, system.workers)
            rows = [{"epoch": 0, **found}]
        if not ranks.first():
            return
        name, arguments = teacher_network.named(cfg)
        folder.save(network, TEACHER, name, arguments, cfg.views.image_size, cfg.crop_pct, classes, **about)
        history.write(Path("data/history/teacher.csv"), rows)


def take(network: nn.Module, cfg: Teacher, classes: tuple[str, ...]) -> tuple[dict[str, Any], Preparation]:
    """Fill `network` with what `teacher.source` names; (what its folder says beyond a trained one's, how to prepare its images)."""
    origin = fetched.origin(cfg, files.raw_root())
    fetched.load(network, origin, classes, cfg.classes)
    size, where = cfg.views.image_size, Path(f"the config of {cfg.source}")
    wanted = {**folder.preprocessing(size, cfg.crop_pct), **origin.prepared}
    notes = [f"Weights fetched from {cfg.source}." if fetched.remote(cfg.source) else "Weights trained elsewhere."]
    notes += [] if origin.names else ["Their file names no classes: they are taken to be this set's, in its order."]
    notes += ["Of its classes those of this set were kept, by name."] if cfg.classes == "by-name" else []
    return {"licence": cfg.licence, "notes": notes, "prepared": origin.prepared}, preparation_of(wanted, where)


def bring() -> None:
    """Fetch what `teacher.source` names if it lies elsewhere, once on each machine."""
    cfg = load.load("teacher", Teacher)
    if cfg.source != "train" and fetched.remote(cfg.source) and content.find(str(cfg.sha256)) is None:
        fetch(cfg.source, str(cfg.sha256))


def fetch(source: str, sha256: str) -> None:
    """Fetch in a program of its own: how a file arrives cannot change what it is, so no edit there trains a teacher again.

    Raises Refusal with what that program refused, OSError where trying again may help.
    """
    environment = {key: value for key, value in os.environ.items() if key != "DVC_STAGE"}
    done = subprocess.run([sys.executable, "-m", "stages.fetch", source, sha256], env=environment)
    if done.returncode:
        ending = json.loads((files.root() / "fetch@file" / "last_exit.json").read_text())
        raise OSError(ending["reason"]) if ending["retryable"] else Refusal(f"teacher.source: {ending['reason']}")


def prepared(
    run: Run, network: nn.Module, cfg: Teacher, system: System, device: torch.device
) -> Callable[[], None] | None:
    """Move the network to its device and set it up for fast steps; what a step's end has to settle, if anything."""
    if isinstance(network, VisionTransformer):
        transformer_kernels.prepare_classifier(run, network.to(device), cfg, system)
        return None
    assert cfg.norm_group is not None
    regnet.group_norm_statistics(network, cfg.norm_group).to(device)
    convnet_kernels.prepare(run, network, cfg)
    if cfg.compile:
        regnet.compile_blocks(network)
    return partial(regnet.settle, network, processes.rows_of_all)


def forward(network: nn.Module, images: torch.Tensor, keep: torch.Tensor | None = None) -> torch.Tensor:
    """f32[B, 3, H, W], a transformer's numbers for stochastic depth -> f32[B, classes]; a convnet has no stochastic depth here."""
    if isinstance(network, VisionTransformer):
        return deit.mean_logits(network, images, keep)
    logits: torch.Tensor = network(images)
    return logits


if __name__ == "__main__":
    launcher.run("teacher", main, bring, lambda: load.load("teacher", Teacher).groups)
