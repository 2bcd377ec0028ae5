"""Export a model as a folder that timm loads alone, proven to predict what was evaluated. A leaf: nothing depends on it.

in    data/models/<model>                 weights and preprocessing
      data/metrics/<model>.json           for the card, and which split was evaluated
      data/predictions/<model>.parquet    what the exported folder must predict
      data/index/<set>.parquet            where the images to prove it on lie
out   data/exported/<model>               model.safetensors, config.json, README.md, parity.json
run   dvc repro -s export@<model>
"""

import json
import logging
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import timm
import torch
from timm.data import create_transform, resolve_model_data_config
from torch import nn

from stages.lib.core import files, load, outcome
from stages.lib.core.outcome import Refusal
from stages.lib.data.decode import decode
from stages.lib.data.index import Index, read_index
from stages.lib.data.published import Published, shards_of
from stages.lib.data.shards import ShardReader
from stages.lib.models import folder
from stages.lib.params.export import Export
from stages.lib.params.published import PublishedUri
from stages.lib.params.system import System
from stages.lib.reporting.card import card
from stages.lib.training.device import device_of

log = logging.getLogger(__name__)
BATCH = 64
AGAIN = "Run `dvc repro evaluate@{0} export@{0}`: the model, its preprocessing or timm changed since it was evaluated."


def main() -> None:
    """Build the folder beside its place, prove it, write its card, and only then put it there."""
    name, set_name = sys.argv[1:3]
    cfg, system = load.load("export", Export), load.load("system", System)
    model, index_path = Path(f"data/models/{name}"), Path(f"data/index/{set_name}.parquet")
    metrics = evaluated(Path(f"data/metrics/{name}.json"), name, set_name)
    index = read_index(index_path, metrics["split"])
    shards = shards_of(set_name, load.load_optional("shard", "published_uri", PublishedUri), system)
    predictions = pq.read_table(Path(f"data/predictions/{name}.parquet")).to_pydict()
    with files.replace_folder(Path(f"data/exported/{name}")) as built:
        for file in (folder.WEIGHTS, folder.CONFIG):
            with files.replace(built / file) as temporary:
                shutil.copyfile(model / file, temporary)
        network = strictly_loaded(built)
        images = min(cfg.parity_images, len(index))
        found = probabilities(network, index, shards, images, device_of(system))
        parity = compare(found, index, predictions, cfg.parity_tolerance, name)
        text = card(folder.config_of(built), metrics, splits_of(index_path), index.classes, images)
        for file, content in (("parity.json", json.dumps(parity, indent=1) + "\n"), ("README.md", text)):
            with files.replace(built / file) as temporary:
                temporary.write_text(content, encoding="utf-8")
    log.info(
        "%s: timm alone gives the evaluated class of all %d images, probabilities within %.1e",
        name,
        images,
        parity["max_difference"],
    )


def evaluated(path: Path, name: str, set_name: str) -> dict[str, Any]:
    """The metrics. Raises Refusal if they are of another model or set."""
    metrics: dict[str, Any] = json.loads(path.read_text())
    if (metrics["model"], metrics["set"]) != (name, set_name):
        raise Refusal(
            f"{path} is about {metrics['model']} on {metrics['set']}, not {name} on {set_name}. {AGAIN.format(name)}"
        )
    return metrics


def strictly_loaded(path: Path) -> nn.Module:
    """The folder as a stranger loads it. Raises Refusal unless every tensor of the file is in the model as it is."""
    try:
        network = timm.create_model(f"local-dir:{path}", pretrained=True).eval()
    except Exception as error:  # whatever timm meets in a config somebody edited
        raise folder.unfit(path, str(error)) from error
    weights, loaded = folder.state(path), network.state_dict()
    changed = [key for key in weights.keys() & loaded.keys() if not torch.equal(weights[key], loaded[key])]
    if wrong := sorted([*(weights.keys() ^ loaded.keys()), *changed]):
        raise folder.unfit(path, f"timm drops, adds or changes {', '.join(wrong[:5])}")
    return network


@torch.inference_mode()
def probabilities(
    network: nn.Module, index: Index, shards: Path | Published, images: int, device: torch.device
) -> np.ndarray:
    """f32[images, K] of the split's first images, prepared by timm as config.json says."""
    transform = create_transform(**resolve_model_data_config(network), is_training=False)
    reader, network, found = ShardReader(index, shards), network.to(device), []
    for start in range(0, images, BATCH):
        rows = range(start, min(start + BATCH, images))
        batch = torch.stack([transform(decode(reader.read(row), int(index.orientation[row]))) for row in rows])
        found.append(network(batch.to(device)).double().softmax(1).float().cpu().numpy())
    return np.concatenate(found)


def compare(
    found: np.ndarray, index: Index, predictions: dict[str, list[Any]], tolerance: float, name: str
) -> dict[str, Any]:
    """parity.json. Raises Refusal naming the worst image unless every class is equal and every probability close."""
    images = len(found)
    if predictions["key"] != index.keys:
        raise Refusal(
            f"the predictions of {name} are not about the {index.split} images of {index.set_name}. {AGAIN.format(name)}"
        )
    expected, probability = np.array(predictions["model_top1"][:images]), np.array(predictions["model_prob"][:images])
    got, own = found.argmax(1), found[np.arange(images), expected]
    difference = np.abs(own - probability)
    other, far = got != expected, ~(difference <= tolerance)  # not finite is far
    if other.any() or far.any():
        worst = int(np.argmax(difference + 2 * other))  # another class is worse than any difference
        raise Refusal(
            f"the exported {name} does not predict what was evaluated: of {images} images {int(other.sum())} get another "
            f"class, {int(far.sum())} a probability that differs by more than {tolerance}. The worst is {index.keys[worst]}: "
            f"evaluated {index.classes[expected[worst]]} at {probability[worst]:.6f}, exported "
            f"{index.classes[got[worst]]} at {found[worst].max():.6f} with {own[worst]:.6f} left for the evaluated class. "
            + AGAIN.format(name)
        )
    return {"images": images, "max_difference": float(difference.max()), "predictions_equal": True}


def splits_of(index_path: Path) -> dict[str, int]:
    """split -> images, in the order of the index."""
    counts: dict[str, int] = {}
    for split in pq.read_table(index_path, columns=["split"])["split"].to_pylist():
        counts[split] = counts.get(split, 0) + 1
    return counts


if __name__ == "__main__":
    outcome.run("export", main)
