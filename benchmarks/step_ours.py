"""Steps as the stages take them: their objective, optimizer and kernels, the loop's own step, on a batch that lies ready."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, cast

import torch
from ruamel.yaml import YAML
from torch import Tensor

from benchmarks.step_models import Sizes
from stages import pretrain
from stages.lib.core.runs import Run
from stages.lib.data.batch import Batch
from stages.lib.data.normalise import normalise
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
from stages.lib.training import convnet_kernels, optimizer, transformer_kernels
from stages.lib.training.loop import Trained, _step

PRESETS = Path("presets")
Step = Callable[[], object]


def mae(sizes: Sizes, batch: Batch, precision: Precision, compiled: bool) -> Step:
    """A step of stage `pretrain` with the settings of presets/imagenet-mae-base.yaml."""
    values = _preset("imagenet-mae-base", "pretrain", sizes, precision, compiled)
    values |= {"decoder": cast(Decoder, sizes.decoder).model_dump(), "batch_size": len(batch.images)}
    cfg = Pretrain.model_validate(values | {"image_size": sizes.image_size, "mask_ratio": sizes.mask_ratio})
    torch.manual_seed(0)
    network = MAE(cfg.image_size, cfg.model, cfg.decoder, cfg.mask_ratio)
    objective = Reconstruct(network, cfg.norm_pix).to(batch.images.device)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder), "")
        transformer_kernels.prepare(run, pretrain.parts_of(network), cfg, cfg.batch_size, _system())
    return _training(Trained(objective, network, optimizer.build(cfg.optimizer, network, cfg.model.depth)), batch, cfg)


def deit(sizes: Sizes, batch: Batch, precision: Precision, compiled: bool) -> Step:
    """A step of stage `distill` without a teacher, with the settings of presets/imagenet-deit-base.yaml."""
    values = _preset("imagenet-deit-base", "train", sizes, precision, compiled)
    values |= {"distill": "none", "teacher": "none", "ema_decay": 0.0}
    batch_size = len(batch.images)
    shape = {"image_size": sizes.image_size, "batch_size": batch_size, "order": "permutation", "repeats": 1}
    shape |= {
        "mix_group": max(2, batch_size),
        "mixup": 0.0,
        "cutmix": 0.0,
    }  # the batch that lies ready says what is mixed
    cfg = Train.model_validate(values | {"views": {**values["views"], **shape}})
    torch.manual_seed(0)
    student = deits.create(cfg.model, sizes.image_size, sizes.classes, False, cfg.drop_path)
    objective = recipe(student, None, "none", cfg, sizes.classes).to(batch.images.device)
    with tempfile.TemporaryDirectory() as folder:
        transformer_kernels.prepare_classifier(Run(Path(folder), ""), student, cfg, _system())
    return _training(Trained(objective, student, optimizer.build(cfg.optimizer, student, cfg.model.depth)), batch, cfg)


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


def labelling(images: Tensor, precision: Precision, compiled: bool) -> Step:
    """RegNetY-16GF's logits of images u8[B,3,H,W]."""
    torch.manual_seed(0)
    network = teacher.create("regnety_160", None, 1000).to(images.device).eval()
    if compiled:
        teacher.compile_blocks(network, inference=True)
    convnet_kernels.lay(network, "channels-last")

    @torch.inference_mode()
    def step() -> Tensor:
        with autocast(images.device, precision):
            return cast(Tensor, network(normalise(images)))

    return step


def _training(trained: Trained, batch: Batch, cfg: Pretrain | Train) -> Step:
    trained.objective.train()
    return lambda: _step(trained, batch, 1e-4, cfg.optimizer.clip_norm, cfg.precision)


def _preset(name: str, block: str, sizes: Sizes, precision: Precision, compiled: bool) -> dict[str, Any]:
    values: dict[str, Any] = YAML(typ="safe").load(PRESETS / f"{name}.yaml")[block]
    return {**values, "model": sizes.vit.model_dump(), "precision": precision, "compile": compiled}


def _system() -> System:
    values = YAML(typ="safe").load(PRESETS / "imagenet-mae-base.yaml")["system"]
    return System.model_validate(values)
