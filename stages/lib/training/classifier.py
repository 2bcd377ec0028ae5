"""Train any classifier on labelled views: what teacher, distill, finetune and transfer share."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from stages.lib.core import ranks
from stages.lib.core.runs import Run
from stages.lib.core.signals import Watch
from stages.lib.data.batches import batches
from stages.lib.data.classifier_stream import stream_of
from stages.lib.data.each_once import each_once
from stages.lib.data.index import Index
from stages.lib.data.preparation import Preparation
from stages.lib.data.shards import ShardReader
from stages.lib.models import flops
from stages.lib.models.precision import autocast
from stages.lib.params.system import System
from stages.lib.params.training import Training
from stages.lib.training import machine, processes
from stages.lib.training import optimizer as optimizers
from stages.lib.training.checkpoint import Keeper
from stages.lib.training.ema import Ema
from stages.lib.training.journal import Journal
from stages.lib.training.loop import Row, Trained, fit
from stages.lib.training.plan import planned

if TYPE_CHECKING:  # only a student learns from stored answers: teacher and transfer do not depend on how they are kept
    from stages.lib.data.answers import Answers
    from stages.lib.data.published import Published

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Material:
    """Labelled images: training and validation rows of one set, and where its shards lie."""

    train: Index
    val: Index
    shards: "Path | Published"


def train(
    title: str,
    objective: nn.Module,
    network: nn.Module,
    logits: Callable[[Tensor], Tensor],
    cfg: Training,
    material: Material,
    run: Run,
    system: System,
    watch: Watch,
    settle: Callable[[], None] | None = None,
    answers: "Callable[[int, np.ndarray], Answers] | None" = None,
    shown: np.ndarray | None = None,
) -> list[Row]:
    """Train `network`, which lies in `objective`, in place; leave the selected weights in it; returns the history.

    logits: f32[B, 3, H, W] -> f32[B, classes], what validation measures.
    settle: called after the passes of each step, before the optimizer. answers: (epoch, positions i64[b]) -> what a teacher
    said of those views; they come with the batches. shown: u8[H, W, 3], views for TensorBoard.
    """
    views = cfg.views
    depth = len(blocks) if isinstance(blocks := getattr(network, "blocks", None), nn.Sequential) else 0  # 0: a convnet
    stream = stream_of(views, material.train, ShardReader(material.train, material.shards), depth)
    stream = replace(stream, pinned=next(objective.parameters()).is_cuda, answers=answers)
    steps = stream.steps_per_epoch
    passes = machine.divided(run, system, views.batch_size, views.batch_size // cfg.groups).passes
    plan = replace(
        planned(cfg.optimizer, cfg.schedule, views.epochs, views.batch_size, steps, system.log_steps, passes),
        precision=cfg.precision,
        divergence=cfg.divergence,
        flops_per_image=flops.training_flops(flops.counted_macs(network, views.image_size)),
    )
    trained = Trained(
        objective,
        network,
        optimizers.build(cfg.optimizer, network, depth),
        Ema(network, cfg.ema_decay) if cfg.ema_decay else None,
        "val_top1" if cfg.select == "best_val" else "",
        settle,
        system.shard_weights,
    )

    preparation = Preparation(views.image_size, cfg.crop_pct)
    journal = Journal(run, title, plan.steps, system.log_seconds)

    def look(step: int) -> Row:
        if shown is not None:
            journal.picture(step, "views", shown)
        with autocast(next(objective.parameters()).device, cfg.precision):
            return validate(objective, logits, material, preparation, system.workers)

    history = fit(
        trained,
        plan,
        lambda first, last: batches(stream, first, last, ranks.current(), system.workers, system.prefetch),
        Keeper(run.folder, system.checkpoint_seconds, system.keep_checkpoints),
        journal,
        look,
        watch,
        stream.meter,
        stream.keys,
    )
    if chosen := selected(trained, cfg.select):
        network.load_state_dict(chosen)
        history[-1].update(look(plan.steps))  # the last row is about the weights that are kept
    return history


def selected(trained: Trained, select: str) -> dict[str, Tensor] | None:
    """The weights a block's `select` keeps instead of the last, or None for those."""
    if select == "ema" and trained.ema:
        return trained.ema.state_dict()
    if select == "best_val" and trained.best:
        log.info("keeping the weights after step %d, top-1 %.2f %%", trained.best["step"], trained.best["value"])
        weights: dict[str, Tensor] = trained.best["weights"]
        return weights
    return None


@torch.inference_mode()
def validate(
    objective: nn.Module,
    logits: Callable[[Tensor], Tensor],
    material: Material,
    preparation: Preparation,
    workers: int,
) -> Row:
    """Is training healthy? Cross-entropy (nats) and top-1 (percent) over the validation split.

    Each image counts once, and the numbers are the same bits for any number of processes, which share the batches.
    """
    index, reader = material.val, ShardReader(material.val, material.shards)
    device = next(objective.parameters()).device
    objective.eval()
    found: list[tuple[float, int]] = []
    for batch in each_once(index, reader, preparation.frame, 256, workers, ranks.current()):
        scores = logits(preparation.normalise(batch.images.to(device)))
        labels = batch.labels.to(device)
        loss = nn.functional.cross_entropy(scores.double(), labels, reduction="sum")
        found.append((float(loss), int((scores.argmax(1) == labels).sum())))
    objective.train()
    losses, right = zip(*processes.gathered(found), strict=True)
    return {"val_loss": sum(losses) / len(index), "val_top1": 100 * sum(right) / len(index)}
