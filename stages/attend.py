"""Where does a transformer look, and how alike are its two tokens? (Touvron et al. 2021, section 4; Caron et al. 2021, Figure 1)

in    data/index/<set>.parquet              where every image lies in the shards
      data/models/<model>                   a vision transformer
out   data/plots/<model>-tokens.csv         cosine of class and distillation token, layer by layer; no row where there is but one
      data/samples/<model>-attention.png    a row an image of the sample in <model>-images.png: image, attention of either token
run   dvc repro -s attend@<model>
"""

import csv
import sys
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from stages.lib.core import files, load, outcome
from stages.lib.core.outcome import Refusal
from stages.lib.data import some_images, tiles
from stages.lib.data.each_once import each_once
from stages.lib.data.index import Index, read_index
from stages.lib.data.preparation import Preparation, preparation_of
from stages.lib.data.published import Published, shards_of
from stages.lib.data.shards import ShardReader
from stages.lib.data.sprite import sprite
from stages.lib.models import deit, folder, token_path
from stages.lib.models.attention import attention
from stages.lib.params.evaluate import Evaluate
from stages.lib.params.published import PublishedUri
from stages.lib.params.system import System
from stages.lib.training.device import device_of

SAMPLE, TILE = 12, 96  # as stages/look.py
SHARE = 0.95  # of the images that lie between low and high
LIGHT = np.array([255.0, 170.0, 30.0])
"""Colour of attention."""


def main() -> None:
    """Ask the model about every image, and draw where it looks in a few."""
    name, set_name = sys.argv[1:3]
    cfg, system = load.load("evaluate", Evaluate), load.load("system", System)
    index = read_index(Path(f"data/index/{set_name}.parquet"), cfg.split)
    shards = shards_of(set_name, load.load_optional("shard", "published_uri", PublishedUri), system)
    path = Path(f"data/models/{name}")
    network, config = folder.load(path)
    if not isinstance(network, VisionTransformer):
        raise Refusal(f"{path} is a {type(network).__name__}: only a vision transformer attends to patches.")
    preparation = preparation_of(config["pretrained_cfg"], path / folder.CONFIG)
    device = device_of(system)
    network.to(device)
    rows = some_images.sample(index.keys, SAMPLE)
    picture = maps(network, index, shards, rows, preparation)
    tiles.save(Path(f"data/samples/{name}-attention.png"), picture)
    alike = np.empty((0, 0))
    if deit.is_distilled(network):
        reader = ShardReader(index, shards)
        batches = each_once(index, reader, preparation.frame, cfg.batch_size, system.workers)
        images = (preparation.normalise(batch.images.to(device)) for batch in batches)
        alike = np.concatenate([token_path.cosines(network, some).cpu().numpy() for some in images])
    write_layers(Path(f"data/plots/{name}-tokens.csv"), alike)


def maps(
    network: VisionTransformer, index: Index, shards: "Path | Published", rows: list[int], preparation: Preparation
) -> np.ndarray:
    """u8[len(rows) * S, columns * S, 3]: an image, and what each token before the patches attends to, the more the brighter."""
    device = deit.positions_of(network).device
    views = torch.from_numpy(some_images.seen(index, shards, rows, preparation.frame)).to(device)
    smaller = replace(preparation, size=min(TILE, preparation.size))
    shown = some_images.seen(index, shards, rows, smaller.frame)
    found = attention(network, preparation.normalise(views)).cpu()
    columns = [shown, *(lit(shown, found[:, token]) for token in range(found.shape[1]))]
    return sprite(np.stack(columns, axis=1).reshape(-1, *shown.shape[1:]), len(columns))


def lit(images: np.ndarray, attention: Tensor) -> np.ndarray:
    """u8[N, 3, S, S] in grey, f[N, rows, columns] -> u8[N, 3, S, S]: each patch as bright as its share of the largest."""
    side = images.shape[-1]
    shares = (attention / attention.amax((1, 2), keepdim=True)).float().numpy()
    bright = np.stack(
        [np.asarray(Image.fromarray(share).resize((side, side), Image.Resampling.NEAREST)) for share in shares]
    )
    grey = images.mean(axis=1, keepdims=True)
    mixed = 0.4 * grey + 0.6 * bright[:, None] * LIGHT[None, :, None, None]
    return cast(np.ndarray, mixed.round().clip(0, 255).astype(np.uint8))


def write_layers(path: Path, alike: np.ndarray) -> None:
    """f64[N, depth + 1] -> layer (0: the input), cosine (mean over images), low, high (95 % of the images lie between)."""
    tail = 100 * (1 - SHARE) / 2
    with files.replace(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("layer", "cosine", "low", "high"))
        for layer, values in enumerate(alike.T):
            low, high = np.percentile(values, (tail, 100 - tail))
            table.writerow((layer, *(f"{value:.6f}" for value in (values.mean(), low, high))))


if __name__ == "__main__":
    outcome.run("attend", main)
