"""What does the pretrained encoder know? Neighbours, a linear classifier, and what it paints (He et al. 2021, section 5).

in    data/index/<set>.parquet          where every image lies in the shards
      data/models/mae                   encoder and decoder
out   data/metrics/probe.json           accuracies of both readouts, loss at every share of hidden patches
      data/samples/mae-<percent>.png    the images of data/samples/mae.png, with as many patches hidden
      <run root>/probe                  checkpoints, metrics.jsonl, TensorBoard of the linear classifier (no DVC out)
run   dvc repro -s probe
"""

import json
import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stages.lib.core import files, load, ranks, runs
from stages.lib.core.runs import Run
from stages.lib.core.signals import Watch
from stages.lib.data import order, tiles
from stages.lib.data.batch import Batch
from stages.lib.data.batches import Stream, batches
from stages.lib.data.crop import Frame, evaluation
from stages.lib.data.each_once import each_once
from stages.lib.data.index import Index, read_index
from stages.lib.data.normalise import normalise
from stages.lib.data.one_shot_crop import one_shot_view
from stages.lib.data.published import Published, shards_of
from stages.lib.data.shards import ShardReader
from stages.lib.data.subset import part
from stages.lib.models import flops, mae_folder, teacher
from stages.lib.models.mae import MAE, visible
from stages.lib.models.mae_features import class_token
from stages.lib.models.precision import autocast
from stages.lib.models.readout import Readout
from stages.lib.objectives import painting
from stages.lib.objectives.read_out import ReadOut
from stages.lib.objectives.reconstruct import Reconstruct
from stages.lib.params.data import Data
from stages.lib.params.pretrain import PretrainNormPix, PretrainSeed
from stages.lib.params.probe import Linear, Neighbours, Probe
from stages.lib.params.published import PublishedUri
from stages.lib.params.system import System
from stages.lib.training import accuracy, knn, launcher, machine, processes, schedule
from stages.lib.training.accuracy import Tally
from stages.lib.training.checkpoint import Keeper
from stages.lib.training.journal import Journal
from stages.lib.training.lars import Lars
from stages.lib.training.loop import Row, Trained, fit
from stages.lib.training.plan import Plan

log = logging.getLogger(__name__)
ENCODER = Path("data/models/mae")
DECIMALS = 6


def main() -> None:
    """Train the linear classifier, or go on; then ask neighbours and paint, in the first process alone."""
    set_name = sys.argv[1]
    cfg, system = load.load("probe", Probe), load.load("system", System)
    data = load.load("data", Data)
    norm_pix = load.load_item("pretrain", "norm_pix", PretrainNormPix)
    seed = load.load_item("pretrain", "seed", PretrainSeed)
    index_path = Path(f"data/index/{set_name}.parquet")
    shards = shards_of(set_name, load.load_optional("shard", "published_uri", PublishedUri), system)
    watch = Watch()
    with runs.open_run("probe", None, [cfg, data], [index_path, ENCODER], ranks.first()) as run:
        device = machine.prepare(run, system)
        train = part(read_index(index_path, "train"), data.subset)
        asked = read_index(index_path, cfg.split)
        mae = mae_folder.load(ENCODER, cfg.mask_percents[0] / 100).to(device)
        looked = Looked(mae, asked, shards, cfg, system.workers, cfg.crop_pct)
        linear = linear_probe(run, looked, train, cfg, system, watch)
        if not ranks.first():
            return
        metrics: dict[str, Any] = {"set": set_name, "split": cfg.split, "images": len(asked)}
        metrics["knn"] = {"k": cfg.knn.k, **neighbours(looked, replace(looked, index=train), cfg.knn)}
        metrics["linear"] = linear
        metrics["reconstruction"] = painted(replace(looked, crop_pct=1.0), cfg, norm_pix.root, seed.root)
        with files.replace(Path("data/metrics/probe.json")) as temporary:
            temporary.write_text(json.dumps(metrics, indent=1) + "\n")


@dataclass(frozen=True)
class Looked:
    """A split as the autoencoder sees it: the centre of each image, nothing drawn."""

    mae: MAE
    index: Index
    shards: Path | Published
    cfg: Probe
    workers: int
    crop_pct: float

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.mae.cls_token.device

    @property
    def size(self) -> int:
        """Side of a view in pixels."""
        return self.mae.patch_embed.img_size[0]

    def batches(self, rank: ranks.Rank) -> Iterator[Batch]:
        """Every image once; of several processes each has its part. Tensors lie on the device."""

        def frame(width: int, height: int) -> Frame:
            return evaluation(width, height, self.size, self.crop_pct)

        reader = ShardReader(self.index, self.shards)
        for batch in each_once(self.index, reader, frame, self.cfg.batch_size, self.workers, rank):
            yield batch.to(self.device)

    def features(self, images: Tensor) -> Tensor:
        """f[B, 3, H, W] normalised -> f32[B, D], the class token."""
        with autocast(self.device, self.cfg.precision):
            return class_token(self.mae, images)


def linear_probe(run: Run, looked: Looked, train: Index, cfg: Probe, system: System, watch: Watch) -> dict[str, Any]:
    """Train the classifier through the one loop; accuracies in percent, nll in nats, of the last epoch's."""
    linear, classes = cfg.linear, len(looked.index.classes)
    readout = Readout(looked.mae.cls_token.shape[-1], classes, linear.norm_group, cfg.seed)
    objective = ReadOut(looked.features, readout).to(looked.device)
    stream = stream_of(linear, cfg.seed, train, ShardReader(train, looked.shards), looked.size)
    stream = replace(stream, pinned=looked.device.type == "cuda")
    # nothing is kept of a frozen encoder's pass, so a group of the norm fits wherever a training batch does
    most = max(system.device_batch, linear.norm_group) if system.device_batch else 0
    one_pass = system.model_copy(update={"device_batch": most})
    passes = machine.divided(run, one_pass, linear.batch_size, linear.norm_group).passes
    plan = plan_of(linear, stream.steps_per_epoch, passes, looked, classes, system)
    lars = Lars(readout.parameters(), linear.momentum, linear.weight_decay, linear.trust)

    def look(_: int) -> Row:
        found = measured(looked, readout, classes)
        return {"val_loss": found["nll"], "val_top1": found["top1"]}

    fit(
        Trained(objective, readout, lars, settle=partial(teacher.settle, readout, processes.rows_of_all)),
        plan,
        lambda first, last: batches(stream, first, last, ranks.current(), system.workers, system.prefetch),
        Keeper(run.folder, system.checkpoint_seconds, system.keep_checkpoints),
        Journal(run, "probe", plan.steps, system.log_seconds),
        look,
        watch,
        stream.meter,
        stream.keys,
    )
    return measured(looked, readout, classes)


def stream_of(linear: Linear, seed: int, index: Index, reader: ShardReader, size: int) -> Stream:
    """One-shot crops and flips, every image once an epoch."""
    return Stream(
        index=index,
        reader=reader,
        order=lambda epoch: order.permutation(len(index), seed, epoch),
        view=one_shot_view(linear.scale, linear.ratio, linear.hflip, size),
        size=size,
        batch_size=linear.batch_size,
        seed=seed,
    )


def plan_of(linear: Linear, steps: int, passes: int, looked: Looked, classes: int, system: System) -> Plan:
    """steps: of an epoch. A training step costs one forward pass of the encoder."""
    vit, epochs, peak = mae_folder.sizes(looked.mae), linear.epochs, linear.peak_lr
    return Plan(
        epochs,
        steps,
        linear.batch_size,
        lambda step: schedule.learning_rate(linear.schedule, peak, step, steps, epochs),
        log_steps=system.log_steps,
        passes=passes,
        precision=looked.cfg.precision,
        flops_per_image=float(flops.FLOPS_PER_MAC * flops.vit_macs(vit, looked.size, classes, distilled=False)),
    )


@torch.inference_mode()
def measured(looked: Looked, readout: Readout, classes: int) -> dict[str, float]:
    """Of the classifier with its running statistics: each image once, the same numbers for any number of processes."""
    tally = Tally(classes)
    readout.eval()
    for batch in looked.batches(ranks.current()):
        tally.add(readout(looked.features(normalise(batch.images))), None, batch.labels)
    readout.train()
    tally.batches = processes.gathered(tally.batches)
    found: dict[str, float] = tally.metrics()["heads"]["class"]
    return found


@torch.inference_mode()
def neighbours(asked: Looked, known: Looked, cfg: Neighbours) -> dict[str, float]:
    """Top-1 in percent with its interval: every image's class by its nearest training images."""
    (bank, labels), (queries, truth) = (tokens(one) for one in (known, asked))
    found = knn.votes(bank, labels, queries, len(asked.index.classes), cfg.k, cfg.temperature).argmax(1)
    numbers = accuracy.share("top1", (found == truth).numpy())
    return {name: round(value, accuracy.DECIMALS_PERCENT) for name, value in numbers.items()}


def tokens(looked: Looked) -> tuple[Tensor, Tensor]:
    """(f32[N, D] on the device, labels i64[N] on the CPU), in the order of the index, by this process alone."""
    found = [(looked.features(normalise(batch.images)), batch.labels.cpu()) for batch in looked.batches(ranks.Rank())]
    features, labels = zip(*found, strict=True)
    return torch.cat(features), torch.cat(labels)


@torch.inference_mode()
def painted(looked: Looked, cfg: Probe, norm_pix: bool, seed: int) -> dict[str, dict[str, float]]:
    """Write a picture for every share of hidden patches; the mean loss at each over the split, by this process alone.

    An image's masking noise is that of `pretrain`'s validation, so a larger share hides what a smaller one hid, and more.
    """
    mae, total, pictures = looked.mae, dict.fromkeys(cfg.mask_percents, 0.0), dict[int, np.ndarray]()
    objective, patches = Reconstruct(mae, norm_pix), mae.patch_embed.num_patches
    for batch in looked.batches(ranks.Rank()):
        noise = painting.noise_of(batch.positions.tolist(), seed, patches).to(looked.device)
        batch = replace(batch, noise=noise)
        for percent in cfg.mask_percents:
            mae.keep = visible(patches, percent / 100)
            with autocast(looked.device, cfg.precision):
                total[percent] += float(objective(batch)["loss"]) * len(batch.images)
                if percent not in pictures:
                    pictures[percent] = painting.reconstructions(objective, batch, norm_pix)
    for percent, picture in pictures.items():
        tiles.save(Path(f"data/samples/mae-{percent}.png"), picture)
    return {str(percent): {"loss": round(loss / len(looked.index), DECIMALS)} for percent, loss in total.items()}


if __name__ == "__main__":
    launcher.run("probe", main, groups=lambda: load.load("probe", Probe).linear.groups)
