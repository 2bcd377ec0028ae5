"""Fine-tune the student at a higher resolution (Touvron et al. 2021, section 5; the teacher runs at that size too).

in    data/index/<set>.parquet    where every image lies in the shards
      data/models/student         position embeddings are resampled to the larger grid
      data/models/teacher         unless nothing is distilled
out   data/models/finetuned       a timm folder
      data/history/finetuned.csv  one row an epoch
      <run root>/finetune         checkpoints, metrics.jsonl, TensorBoard (survive a crash, no DVC out)
run   dvc repro -s finetune
"""

import sys
from functools import partial
from pathlib import Path

from stages.lib.core import load, ranks, runs
from stages.lib.core.signals import Watch
from stages.lib.data.index import read_index
from stages.lib.data.published import shards_of
from stages.lib.data.subset import part
from stages.lib.models import architecture, deit, folder, teaching
from stages.lib.objectives.distill import recipe
from stages.lib.params.data import Data
from stages.lib.params.distillation import Kind
from stages.lib.params.finetune import Finetune
from stages.lib.params.labelling import TrainTeacherNormalisation
from stages.lib.params.published import PublishedUri
from stages.lib.params.system import System
from stages.lib.params.train import TrainDistill
from stages.lib.training import classifier, history, launcher, machine, transformer_kernels
from stages.lib.training.classifier import Material

TEACHER, STUDENT, FINETUNED = Path("data/models/teacher"), Path("data/models/student"), Path("data/models/finetuned")


def main() -> None:
    """Fine-tune, or go on; write the larger model."""
    set_name = sys.argv[1]
    cfg, system = load.load("finetune", Finetune), load.load("system", System)
    data = load.load("data", Data)
    as_train = load.load_item("train", "distill", TrainDistill)
    normalisation = load.load_item("train", "teacher_normalisation", TrainTeacherNormalisation)
    kind: Kind = as_train.root if cfg.distill == "as-train" else cfg.distill
    index_path = Path(f"data/index/{set_name}.parquet")
    shards = shards_of(set_name, load.load_optional("shard", "published_uri", PublishedUri), system)
    inputs = [index_path, STUDENT, *([TEACHER] if kind != "none" else [])]
    watch = Watch()
    with runs.open_run("finetune", None, [cfg, data, as_train, normalisation], inputs, ranks.first()) as run:
        device = machine.prepare(run, system)
        train = part(read_index(index_path, "train"), data.subset)
        material = Material(train, read_index(index_path, "val"), shards)
        student, _ = folder.load(STUDENT)
        dropped = cfg.drop_path if cfg.mode == "train" else 0.0
        larger = deit.enlarge(student, cfg.views.image_size, dropped, cfg.drop_path_shape)
        classes = material.train.classes
        teacher = teaching.load(TEACHER, classes, normalisation.root) if kind != "none" else None
        # a student taught without a second head goes on so; one that had no teacher lacks its head
        token = deit.is_distilled(larger) or as_train.root == "none"
        objective = recipe(larger, teacher, kind, cfg, len(classes), token=token, teacher_precision=cfg.precision)
        objective.to(device)
        transformer_kernels.prepare_classifier(run, larger, cfg, system)
        rows = classifier.train(
            "finetune", objective, larger, partial(deit.mean_logits, larger), cfg, material, run, system, watch
        )
        if not ranks.first():
            return
        name, arguments = architecture.classifier(deit.sizes(larger), cfg.views.image_size, deit.is_distilled(larger))
        derived = folder.lineage(*inputs[1:])
        folder.save(
            larger,
            FINETUNED,
            name,
            arguments,
            cfg.views.image_size,
            cfg.crop_pct,
            classes,
            derived_from=derived,
        )
        history.write(Path("data/history/finetuned.csv"), rows)


if __name__ == "__main__":
    launcher.run("finetune", main, groups=lambda: load.load("finetune", Finetune).groups)
