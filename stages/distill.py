"""Train the DeiT student on labels and a teacher's predictions (Touvron et al. 2021, arXiv 2012.12877).

in    data/index/<set>.parquet    where every image lies in the shards
      data/models/mae             with train.init: mae, its encoder
      data/models/teacher         with train.teacher: teacher; with train.labels: stored it is neither loaded nor run
      data/labels/stored          with train.labels: stored, what it said of every view
out   data/models/student         a timm folder
      data/history/student.csv    one row an epoch
      data/samples/student.png    the first training images, as the student and the teacher see them
      <run root>/distill          checkpoints, metrics.jsonl, TensorBoard (survive a crash, no DVC out)
run   dvc repro -s distill
"""

import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer

from stages.lib.core import load, ranks, runs
from stages.lib.core.signals import Watch
from stages.lib.data import fingerprint, tiles
from stages.lib.data.batches import batches
from stages.lib.data.classifier_stream import stream_of
from stages.lib.data.index import Index, read_index
from stages.lib.data.label_store import FACTS, Store
from stages.lib.data.normalise import denormalise
from stages.lib.data.pixels import classifier_pixels
from stages.lib.data.published import shards_of
from stages.lib.data.shards import ShardReader
from stages.lib.data.subset import part
from stages.lib.models import architecture, deit, folder, teaching
from stages.lib.objectives.distill import recipe
from stages.lib.params.data import Data
from stages.lib.params.published import PublishedUri
from stages.lib.params.system import System
from stages.lib.params.train import Train
from stages.lib.training import classifier, history, launcher, machine, transformer_kernels
from stages.lib.training.classifier import Material

TEACHER, ENCODER, STUDENT = Path("data/models/teacher"), Path("data/models/mae"), Path("data/models/student")
LABELS = Path("data/labels/stored")
SHOWN = (4, 12)  # rows and columns of the picture


def main() -> None:
    """Train, or go on training; write the student and what it saw."""
    set_name = sys.argv[1]
    cfg, system = load.load("train", Train), load.load("system", System)
    data = load.load("data", Data)
    index_path = Path(f"data/index/{set_name}.parquet")
    shards = shards_of(set_name, load.load_optional("shard", "published_uri", PublishedUri), system)
    taught = cfg.distill != "none"
    models = [*([ENCODER] if cfg.init == "mae" else []), *([TEACHER] if taught else [])]
    index = part(read_index(index_path, "train"), data.subset)
    store = stored(cfg, index) if taught and cfg.labels == "stored" else None
    inputs = [index_path, *models, *([LABELS / FACTS] if store else [])]
    watch = Watch()
    with runs.open_run("distill", None, [cfg, data], inputs, ranks.first()) as run:
        device = machine.prepare(run, system)
        material = Material(index, read_index(index_path, "val"), shards)
        student = fresh_student(cfg, len(index.classes))
        asked = taught and store is None
        teacher = teaching.load(TEACHER, index.classes, cfg.teacher_normalisation) if asked else None
        objective = recipe(
            student,
            teacher,
            cfg.distill,
            cfg,
            len(index.classes),
            token=cfg.distillation_token,
            answered=store is not None,
            teacher_precision=cfg.labelling.precision,
        ).to(device)
        shown = show_views(cfg, material) if ranks.first() else None
        transformer_kernels.prepare_classifier(run, student, cfg, system)
        rows = classifier.train(
            "distill",
            objective,
            student,
            partial(deit.mean_logits, student),
            cfg,
            material,
            run,
            system,
            watch,
            answers=store.answers if store else None,
            shown=shown,
        )
        if not ranks.first():
            return
        name, arguments = architecture.classifier(cfg.model, cfg.views.image_size, cfg.two_tokens)
        folder.save(
            student,
            STUDENT,
            name,
            arguments,
            cfg.views.image_size,
            cfg.crop_pct,
            index.classes,
            derived_from=folder.lineage(*models),
        )
        history.write(Path("data/history/student.csv"), rows)


def fresh_student(cfg: Train, classes: int) -> VisionTransformer:
    """The student before its first step: from nothing, or from the MAE encoder."""
    torch.manual_seed(cfg.views.seed)
    student = deit.create(cfg.model, cfg.views.image_size, classes, cfg.two_tokens, cfg.drop_path, cfg.drop_path_shape)
    if cfg.init == "mae":
        deit.from_mae(student, folder.state(ENCODER))
    deit.fresh_heads(student, classes, cfg.head_std, torch.Generator().manual_seed(cfg.views.seed))
    return student


def stored(cfg: Train, index: Index) -> Store:
    """What the teacher said of the views this block defines. Raises Refusal where the store is about anything else."""
    ours = fingerprint.parts_of(
        cfg.views, index.path, index.percent, TEACHER, cfg.teacher_normalisation, cfg.labelling.precision
    )
    return Store(LABELS, ours, len(index.classes), soft=cfg.distill == "soft")


def show_views(cfg: Train, material: Material) -> np.ndarray:
    """Write, and return, the first training images of epoch 0 after augmentation, erasing and mixing: u8[H, W, 3]."""
    stream = stream_of(cfg.views, material.train, ShardReader(material.train, material.shards), 0)
    batch = next(batches(stream, 0, 1, ranks.Rank(), 0, 1))
    rows, columns = SHOWN
    seen = denormalise(classifier_pixels(batch)[: rows * columns]).permute(0, 2, 3, 1).numpy()
    columns = min(columns, len(seen))
    seen = seen[: len(seen) // columns * columns]
    picture = tiles.tiles(np.reshape(seen, (-1, columns, *seen.shape[1:])))
    tiles.save(Path("data/samples/student.png"), picture)
    return picture


if __name__ == "__main__":
    launcher.run("distill", main, groups=lambda: load.load("train", Train).groups)
