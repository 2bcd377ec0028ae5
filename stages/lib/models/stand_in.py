"""Untrained models of the right sizes, for a trial of what learns from them: only speed and memory count."""

from collections.abc import Sequence
from pathlib import Path

from stages.lib.models import architecture, deit, folder, teacher_network
from stages.lib.models.mae import MAE
from stages.lib.params.pretrain import Pretrain
from stages.lib.params.teacher import Teacher
from stages.lib.params.train import Train


def write_teacher(cfg: Teacher, classes: Sequence[str], path: Path) -> None:
    """The network that `teacher` would train or take."""
    network, (name, arguments) = teacher_network.create(cfg, len(classes)), teacher_network.named(cfg)
    folder.save(network, path, name, arguments, cfg.views.image_size, cfg.crop_pct, classes)


def write_mae(cfg: Pretrain, path: Path) -> None:
    """The encoder, and its decoder, that `pretrain` would leave."""
    name, arguments = architecture.encoder(cfg.model, cfg.image_size)
    mae = MAE(cfg.image_size, cfg.model, cfg.decoder, cfg.mask_ratio)
    folder.save_mae(mae, path, name, arguments, cfg.image_size, cfg.decoder.model_dump())


def write_student(cfg: Train, image_size: int, classes: Sequence[str], path: Path) -> None:
    """The student that `distill` would leave, or at another size the one `finetune` would."""
    student = deit.create(cfg.model, image_size, len(classes), cfg.two_tokens)
    name, arguments = architecture.classifier(cfg.model, image_size, cfg.two_tokens)
    folder.save(student, path, name, arguments, image_size, cfg.crop_pct, classes)
