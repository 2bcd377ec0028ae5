"""Pretrain a ViT encoder as a masked autoencoder (He et al. 2021, arXiv 2111.06377).

in    data/index/<set>.parquet    where every image lies in the shards; labels are not read
out   data/models/mae             encoder as a timm ViT, decoder beside it
      data/history/mae.csv        one row an epoch
      data/samples/mae.png        original, visible patches, reconstruction of validation images
      <run root>/pretrain         checkpoints, metrics.jsonl, TensorBoard (survive a crash, no DVC out)
run   dvc repro -s pretrain
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stages.lib.core import load, ranks, runs
from stages.lib.core.signals import Watch
from stages.lib.data import order, tiles
from stages.lib.data.batch import Batch
from stages.lib.data.batches import Stream, batches
from stages.lib.data.crop import Frame, evaluation
from stages.lib.data.each_once import each_once
from stages.lib.data.index import Index, read_index
from stages.lib.data.mae_view import mae_view
from stages.lib.data.normalise import denormalise, normalise
from stages.lib.data.published import shards_of
from stages.lib.data.randomness import Purpose, generator
from stages.lib.data.shards import ShardReader
from stages.lib.data.subset import part
from stages.lib.models import architecture, flops, folder
from stages.lib.models.mae import MAE, patchify, unpatchify
from stages.lib.models.mae_flops import mae_macs
from stages.lib.models.precision import autocast
from stages.lib.objectives.reconstruct import Reconstruct
from stages.lib.params.data import Data
from stages.lib.params.pretrain import Pretrain
from stages.lib.params.published import PublishedUri
from stages.lib.params.system import System
from stages.lib.training import history, launcher, machine, optimizer, processes, transformer_kernels
from stages.lib.training.checkpoint import Keeper
from stages.lib.training.journal import Journal
from stages.lib.training.loop import Row, Trained, fit
from stages.lib.training.plan import planned
from stages.lib.training.transformer_kernels import Part

SHOWN = 8  # reconstructions in the picture


def main() -> None:
    """Train, or go on training; write the encoder, the decoder and what they reconstruct."""
    set_name = sys.argv[1]
    cfg, system = load.load("pretrain", Pretrain), load.load("system", System)
    data = load.load("data", Data)
    index_path = Path(f"data/index/{set_name}.parquet")
    shards = shards_of(set_name, load.load_optional("shard", "published_uri", PublishedUri), system)
    watch = Watch()
    with runs.open_run("pretrain", None, [cfg, data], [index_path], ranks.first()) as run:
        device = machine.prepare(run, system)
        train, val = part(read_index(index_path, "train"), data.subset), read_index(index_path, "val")
        torch.manual_seed(cfg.seed)
        mae = MAE(cfg.image_size, cfg.model, cfg.decoder, cfg.mask_ratio)
        objective = Reconstruct(mae, cfg.norm_pix).to(device)
        stream = replace(stream_of(cfg, train, ShardReader(train, shards)), pinned=device.type == "cuda")
        steps = stream.steps_per_epoch
        transformer_kernels.prepare(run, parts_of(mae), cfg, cfg.batch_size, system)
        passes = machine.divided(run, system, cfg.batch_size, cfg.batch_size // cfg.groups).passes
        plan = replace(
            planned(cfg.optimizer, cfg.schedule, cfg.epochs, cfg.batch_size, steps, system.log_steps, passes),
            precision=cfg.precision,
            divergence=cfg.divergence,
            flops_per_image=flops.training_flops(mae_macs(cfg.model, cfg.decoder, cfg.image_size, cfg.mask_ratio)),
        )
        journal = Journal(run, "pretrain", plan.steps, system.log_seconds)
        reader = ShardReader(val, shards)

        def look(step: int) -> Row:
            row, picture = examine(objective, cfg, val, reader, system.workers)
            journal.picture(step, "reconstructions", picture)
            return row

        rows = fit(
            Trained(objective, mae, optimizer.build(cfg.optimizer, mae, cfg.model.depth), sharded=system.shard_weights),
            plan,
            lambda first, last: batches(stream, first, last, ranks.current(), system.workers, system.prefetch),
            Keeper(run.folder, system.checkpoint_seconds, system.keep_checkpoints),
            journal,
            look,
            watch,
            stream.meter,
            stream.keys,
        )
        picture = examine(objective, cfg, val, reader, system.workers)[1]
        if not ranks.first():
            return
        tiles.save(Path("data/samples/mae.png"), picture)
        save(mae, cfg)
        history.write(Path("data/history/mae.csv"), rows)


def parts_of(mae: MAE) -> dict[str, Part]:
    """The encoder sees visible patches, the decoder all of them, each with a class token."""
    return {
        "encoder": Part(mae.blocks, 1 + mae.keep),
        "decoder": Part(mae.decoder_blocks, mae.decoder_pos_embed.shape[1]),
    }


def stream_of(cfg: Pretrain, index: Index, reader: ShardReader) -> Stream:
    """Crops and flips in this block's order, with a noise per patch."""

    def epoch_order(epoch: int) -> np.ndarray:
        if cfg.order == "block":
            return order.block(index.shard_of, cfg.window, cfg.seed, epoch)
        return order.permutation(len(index), cfg.seed, epoch)

    return Stream(
        index=index,
        reader=reader,
        order=epoch_order,
        view=mae_view(cfg.scale, cfg.ratio, cfg.hflip, cfg.image_size),
        size=cfg.image_size,
        batch_size=cfg.batch_size,
        seed=cfg.seed,
        patches=(cfg.image_size // cfg.model.patch_size) ** 2,
    )


def examine(
    objective: Reconstruct, cfg: Pretrain, val: Index, reader: ShardReader, workers: int
) -> tuple[Row, np.ndarray]:
    """Mean loss over the validation split with masks fixed by the image's row, and a picture of the first images.

    Several processes share the batches; the first image's picture is the first process's.
    """
    device = next(objective.parameters()).device

    def frame(width: int, height: int) -> Frame:
        return evaluation(width, height, cfg.image_size, 1.0)

    found: list[tuple[float, int]] = []
    picture = np.empty(0)
    objective.eval()
    with torch.inference_mode(), autocast(device, cfg.precision):
        for batch in each_once(val, reader, frame, cfg.batch_size, workers, ranks.current()):
            batch = with_noise(batch, cfg).to(device)
            found.append((float(objective(batch)["loss"]), len(batch.images)))
            if not picture.size:
                picture = reconstructions(objective, batch, cfg.norm_pix)
    objective.train()
    total = sum(loss * images for loss, images in processes.gathered(found))
    return {"val_loss": total / len(val)}, picture


def with_noise(batch: Batch, cfg: Pretrain) -> Batch:
    """The batch with a masking noise that depends on the image's row alone."""
    patches = (cfg.image_size // cfg.model.patch_size) ** 2
    rows = batch.positions.tolist()
    noise = np.stack([generator(cfg.seed, 0, row, Purpose.NOISE).random(patches, np.float32) for row in rows])
    return Batch(batch.images, batch.labels, batch.positions, noise=torch.from_numpy(noise))


def reconstructions(objective: Reconstruct, batch: Batch, norm_pix: bool) -> np.ndarray:
    """u8[H, W, 3]: a row each of originals, visible patches on grey, and predictions of the hidden ones beside the visible."""
    assert batch.noise is not None
    patch = objective.mae.patch_size
    images = normalise(batch.images[:SHOWN])
    predicted, mask = objective.mae(images, batch.noise[:SHOWN])
    target = patchify(images, patch)
    if norm_pix:  # such a model predicts patches with mean 0 and variance 1: put back what it never saw
        mean, var = target.mean(-1, keepdim=True), target.var(-1, keepdim=True)
        predicted = predicted * (var + 1e-6).sqrt() + mean
    hidden = mask[..., None].bool()
    visible = torch.where(hidden, torch.zeros_like(target), target)
    filled = torch.where(hidden, predicted, target)
    rows = [pixels_of(unpatchify(patches, patch)) for patches in (target, visible, filled)]
    return tiles.tiles(np.stack(rows))


def pixels_of(images: Tensor) -> np.ndarray:
    """f32[B, 3, H, W] normalised -> u8[B, H, W, 3]."""
    return denormalise(images).permute(0, 2, 3, 1).cpu().numpy()


def save(mae: MAE, cfg: Pretrain) -> None:
    """The encoder as timm knows it, without a head; the decoder, which timm does not know, beside it."""
    name, arguments = architecture.encoder(cfg.model, cfg.image_size)
    folder.save_mae(mae, Path("data/models/mae"), name, arguments, cfg.image_size, cfg.decoder.model_dump())


if __name__ == "__main__":
    launcher.run("pretrain", main, groups=lambda: load.load("pretrain", Pretrain).groups)
