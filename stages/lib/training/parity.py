"""Does an exported file give what this pipeline's own model gives? On real images, preparation included, in single precision."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform
from torch import Tensor

from stages.lib.core.outcome import Refusal
from stages.lib.data.decode import decode
from stages.lib.data.index import Index
from stages.lib.data.shards import ShardReader

if TYPE_CHECKING:
    from stages.lib.data.published import Published

CHUNK = 32  # images at a time


@dataclass(frozen=True)
class Candidate:
    """One way from an image to outputs."""

    name: str
    prepare: Callable[[Image.Image], Tensor]
    """RGB image -> f32[3, H, W]."""
    run: Callable[[Tensor], tuple[Tensor, ...]]
    """f32[B, 3, H, W] -> outputs f32[B, K]."""
    outputs: tuple[str, ...]


def documented(preprocessing: Mapping[str, Any]) -> Callable[[Image.Image], Tensor]:
    """What a file's own words about preprocessing come to, done by timm: nothing of ours, so that a wrong word shows."""
    wanted = dict(preprocessing)
    turned = wanted.pop("channels", "RGB") == "BGR"
    transform = create_transform(**wanted, is_training=False)
    return lambda image: transform(image).flip(0) if turned else transform(image)


@torch.inference_mode()
def prove(
    own: Candidate,
    others: Sequence[Candidate],
    index: Index,
    shards: "Path | Published",
    images: int,
    tolerance: float,
    labelled: bool = True,
) -> dict[str, float]:
    """Name -> largest difference of any output, for each of `others`, over the first `images` of the index.

    labelled: outputs are logits, whose argmax must be equal too. Raises Refusal naming the worst image of the first that is not
    within `tolerance`.
    """
    reader = ShardReader(index, shards)
    found: dict[str, list[tuple[Tensor, ...]]] = {way.name: [] for way in (own, *others)}
    for start in range(0, images, CHUNK):
        rows = range(start, min(start + CHUNK, images))
        pictures = [decode(reader.read(row), int(index.orientation[row])) for row in rows]
        for way in (own, *others):
            found[way.name].append(way.run(torch.stack([way.prepare(picture) for picture in pictures])))
    wanted = [torch.cat(parts).numpy() for parts in zip(*found[own.name], strict=True)]
    largest = {}
    for way in others:
        if way.outputs != own.outputs:
            raise Refusal(f"{way.name} has the outputs {', '.join(way.outputs)}, not {', '.join(own.outputs)}.")
        got = [torch.cat(parts).numpy() for parts in zip(*found[way.name], strict=True)]
        largest[way.name] = max(
            compare(way.name, name, one, other, index.keys[:images], tolerance, labelled)
            for name, one, other in zip(own.outputs, got, wanted, strict=True)
        )
    return largest


def compare(
    way: str, output: str, got: np.ndarray, wanted: np.ndarray, keys: Sequence[str], tolerance: float, labelled: bool
) -> float:
    """Largest difference of f32[N, K] and f32[N, K]. Raises Refusal naming the worst image."""
    if got.shape != wanted.shape:
        raise Refusal(f"{way}: {output} has the shape {got.shape}, not {wanted.shape}.")
    difference = np.abs(got.astype(np.float64) - wanted).max(1)
    far = ~(difference <= tolerance)  # not finite is far
    other = (got.argmax(1) != wanted.argmax(1)) & labelled
    if far.any() or other.any():
        worst = int(np.argmax(np.nan_to_num(difference, nan=np.inf) + (other * tolerance)))
        said = f", and {int(other.sum())} get another class" if labelled else ""
        raise Refusal(
            f"{way} does not give what the model gives: of {len(keys)} images {int(far.sum())} differ in {output} by more than "
            f"{tolerance}{said}. The worst is {keys[worst]}, which differs by {difference[worst]:.6g}. Its weights, its words on "
            "preprocessing (mean, standard deviation, channel order, crop) or the exporting library are wrong."
        )
    return float(difference.max())
