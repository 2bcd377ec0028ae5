"""What claims are made of: overrides of params.yaml, laid over one another.

Sizes, epochs and rates are ours, for minutes on one core. What a table does not name is as params.yaml of the revision says.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Changes = Mapping[str, Any]
"""Dotted keys of params.yaml and their values."""

CIFAR = "cifar10-10000"
"""Folder-layout tar that `python -m benchmarks.claims data` makes: 10,000 training, 500 validation and 4,000 test images."""
CARS = "cars-10"
"""A folder of Stanford Cars as published, or some of it: cars_train/*.jpg, devkit/*.mat."""
VIT = {"patch_size": 8, "width": 128, "depth": 4, "heads": 4}

SPEED: Changes = {
    "system.device": "cpu",
    "system.threads": 1,
    "system.workers": 1,
    "system.processes": 1,
    "system.log_seconds": 10.0,
    "system.checkpoint_seconds": 600.0,
}
BASE: Changes = {
    "sources": {
        CIFAR: {"layout": "folder", "path": f"{CIFAR}.tar"},
        CARS: {"layout": "stanford-cars", "path": CARS},
    },
    "sets.main": CIFAR,
    "sets.transfer": [CARS],
    "ingest.val_fraction": 0.5,
    "data.subset": 100,
    "shard.images_per_shard": 1000,
    "teacher.sizes": {"depth": 8, "w0": 32, "wa": 24.0, "wm": 2.0, "group_size": 8, "stem_width": 32},
    "teacher.views.epochs": 30,
    "teacher.views.image_size": 32,
    "teacher.views.scale": [0.35, 1.0],
    "teacher.views.hflip": 0.5,
    "pretrain.epochs": 8,
    "pretrain.schedule.warmup_epochs": 1,
    "pretrain.image_size": 32,
    "pretrain.scale": [0.2, 1.0],
    "pretrain.hflip": 0.5,
    "pretrain.model": VIT,
    "pretrain.precision": "bf16",
    "train.distill": "none",
    "train.teacher": "none",
    "train.init": "scratch",
    "train.model": VIT,
    "train.precision": "bf16",
    "train.drop_path": 0.0,
    "train.views.epochs": 8,
    "train.views.image_size": 32,
    "train.views.scale": [0.35, 1.0],
    "train.views.hflip": 0.5,
    "train.schedule.warmup_epochs": 1,
    "finetune.precision": "bf16",
    "finetune.views.epochs": 2,
    "finetune.schedule.warmup_epochs": 0.5,
    "finetune.views.image_size": 48,
    "finetune.views.scale": [0.35, 1.0],
    "finetune.views.hflip": 0.5,
    "transfer.precision": "bf16",
    "transfer.optimizer.lr": 8e-3,
    "transfer.schedule.warmup_epochs": 5,
    "transfer.views.epochs": 60,
    "transfer.views.image_size": 32,
    "transfer.views.scale": [0.35, 1.0],
    "transfer.views.hflip": 0.5,
    "evaluate.split": "test",
    **SPEED,
}
"""A ViT of 0.8 million weights and 16 patches, 8 epochs of 10,000 images of CIFAR-10 at 32 px, from scratch, without a teacher."""
HARD: Changes = {"train.distill": "hard", "train.teacher": "teacher"}
SOFT: Changes = {**HARD, "train.distill": "soft", "train.soft_divisor": "batch", "train.alpha": 0.1}
"""DeiT's lambda of 0.1 with the KL as equation 2 has it, divided by the batch alone."""
NO_TOKEN: Changes = {"train.distillation_token": False}
TRANSFORMER: Changes = {
    "teacher.architecture": "vit",
    "teacher.sizes": None,
    "teacher.norm_group": None,
    "teacher.model": VIT,
    "teacher.optimizer.lr": 8e-3,
    "teacher.optimizer.lr_per": 512,
    "teacher.precision": "bf16",
}
"""A teacher of the student's sizes and at its rate."""
NO_MIX: Changes = {"train.views.mixup": 0.0, "train.views.cutmix": 0.0, "train.views.erase": 0.0}


@dataclass(frozen=True)
class Variant:
    """One recipe of a claim."""

    name: str
    changes: Changes
    """Over BASE."""
    model: str = "student"
    """What is evaluated."""
    set_name: str = CIFAR
    """What it is evaluated on."""
    seeds: tuple[str, ...] = ("train.views.seed",)
    """Parameters that a run's seed is written into; the rest keeps params.yaml's."""
    teacher: bool = False
    """Whether the teacher's answers on the same images are compared with this model's."""


@dataclass(frozen=True)
class Contrast:
    """A difference that a claim is about: (variant, number) of the side said to be higher, and of the other.

    number: `class`, `dist`, `fused_logits`: top-1 of that head; anything else names an entry of a run's `numbers`.
    """

    says: str
    higher: tuple[str, str]
    lower: tuple[str, str]


@dataclass(frozen=True)
class Claim:
    """What a paper says, and how it is tried here."""

    name: str
    title: str
    source: str
    """Paper, table, and its figures."""
    scale: str
    """What was run here, in a sentence."""
    variants: tuple[Variant, ...]
    contrasts: tuple[Contrast, ...]
    reasons: Mapping[str, str] = field(default_factory=dict)
    """Of a contrast (its `says`) that does not hold or cannot be told: the likely reason."""


def with_(*parts: Changes) -> dict[str, Any]:
    """Changes laid over one another, later ones win."""
    return {key: value for part in parts for key, value in part.items()}
