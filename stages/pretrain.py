"""Pretrain a ViT encoder as a masked autoencoder (He et al. 2021, arXiv 2111.06377).

in    data/index/<set>.parquet    where every image lies in the shards; no label touches a weight (see `readout`)
out   data/models/mae             encoder as a timm ViT, decoder beside it
      data/history/mae.csv        one row an epoch; knn_top1 where the run was looked at, with pretrain.probe_images
      data/samples/mae.png        original, visible patches, reconstruction of validation images
      <run root>/pretrain         checkpoints, metrics.jsonl, TensorBoard (survive a crash, no DVC out)
run   dvc repro -s pretrain
"""

import sys
from collections.abc import Callable
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
from stages.lib.data.colour import apply_changes
from stages.lib.data.crop import Frame, evaluation
from stages.lib.data.each_once import each_once
from stages.lib.data.first_images import first_images
from stages.lib.data.index import Index, read_index
from stages.lib.data.mae_view import mae_view
from stages.lib.data.masking import Noise, noise_of
from stages.lib.data.normalise import normalise
from stages.lib.data.published import shards_of
from stages.lib.data.randomness import Purpose, generator
from stages.lib.data.shards import ShardReader
from stages.lib.data.subset import part
from stages.lib.models import architecture, flops, folder
from stages.lib.models.mae import MAE, visible
from stages.lib.models.mae_features import class_token
from stages.lib.models.mae_flops import mae_macs
from stages.lib.models.precision import autocast
from stages.lib.objectives import painting
from stages.lib.objectives.reconstruct import Reconstruct
from stages.lib.params.data import Data
from stages.lib.params.pretrain import Pretrain
from stages.lib.params.published import PublishedUri
from stages.lib.params.system import System
from stages.lib.training import history, knn, launcher, machine, optimizer, processes, transformer_kernels
from stages.lib.training.checkpoint import Keeper
from stages.lib.training.journal import Journal
from stages.lib.training.loop import Row, Trained, fit
from stages.lib.training.plan import planned
from stages.lib.training.transformer_kernels import Part

NEIGHBOURS, TEMPERATURE = 20, 0.07  # of the readout while training, as DINO's k-NN


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
        bank = first_images(train, cfg.probe_images) if cfg.probe_images else None

        def look(step: int) -> Row:
            row, picture = examine(objective, cfg, val, reader, system.workers)
            journal.picture(step, "reconstructions", picture)
            return row | (
                readout(mae, cfg, bank, ShardReader(bank, shards), val, reader, system.workers) if bank else {}
            )

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
        view=mae_view(cfg),
        augment=apply_changes,
        size=cfg.image_size,
        batch_size=cfg.batch_size,
        seed=cfg.seed,
        noise=masking(cfg),
    )


def masking(cfg: Pretrain) -> Noise:
    """The numbers by which an image's patches are hidden."""
    side = cfg.image_size // cfg.model.patch_size
    return noise_of(cfg.masking, side, visible(side * side, cfg.mask_ratio))


def examine(
    objective: Reconstruct, cfg: Pretrain, val: Index, reader: ShardReader, workers: int
) -> tuple[Row, np.ndarray]:
    """Mean loss over the validation split with masks fixed by the image's row, and a picture of the first images.

    Several processes share the batches; the first image's picture is the first process's.
    """
    device = next(objective.parameters()).device
    found: list[tuple[float, int]] = []
    picture = np.empty(0)
    objective.eval()
    with torch.inference_mode(), autocast(device, cfg.precision):
        for batch in each_once(val, reader, frame_of(cfg), cfg.batch_size, workers, ranks.current()):
            batch = with_noise(batch, cfg).to(device)
            found.append((float(objective(batch)["loss"]), len(batch.images)))
            if not picture.size:
                picture = painting.reconstructions(objective, batch, cfg.norm_pix)
    objective.train()
    total = sum(loss * images for loss, images in processes.gathered(found))
    return {"val_loss": total / len(val)}, picture


def readout(
    mae: MAE, cfg: Pretrain, bank: Index, bank_reader: ShardReader, val: Index, reader: ShardReader, workers: int
) -> Row:
    """Are the features good for anything yet? Percent of validation images whose nearest neighbours know their class.

    Features are detached and nothing is drawn: labels say how a run goes, and never move it. Several processes share the batches.
    """
    known, labels = features(mae, cfg, bank, bank_reader, workers)
    asked, truth = features(mae, cfg, val, reader, workers)
    predicted = knn.votes(known, labels, asked, len(val.classes), NEIGHBOURS, TEMPERATURE).argmax(1)
    return {"knn_top1": 100 * float((predicted == truth).double().mean())}


def features(mae: MAE, cfg: Pretrain, index: Index, reader: ShardReader, workers: int) -> tuple[Tensor, Tensor]:
    """(f32[N, D] on the device, labels i64[N]): class tokens of all images of an index, in its order, in every process."""
    device = mae.cls_token.device
    found: list[tuple[np.ndarray, np.ndarray]] = []
    mae.eval()
    with torch.inference_mode(), autocast(device, cfg.precision):
        for batch in each_once(index, reader, frame_of(cfg), cfg.batch_size, workers, ranks.current()):
            tokens = class_token(mae, normalise(batch.images.to(device)))
            found.append((tokens.cpu().numpy(), batch.labels.numpy()))
    mae.train()
    tokens_of_all, labels_of_all = zip(*processes.gathered(found), strict=True)
    return torch.from_numpy(np.concatenate(tokens_of_all)).to(device), torch.from_numpy(np.concatenate(labels_of_all))


def frame_of(cfg: Pretrain) -> Callable[[int, int], Frame]:
    """What is looked at of an image that is not trained on: the centre of its shorter side."""
    return lambda width, height: evaluation(width, height, cfg.image_size, 1.0)


def with_noise(batch: Batch, cfg: Pretrain) -> Batch:
    """The batch with a masking noise that depends on the image's row alone."""
    draw, rows = masking(cfg), batch.positions.tolist()
    noise = np.stack([draw(generator(cfg.seed, 0, row, Purpose.NOISE)) for row in rows])
    return replace(batch, noise=torch.from_numpy(noise))


def save(mae: MAE, cfg: Pretrain) -> None:
    """The encoder as timm knows it, without a head; the decoder, which timm does not know, beside it."""
    name, arguments = architecture.encoder(cfg.model, cfg.image_size)
    folder.save_mae(mae, Path("data/models/mae"), name, arguments, cfg.image_size, cfg.decoder.model_dump())


if __name__ == "__main__":
    launcher.run("pretrain", main, groups=lambda: load.load("pretrain", Pretrain).groups)
