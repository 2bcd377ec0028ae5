"""Model folders: model.safetensors and config.json, as timm's `local-dir:` reads them, with preprocessing inside.

`timm.create_model("local-dir:<folder>", pretrained=True)` loads one strictly and without this project. The same model
gives the same bytes: nothing of time, host or path is written.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
from safetensors import SafetensorError
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from stages.lib.core import files
from stages.lib.core.outcome import Refusal

WEIGHTS, CONFIG = "model.safetensors", "config.json"


def save(
    model: nn.Module,
    folder: Path,
    architecture: str,
    model_args: Mapping[str, Any],
    image_size: int,
    crop_pct: float,
    class_names: Sequence[str] | None,
    licence: str | None = None,
    notes: Sequence[str] = (),
    beside: Mapping[str, bytes] | None = None,
    prepared: Mapping[str, Any] | None = None,
    derived_from: Sequence[Mapping[str, str]] = (),
) -> None:
    """Replace `folder` by this model: all of it appears, or nothing.

    architecture, model_args: what timm.create_model builds the model from. class_names: one a class, index = label;
    empty for an encoder without a head, None where nobody knows them. crop_pct: share of the resized shorter side that
    evaluation keeps. beside: more files by name. prepared: preprocessing other than ours (mean, std, ...). derived_from:
    licences of others' weights it learnt from, as `lineage` gives them. Raises ValueError if class names and classes do
    not match.
    """
    if class_names is not None and len(class_names) != model.num_classes:
        raise ValueError(f"{len(class_names)} class names for a model of {model.num_classes} classes")
    config = describe(model, architecture, model_args, image_size, crop_pct, class_names or ())
    config |= {"derived_from": [dict(origin) for origin in derived_from]} if derived_from else {}
    config["pretrained_cfg"] |= prepared or {}
    config["pretrained_cfg"] |= {"license": licence} if licence else {}
    config["pretrained_cfg"] |= {"notes": list(notes)} if notes else {}
    write(folder, {WEIGHTS: packed(model.state_dict()), CONFIG: text(config), **(beside or {})})


def save_mae(
    mae: nn.Module,
    folder: Path,
    architecture: str,
    model_args: Mapping[str, Any],
    image_size: int,
    decoder: Mapping[str, Any],
    licence: str | None = None,
) -> None:
    """An MAE: its encoder as timm's model without a head, and decoding it what timm does not know.

    decoder.safetensors holds the mask token, the decoder and its positions under the published names, decoder.json its
    sizes as given.
    """
    state = mae.state_dict()
    decoding = {name: tensor for name, tensor in state.items() if name == "mask_token" or name.startswith("decoder_")}
    encoder = timm.create_model(architecture, num_classes=0, weight_init="skip", **model_args)
    encoder.load_state_dict({name: tensor for name, tensor in state.items() if name not in decoding})
    more = {"decoder.safetensors": packed(decoding), "decoder.json": text(dict(decoder))}
    save(encoder, folder, architecture, model_args, image_size, 1.0, (), licence, beside=more)


def describe(
    model: nn.Module,
    architecture: str,
    model_args: Mapping[str, Any],
    image_size: int,
    crop_pct: float,
    names: Sequence[str],
) -> dict[str, Any]:
    """config.json: how to build the model, and how to prepare an image for it."""
    known = timm.get_pretrained_cfg(architecture)
    assert known is not None
    side = math.ceil(image_size / 32)  # a RegNet's last feature map; transformers have none
    prepared = preprocessing(image_size, crop_pct)
    return {
        "architecture": architecture,
        "num_classes": model.num_classes,
        "num_features": model.num_features,
        "model_args": dict(model_args),
        **({"label_names": list(names)} if names else {}),
        "pretrained_cfg": {
            "input_size": prepared.pop("input_size"),
            "fixed_input_size": known.fixed_input_size,
            **prepared,
            "num_classes": model.num_classes,
            "pool_size": [side, side] if known.pool_size else None,
            "first_conv": known.first_conv,
            "classifier": known.classifier,
        },
    }


def preprocessing(image_size: int, crop_pct: float) -> dict[str, Any]:
    """What every model trained here wants, in a pretrained_cfg's words."""
    return {
        "input_size": [3, image_size, image_size],
        "interpolation": "bicubic",
        "crop_pct": crop_pct,
        "crop_mode": "center",
        "mean": list(IMAGENET_DEFAULT_MEAN),
        "std": list(IMAGENET_DEFAULT_STD),
    }


def lineage(*origins: Path) -> list[dict[str, str]]:
    """Of the model folders that a new model learns from: others' weights among them and before them, each with its licence.

    [{"model", "licence"}]; nothing for what was trained here from nothing but images.
    """
    found: list[dict[str, str]] = []
    for config, name in ((config_of(origin), origin.name) for origin in origins):
        licence = config["pretrained_cfg"].get("license")
        own = [{"model": name, "licence": licence}] if licence else []
        found += [one for one in [*config.get("derived_from", []), *own] if one not in found]
    return found


def load(folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    """(model in eval mode on the CPU, its config.json), built and filled by timm; global generators stay as they were.

    Raises Refusal if a file is missing or damaged, or if weights and config differ in any name or shape.
    """
    config, weights = config_of(folder), state(folder)
    try:
        with torch.random.fork_rng(devices=[]):
            model = timm.create_model(f"local-dir:{folder}", pretrained=True)
    except Exception as error:  # whatever timm meets in a config somebody edited
        raise unfit(folder, str(error)) from error
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    if shapes != {name: tensor.shape for name, tensor in weights.items()}:  # timm adapts some tensors without a word
        raise unfit(folder, "timm had to change weights to make them fit")
    return model.eval(), config


def config_of(folder: Path) -> dict[str, Any]:
    """config.json of a model folder. Raises Refusal if missing or damaged."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise damaged(folder / CONFIG, error) from error
    if not isinstance(config, dict) or not {"architecture", "pretrained_cfg"} <= config.keys():
        raise damaged(folder / CONFIG, "architecture or pretrained_cfg is not there")
    return config


def state(folder: Path, name: str = WEIGHTS) -> dict[str, Tensor]:
    """The tensors of one of a folder's safetensors files, on the CPU. Raises Refusal if missing or damaged."""
    try:
        return safetensors.torch.load_file(folder / name)
    except (OSError, SafetensorError) as error:
        raise damaged(folder / name, error) from error


def damaged(path: Path, why: object) -> Refusal:
    """What to tell the person whose file cannot be read."""
    return Refusal(f"{path} is missing or damaged ({why}); `dvc checkout {path.parent}` or run its stage again")


def unfit(folder: Path, why: str) -> Refusal:
    """What to tell the person whose weights and config belong to different models."""
    return Refusal(f"{folder / WEIGHTS} and {folder / CONFIG} do not belong together: {why}; restore both from one run")


def packed(tensors: Mapping[str, Tensor]) -> bytes:
    """Bytes of a safetensors file; the format sorts by name, so equal tensors give equal bytes."""
    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return safetensors.torch.save(ready, metadata={"format": "pt"})


def text(content: Mapping[str, Any]) -> bytes:
    """Bytes of a JSON file a person can read."""
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def write(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Replace `folder` by these files, flushed."""
    with files.replace_folder(folder) as fresh:
        for name, content in contents.items():
            with files.replace(fresh / name) as path:
                path.write_bytes(content)
