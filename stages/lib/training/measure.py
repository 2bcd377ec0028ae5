"""Measure a model folder on a split: every image exactly once, prepared as the model's own config.json says."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from stages.lib.core import ranks
from stages.lib.core.outcome import Refusal
from stages.lib.data import stamp
from stages.lib.data.each_once import each_once
from stages.lib.data.index import Index
from stages.lib.data.preparation import Preparation, preparation_of
from stages.lib.data.shards import ShardReader
from stages.lib.data.stamp import Stamp
from stages.lib.models import deit, flops, folder
from stages.lib.params.system import System
from stages.lib.training import processes
from stages.lib.training.accuracy import Tally
from stages.lib.training.device import device_of

if TYPE_CHECKING:
    from stages.lib.data.published import Published


@dataclass(frozen=True)
class Measured:
    """A model on a split."""

    name: str
    index: Index
    preparation: Preparation
    parameters: int
    macs: int
    """Multiply-accumulates of one image's forward."""
    stamp: Stamp
    tally: Tally

    def metrics(self) -> dict[str, Any]:
        """What data/metrics/<model>.json holds; accuracies and agreements in percent, nll in nats."""
        return {
            "model": self.name,
            "set": self.index.set_name,
            "split": self.index.split,
            "images": len(self.index),
            "classes": len(self.index.classes),
            "image_size": self.preparation.size,
            "parameters": self.parameters,
            "macs": self.macs,
            "stamp": self.stamp,
            **self.tally.metrics(),
        }


def model(path: Path, index: Index, shards: "Path | Published", batch_size: int, system: System) -> dict[str, Any]:
    """The metrics of the model folder `path` on the images of `index`, by this process alone. Raises Refusal."""
    return examine(path, index, shards, batch_size, system, shared=False).metrics()


@torch.inference_mode()
def examine(
    path: Path,
    index: Index,
    shards: "Path | Published",
    batch_size: int,
    system: System,
    shared: bool = True,
    among: tuple[Index, np.ndarray] | None = None,
) -> Measured:
    """As `model`, with every image's predictions. Deterministic for one machine, thread count and batch size.

    shared: several processes share the batches, and all come to know all predictions: the same bits for any number of them.
    among: for images of another set, the set that the model was trained on, and the label i64[K] there of each of the other set's
    classes; only these compete.
    """
    network, config = folder.load(path)
    each_there_once(index)
    fits(config, among[0] if among else index, path)
    preparation = preparation_of(config["pretrained_cfg"], path / folder.CONFIG)
    macs, made_from = flops.counted_macs(network, preparation.size), stamp.of(path, index.path)
    device = device_of(system)
    network.to(device)
    tally, rows, rank = Tally(len(index.classes)), [], ranks.current() if shared else ranks.Rank()
    columns = torch.as_tensor(among[1], device=device) if among else None
    for batch in each_once(index, ShardReader(index, shards), preparation.frame, batch_size, system.workers, rank):
        first, second = heads(network, preparation.normalise(batch.images.to(device)))
        if columns is not None:
            first, second = first[:, columns], None if second is None else second[:, columns]
        tally.add(first, second, batch.labels)
        rows.append(batch.positions.numpy())
    if shared:
        tally.batches, rows = processes.gathered(tally.batches), processes.gathered(rows)
    assert np.array_equal(np.concatenate(rows), np.arange(len(index))), "an image was left out or came twice"
    parameters = sum(p.numel() for p in network.parameters())
    return Measured(path.name, index, preparation, parameters, macs, made_from, tally)


def heads(network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor | None]:
    """f[B, 3, H, W] -> (class logits f[B, K], the distillation head's or None)."""
    return deit.heads(network, images) if isinstance(network, VisionTransformer) else (network(images), None)


def each_there_once(index: Index) -> None:
    """Raise Refusal where the index names an image twice."""
    if len(set(index.keys)) < len(index):
        raise Refusal(
            f"the index of {index.set_name} names an image twice; run `dvc repro -s shard@{index.set_name}` again."
        )


def fits(config: dict[str, Any], index: Index, path: Path) -> None:
    """Raise Refusal unless the model knows exactly the classes of the index."""
    names = tuple(config.get("label_names", ()))
    if names != index.classes:
        raise Refusal(
            f"{path} knows {len(names)} classes ({_some(names)}), {index.set_name} has {len(index.classes)} "
            f"({_some(index.classes)}), and they are not the same. Measure a model on the set it was trained on."
        )


def _some(names: tuple[str, ...]) -> str:
    """The first few of many names."""
    return ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")
