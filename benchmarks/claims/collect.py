"""What a finished run says: accuracies, which images it got right, its losses, how far it differs from its teacher."""

import base64
import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor
from torch.nn import functional

from stages.lib.core import load
from stages.lib.core.ranks import Rank
from stages.lib.data.each_once import each_once
from stages.lib.data.index import read_index
from stages.lib.data.preparation import preparation_of
from stages.lib.data.shards import ShardReader
from stages.lib.models import deit, folder
from stages.lib.params.system import System
from stages.lib.training import measure

HEADS = ("class", "dist", "fused_logits")
LOOKED_AT = 500
"""Images whose tokens are compared."""


def run(work: Path, model: str, set_name: str, teacher: bool) -> dict[str, Any]:
    """{"images", "heads": {head: {"top1", "right"}}, "numbers": {...}} of the model that lies in `work`."""
    metrics = json.loads((work / f"data/metrics/{model}.json").read_text())
    path = work / f"data/predictions/{model}.parquet"
    table = pq.read_table(path) if path.exists() else predicted(work, model, set_name, metrics["split"])
    label = table["label"].to_numpy()
    said = {head: table[f"{head}_top1"].to_numpy() for head in HEADS if f"{head}_top1" in table.column_names}
    heads = {
        head: {"top1": metrics["heads"][head]["top1"], "right": packed(answer == label)}
        for head, answer in said.items()
    }
    numbers = history(work / f"data/history/{model}.csv")
    if teacher:
        theirs = pq.read_table(work / "data/predictions/teacher.parquet")
        assert theirs["key"].equals(table["key"]), "teacher and student were measured on other images"
        answers = theirs["class_top1"].to_numpy()
        numbers |= {f"{head}_teacher": 100 * float((answer != answers).mean()) for head, answer in said.items()}
        numbers["teacher_top1"] = 100 * float((answers == label).mean())
    if "dist" in said:
        layers = cosines(work, model, set_name, metrics["split"])
        numbers |= {"cosine_input": layers[0], "cosine_last": layers[-1]}
        numbers |= {f"cosine_{layer}": cosine for layer, cosine in enumerate(layers)}
    return {"images": len(label), "parameters": metrics["parameters"], "heads": heads, "numbers": numbers}


def predicted(work: Path, model: str, set_name: str, split: str) -> pa.Table:
    """Predictions of a transferred model, which stage transfer measures and does not keep."""
    index = read_index(work / f"data/index/{set_name}.parquet", split)
    system = System.model_validate(load.parse((work / "params.yaml").read_text())["system"])
    shards = work / f"data/shards/{set_name}"
    measured = measure.examine(work / f"data/models/{model}", index, shards, 256, system, shared=False)
    heads = {f"{head}_top1": judged.predicted for head, judged in measured.tally.heads().items()}
    return pa.table({"key": index.keys, "label": index.labels, **heads})


def history(path: Path) -> dict[str, float]:
    """Last row of a history: training loss, validation loss (nats) and the gap between them."""
    with path.open() as file:
        last = list(csv.DictReader(file))[-1]
    loss, seen = float(last["loss"]), float(last["val_loss"])
    return {"loss": loss, "val_loss": seen, "val_top1": float(last["val_top1"]), "gap": seen - loss}


def packed(right: np.ndarray) -> str:
    """bool[n] -> base64 of its bits, eight a byte, the first the highest."""
    return base64.b64encode(np.packbits(right).tobytes()).decode()


def unpacked(text: str, images: int) -> np.ndarray:
    """The other way."""
    return np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8))[:images].astype(bool)


@torch.inference_mode()
def cosines(work: Path, model: str, set_name: str, split: str) -> list[float]:
    """Cosine of class and distillation token, mean over the split's first images: at the input and after every block."""
    network, config = folder.load(work / f"data/models/{model}")
    preparation = preparation_of(config["pretrained_cfg"], work / f"data/models/{model}")
    index = read_index(work / f"data/index/{set_name}.parquet", split)
    reader = ShardReader(index, work / f"data/shards/{set_name}")
    batch = next(iter(each_once(index, reader, preparation.frame, LOOKED_AT, 0, Rank())))
    assert deit.is_distilled(network)
    found: list[float] = []

    def note(tokens: Tensor) -> None:
        found.append(float(functional.cosine_similarity(tokens[:, 0], tokens[:, 1], dim=-1).mean()))

    blocks = list(network.get_submodule("blocks").children())
    hooks = [blocks[0].register_forward_pre_hook(lambda _, given: note(given[0]))]
    hooks += [block.register_forward_hook(lambda _, __, made: note(made)) for block in blocks]
    network(preparation.normalise(batch.images))
    for hook in hooks:
        hook.remove()
    return found
