"""Steps as the stages take them: their objective, optimizer, kernels, the loop's own step; and the batches their recipes make."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from ruamel.yaml import YAML
from torch import Tensor

from benchmarks import pictures
from benchmarks.pictures import Pictures
from benchmarks.step_models import TEACHER_CLASSES, TEACHER_SIZE, Sizes
from stages import pretrain
from stages.lib.core.outcome import Refusal
from stages.lib.core.runs import Run
from stages.lib.data.batch import Batch
from stages.lib.data.batches import Stream
from stages.lib.data.classifier_stream import stream_of
from stages.lib.data.normalise import normalise
from stages.lib.data.shards import ShardReader
from stages.lib.models import deit as deits
from stages.lib.models import teacher
from stages.lib.models.mae import MAE, patchify
from stages.lib.models.precision import autocast
from stages.lib.objectives.distill import recipe
from stages.lib.objectives.reconstruct import Reconstruct
from stages.lib.params.precision import Precision
from stages.lib.params.pretrain import Decoder, Pretrain
from stages.lib.params.system import System
from stages.lib.params.train import Train
from stages.lib.params.views import Views
from stages.lib.training import labelling as asking
from stages.lib.training import optimizer, transformer_kernels
from stages.lib.training.kernels import Matmul
from stages.lib.training.loop import Trained, _step

PRESETS = Path("presets")
EPOCH_STEPS = 16
"""At least, in an epoch of the few images that are read again and again."""
Step = Callable[[], object]


@dataclass(frozen=True)
class Work:
    """What a stage does with batches on the device, and those its recipe makes of images."""

    step: Callable[[Batch], object]
    stream: Callable[[Pictures], Stream]
    matmul: Matmul = "default"
    """How it multiplies in single precision."""


def mae(sizes: Sizes, size: int, device: torch.device, precision: Precision, compiled: bool) -> Work:
    """Stage `pretrain` with the settings of presets/imagenet-mae-base.yaml, `size` images a step."""
    values = _preset("imagenet-mae-base", "pretrain", sizes, precision, compiled)
    values |= {"decoder": cast(Decoder, sizes.decoder).model_dump(), "batch_size": size}
    cfg = Pretrain.model_validate(values | {"image_size": sizes.image_size, "mask_ratio": sizes.mask_ratio})
    torch.manual_seed(0)
    network = MAE(cfg.image_size, cfg.model, cfg.decoder, cfg.mask_ratio)
    objective = Reconstruct(network, cfg.norm_pix).to(device)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder), "")
        transformer_kernels.prepare(run, pretrain.parts_of(network), cfg, cfg.batch_size, _system())
    trained = Trained(objective, network, optimizer.build(cfg.optimizer, network, cfg.model.depth))
    return _training(trained, cfg, lambda some: pretrain.stream_of(cfg, some.index, _reader(some)))


def deit(sizes: Sizes, size: int, device: torch.device, precision: Precision, compiled: bool) -> Work:
    """Stage `distill` without a teacher, with the settings of presets/imagenet-deit-base.yaml, `size` images a step."""
    values = _preset("imagenet-deit-base", "train", sizes, precision, compiled)
    values |= {"distill": "none", "teacher": "none", "ema_decay": 0.0}
    shape = {"image_size": sizes.image_size, "batch_size": size, "order": "permutation", "repeats": 1}
    unmixed = {"mix_group": max(2, size), "mixup": 0.0, "cutmix": 0.0}  # a batch says itself how it is mixed
    cfg = Train.model_validate(values | {"views": {**values["views"], **shape, **unmixed}})
    torch.manual_seed(0)
    student = deits.create(cfg.model, sizes.image_size, sizes.classes, False, cfg.drop_path)
    objective = recipe(student, None, "none", cfg, sizes.classes).to(device)
    with tempfile.TemporaryDirectory() as folder:
        transformer_kernels.prepare_classifier(Run(Path(folder), ""), student, cfg, _system())
    trained = Trained(objective, student, optimizer.build(cfg.optimizer, student, cfg.model.depth))
    return _training(trained, cfg, lambda some: _viewed(some, size, sizes.image_size, cfg.model.depth))


def encoder(sizes: Sizes, batch: Batch, precision: Precision, masked: bool) -> Step:
    """Forward and backward through the autoencoder's encoder alone, over visible patches or over all; no optimizer."""
    torch.manual_seed(0)
    ratio = sizes.mask_ratio if masked else 1e-9  # hides one patch, the least there is
    network = MAE(sizes.image_size, sizes.vit, cast(Decoder, sizes.decoder), ratio).to(batch.images.device)
    kind: Literal["fused", "plain"] = "plain" if batch.images.device.type == "cpu" else "fused"
    for block in network.blocks:
        transformer_kernels.attend(cast(Any, block), kind)
    patches = patchify(normalise(batch.images), sizes.vit.patch_size)
    kept = network.order(cast(Tensor, batch.noise))[:, : network.keep]

    def step() -> None:
        with autocast(patches.device, precision):
            latent = network.latent(patches, kept)
        latent.float().square().mean().backward()
        network.zero_grad(set_to_none=True)

    return step


def labelling(size: int, device: torch.device, precision: Precision, compiled: bool) -> Work:
    """Stage `label` with a RegNetY-16GF of random weights asked about `size` images at once, laid out as it is on this device."""
    torch.manual_seed(0)
    network = teacher.create("regnety_160", None, TEACHER_CLASSES).to(device).eval()
    last = asking.layout(network, precision, TEACHER_SIZE) == "channels-last" if device.type == "cuda" else compiled
    way = asking.Way(precision, 0, channels_last=last, compiled=compiled)
    asked = asking.asked(network, way)
    answered = asking.Answered(EPOCH_STEPS * size + pictures.MOST, 0, device)
    return Work(
        lambda batch: asking.ask_about(asked, [batch], answered, way),
        lambda some: _viewed(some, size, TEACHER_SIZE, 0),
    )


def recipe_views(size: int, image_size: int) -> Views:
    """DeiT's, of one process that takes `size` images a step. Raises Refusal where such a batch cannot be mixed."""
    values: dict[str, Any] = YAML(typ="safe").load(PRESETS / "imagenet-deit-base.yaml")["train"]["views"]
    most = min(values["mix_group"], size // values["repeats"])
    group = max((group for group in range(2, most + 1, 2) if size % group == 0), default=0)
    if not group:
        raise Refusal(
            f"--batch {size}: DeiT mixes pairs of images and shows {values['repeats']} views of each, so its batches are even and "
            f"not below {2 * values['repeats']}; take a multiple of {values['mix_group']}"
        )
    shape = {"image_size": image_size, "batch_size": size, "mix_group": group, "order": "permutation", "replicas": 1}
    return Views.model_validate(values | shape)


def _viewed(some: Pictures, size: int, image_size: int, depth: int) -> Stream:
    return stream_of(recipe_views(size, image_size), some.index, _reader(some), depth)


def _reader(some: Pictures) -> ShardReader:
    return ShardReader(some.index, some.folder)


def _training(trained: Trained, cfg: Pretrain | Train, stream: Callable[[Pictures], Stream]) -> Work:
    """The way to multiply is that which `prepare` has just set."""
    trained.objective.train()
    matmul: Matmul = "onednn" if torch.get_float32_matmul_precision() == "medium" else "default"
    return Work(lambda batch: _step(trained, batch, 1e-4, cfg.optimizer.clip_norm, cfg.precision), stream, matmul)


def _preset(name: str, block: str, sizes: Sizes, precision: Precision, compiled: bool) -> dict[str, Any]:
    values: dict[str, Any] = YAML(typ="safe").load(PRESETS / f"{name}.yaml")[block]
    return {**values, "model": sizes.vit.model_dump(), "precision": precision, "compile": compiled}


def _system() -> System:
    values = YAML(typ="safe").load(PRESETS / "imagenet-mae-base.yaml")["system"]
    return System.model_validate(values)
