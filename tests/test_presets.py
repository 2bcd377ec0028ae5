"""The presets: each valid, complete, and holding the published numbers beside their sources."""

import functools
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from ruamel.yaml import YAML

from stages.lib.core import load
from stages.lib.params.everything import Everything
from stages.lib.params.optimizer import Optimizer
from stages.lib.params.versions import Versions
from tests.conftest import ROOT

PRESETS = sorted((ROOT / "presets").glob("*.yaml"))
NAMES = {
    "imagenet-deit-tiny",
    "imagenet-deit-small",
    "imagenet-deit-base",
    "imagenet-deit3-small",
    "imagenet-deit3-base",
    "imagenet-mae-base",
    "imagenet-mae-large",
    "imagenet-mae-huge",
    "tiny-imagenet",
    "cifar10",
}

# key -> (published value, where it is published: the words the preset's comment must carry)
DEIT: dict[str, tuple[Any, str]] = {
    "teacher.architecture": ("regnety_160", "DeiT Table 2"),
    "teacher.source": ("https://dl.fbaipublicfiles.com/deit/regnety_160-a5fe301d.pth", "README_deit.md"),
    "teacher.sha256": ("a5fe301d", "README_deit.md"),
    "train.distill": ("hard", "DeiT eq. 3"),
    "train.init": ("scratch", ""),
    "train.alpha": (0.5, "DeiT eq. 3"),
    "train.tau": (3.0, "DeiT eq. 2"),
    "train.soft_divisor": ("elements", "deit/losses.py"),
    "train.label_smoothing": (0.1, "DeiT Table 9"),
    "train.drop_path": (0.1, "DeiT Table 9"),
    "train.ema_decay": (0.99996, "deit/main.py"),
    "train.select": ("last", "DeiT issues #67"),
    "train.crop_pct": (0.875, "deit/main.py"),
    "train.head_std": (0.02, "timm 0.3.2"),
    "train.views.epochs": (300, "DeiT Table 9"),
    "train.views.batch_size": (1024, "DeiT Table 9"),
    "train.views.image_size": (224, "DeiT"),
    "train.views.order": ("deit", "deit/samplers.py"),
    "train.views.repeats": (3, "DeiT Table 9"),
    "train.views.scale": ((0.08, 1.0), "timm 0.3.2"),
    "train.views.ratio": ((3 / 4, 4 / 3), "timm 0.3.2"),
    "train.views.hflip": (0.5, "timm 0.3.2"),
    "train.views.randaugment": ("rand-m9-mstd0.5-inc1", "DeiT Table 9"),
    "train.views.erase": (0.25, "DeiT Table 9"),
    "train.views.mixup": (0.8, "DeiT Table 9"),
    "train.views.cutmix": (1.0, "DeiT Table 9"),
    "train.views.mix_prob": (1.0, "deit/main.py"),
    "train.views.mix_switch": (0.5, "deit/main.py"),
    "train.views.cutmix_box": ("timm-0.3.2", "README_deit.md"),
    "train.optimizer.name": ("adamw", "DeiT Table 9"),
    "train.optimizer.lr": (5e-4, "DeiT Table 9"),
    "train.optimizer.lr_per": (512, "DeiT Table 9"),
    "train.optimizer.weight_decay": (0.05, "DeiT Table 9"),
    "train.optimizer.betas": ((0.9, 0.999), "deit/main.py"),
    "train.optimizer.eps": (1e-8, "deit/main.py"),
    "train.optimizer.decay_tokens": ("dist", "deit/models.py"),
    "train.optimizer.clip_norm": (0.0, "DeiT Table 9"),
    "train.schedule.kind": ("deit-epoch", "deit/main.py"),
    "train.schedule.warmup_epochs": (5, "DeiT Table 9"),
    "train.schedule.min_lr": (1e-5, "never scaled"),
    "train.schedule.warmup_lr": (1e-6, "never scaled"),
    "finetune.mode": ("eval", "DeiT issue #167"),
    "finetune.views.epochs": (30, "README_deit.md"),
    "finetune.views.batch_size": (512, "README_deit.md"),
    "finetune.views.image_size": (384, "README_deit.md"),
    "finetune.views.replicas": (16, "README_deit.md"),
    "finetune.views.mix_group": (32, "512 / 16"),
    "finetune.optimizer.lr": (5e-6, "README_deit.md"),
    "finetune.optimizer.weight_decay": (1e-8, "README_deit.md"),
    "finetune.schedule.min_lr": (5e-6, "README_deit.md"),
    "transfer.drop_path": (0.0, "DeiT issue #45"),
    "transfer.views.epochs": (1000, "DeiT issue #45"),
    "transfer.views.batch_size": (768, "DeiT issue #45"),
    "transfer.views.erase": (0.0, "DeiT issue #45"),
    "transfer.optimizer.name": ("sgd", "DeiT issue #45"),
    "transfer.optimizer.lr": (0.01, "DeiT issue #45"),
    "transfer.optimizer.weight_decay": (1e-4, "DeiT issue #45"),
}
PRETRAIN: dict[str, tuple[Any, str]] = {
    "pretrain.epochs": (1600, "MAE Table 3"),
    "pretrain.batch_size": (4096, "MAE Table 8"),
    "pretrain.image_size": (224, "MAE"),
    "pretrain.scale": ((0.2, 1.0), "main_pretrain.py"),
    "pretrain.hflip": (0.5, "main_pretrain.py"),
    "pretrain.mask_ratio": (0.75, "MAE Table 1f"),
    "pretrain.norm_pix": (True, "PRETRAIN.md"),
    "pretrain.decoder.width": (512, "MAE Table 1a, 1b"),
    "pretrain.decoder.depth": (8, "MAE Table 1a, 1b"),
    "pretrain.decoder.heads": (16, "models_mae.py"),
    "pretrain.optimizer.name": ("adamw", "MAE Table 8"),
    "pretrain.optimizer.lr": (1.5e-4, "MAE Table 8"),
    "pretrain.optimizer.lr_per": (256, "MAE Table 8"),
    "pretrain.optimizer.weight_decay": (0.05, "MAE Table 8"),
    "pretrain.optimizer.betas": ((0.9, 0.95), "MAE Table 8"),
    "pretrain.optimizer.decay_tokens": ("all", "main_pretrain.py"),
    "pretrain.schedule.kind": ("mae-step", "MAE util/lr_sched.py"),
    "pretrain.schedule.warmup_epochs": (40, "MAE Table 8"),
    "pretrain.schedule.min_lr": (0.0, "main_pretrain.py"),
}
PROBE: dict[str, tuple[Any, str]] = {
    "probe.knn.k": (20, "DINO"),
    "probe.knn.temperature": (0.07, "DINO"),
    "probe.crop_pct": (0.875, "main_linprobe.py"),
    "probe.linear.batch_size": (16384, "MAE Table 10"),
    "probe.linear.norm_group": (512, "main_linprobe.py"),
    "probe.linear.scale": ((0.08, 1.0), "MAE util/crop.py"),
    "probe.linear.hflip": (0.5, "main_linprobe.py"),
    "probe.linear.lr": (0.1, "MAE Table 10"),
    "probe.linear.lr_per": (256, "MAE Table 10"),
    "probe.linear.momentum": (0.9, "MAE Table 10"),
    "probe.linear.weight_decay": (0.0, "MAE Table 10"),
    "probe.linear.trust": (0.001, "MAE util/lars.py"),
    "probe.linear.schedule.warmup_epochs": (10, "MAE Table 10"),
    "probe.linear.schedule.min_lr": (0.0, "MAE Table 10"),
    "probe.mask_percents": ((75, 85, 95), "MAE Figure 4"),
}
PRETRAIN |= PROBE
MAE: dict[str, tuple[Any, str]] = {
    **PRETRAIN,
    "train.distill": ("none", ""),
    "train.teacher": ("none", ""),
    "train.init": ("mae", ""),
    "finetune.distill": ("none", ""),
    "train.label_smoothing": (0.1, "MAE Table 9"),
    "train.ema_decay": (0.0, "MAE"),
    "train.head_std": (2e-5, "main_finetune.py"),
    "train.views.batch_size": (1024, "MAE Table 9"),
    "train.views.image_size": (224, "MAE"),
    "train.views.repeats": (1, "MAE"),
    "train.views.randaugment": ("rand-m9-mstd0.5-inc1", "MAE Table 9"),
    "train.views.erase": (0.25, "MAE FINETUNE.md"),
    "train.views.mixup": (0.8, "MAE Table 9"),
    "train.views.cutmix": (1.0, "MAE Table 9"),
    "train.optimizer.name": ("adamw", "MAE Table 9"),
    "train.optimizer.lr_per": (256, "MAE Table 9"),
    "train.optimizer.weight_decay": (0.05, "MAE Table 9"),
    "train.optimizer.betas": ((0.9, 0.999), "MAE Table 9"),
    "train.optimizer.decay_tokens": ("none", "models_vit.py"),
    "train.schedule.kind": ("mae-step", "MAE util/lr_sched.py"),
    "train.schedule.warmup_epochs": (5, "MAE Table 9"),
    "train.schedule.min_lr": (1e-6, "main_finetune.py"),
}


README = "README_revenge.md"
DEIT_3: dict[str, tuple[Any, str]] = {
    "train.distill": ("none", README),
    "train.teacher": ("none", ""),
    "train.loss": ("bce", README),
    "train.label_smoothing": (0.0, README),
    "train.drop_path_shape": ("constant", "models_v2.py"),
    "train.crop_pct": (1.0, README),
    "train.model.layer_scale": (1e-4, "models_v2.py"),
    "train.model.class_position": (False, "models_v2.py"),
    "train.views.epochs": (800, README),
    "train.views.batch_size": (2048, README),
    "train.views.replicas": (8, README),
    "train.views.repeats": (3, README),
    "train.views.crop": ("random-resized", README),
    "train.views.randaugment": ("none", README),
    "train.views.three_augment": (True, README),
    "train.views.color_jitter": (0.3, README),
    "train.views.erase": (0.0, README),
    "train.views.mixup": (0.8, README),
    "train.views.cutmix": (1.0, README),
    "train.optimizer.name": ("lamb", README),
    "train.optimizer.lr_per": (0, README),
    "train.optimizer.weight_decay": (0.05, README),
    "train.optimizer.eps": (1e-8, "deit/main.py"),
    "train.optimizer.clip_norm": (1.0, "max_grad_norm"),
    "train.schedule.kind": ("deit-epoch", "deit/main.py"),
    "train.schedule.warmup_epochs": (5, README),
    "train.schedule.min_lr": (1e-5, "deit/main.py"),
    "train.schedule.warmup_lr": (1e-6, "deit/main.py"),
    "finetune.mode": ("train", "DeiT issue #167"),
    "finetune.loss": ("ce", README),
    "finetune.label_smoothing": (0.1, README),
    "finetune.views.epochs": (20, README),
    "finetune.views.batch_size": (512, README),
    "finetune.views.order": ("permutation", README),
    "finetune.views.randaugment": ("rand-m9-mstd0.5-inc1", README),
    "finetune.views.erase": (0.0, README),
    "finetune.optimizer.name": ("adamw", README),
    "finetune.optimizer.lr": (1e-5, README),
    "finetune.optimizer.lr_per": (0, README),
    "finetune.optimizer.weight_decay": (0.1, README),
    "finetune.schedule.min_lr": (1e-5, "deit/main.py"),
}


def third(lr: float, drop_path: float, size: int, larger: int, dropped: float) -> dict[str, tuple[Any, str]]:
    return {
        "train.optimizer.lr": (lr, README),
        "train.drop_path": (drop_path, README),
        "train.views.image_size": (size, README),
        "finetune.views.image_size": (larger, README),
        "finetune.drop_path": (dropped, README),
    }


def vit(source: str, patch: int, width: int, depth: int, heads: int) -> dict[str, tuple[Any, str]]:
    sizes = {"patch_size": patch, "width": width, "depth": depth, "heads": heads}
    return {f"train.model.{key}": (value, source) for key, value in sizes.items()}


def dealt(replicas: int) -> dict[str, tuple[Any, str]]:
    """README_deit.md trains Ti and S on 4 GPUs, B on 2 nodes of 8; one mixing draw a GPU."""
    source = "README_deit.md" if replicas == 4 else "deit/run_with_submitit.py"
    return {
        "train.views.replicas": (replicas, source),
        "train.views.mix_group": (1024 // replicas, "one draw a process"),
    }


def tuned(
    epochs: int, lr: float, layer_decay: float, drop_path: float, group: int, high: int
) -> dict[str, tuple[Any, str]]:
    return {
        "probe.linear.epochs": (90 if epochs == 100 else 50, "MAE Table 10"),  # B; L and H
        "train.views.epochs": (epochs, "FINETUNE.md"),
        "train.optimizer.lr": (lr, "MAE FINETUNE.md"),
        "train.optimizer.layer_decay": (layer_decay, "MAE FINETUNE.md"),
        "train.drop_path": (drop_path, "MAE FINETUNE.md"),
        "train.views.mix_group": (group, f"{group} each on {1024 // group} GPUs"),
        "finetune.views.image_size": (high, ""),
    }


PUBLISHED = {
    "imagenet-deit-tiny": {**DEIT, **PRETRAIN, **vit("DeiT Table 1", 16, 192, 12, 3), **dealt(4)},
    "imagenet-deit-small": {**DEIT, **PRETRAIN, **vit("DeiT Table 1", 16, 384, 12, 6), **dealt(4)},
    "imagenet-deit-base": {**DEIT, **PRETRAIN, **vit("DeiT Table 1", 16, 768, 12, 12), **dealt(16)},
    "imagenet-deit3-small": {
        **DEIT_3,
        **vit("models_v2.py", 16, 384, 12, 6),
        **third(4e-3, 0.05, 224, 384, 0.0),
    },
    "imagenet-deit3-base": {
        **DEIT_3,
        **vit("models_v2.py", 16, 768, 12, 12),
        **third(3e-3, 0.2, 192, 224, 0.2),
    },
    "imagenet-mae-base": {
        **MAE,
        **vit("models_vit.py", 16, 768, 12, 12),
        **tuned(100, 5e-4, 0.65, 0.1, 32, 384),
    },
    "imagenet-mae-large": {
        **MAE,
        **vit("models_vit.py", 16, 1024, 24, 16),
        **tuned(50, 1e-3, 0.75, 0.2, 32, 384),
    },
    "imagenet-mae-huge": {
        **MAE,
        **vit("models_vit.py", 14, 1280, 32, 16),
        **tuned(50, 1e-3, 0.75, 0.3, 16, 448),
    },
    "tiny-imagenet": {
        "pretrain.mask_ratio": (0.75, "MAE Table 1f"),
        "train.views.hflip": (0.5, "DeiT"),
        "train.views.randaugment": ("rand-m9-mstd0.5-inc1", "DeiT Table 9"),
        "train.views.erase": (0.25, "DeiT Table 9"),
        "train.views.mixup": (0.8, "DeiT Table 9"),
        "train.views.cutmix": (1.0, "DeiT Table 9"),
    },
    "cifar10": {
        "pretrain.mask_ratio": (0.75, "MAE Table 1f"),
        "pretrain.optimizer.lr": (1.5e-4, "MAE Table 8"),
        "train.views.crop": ("padded", "deit/datasets.py"),
        "train.views.epochs": (300, "DeiT Table 9"),
        "train.views.randaugment": ("rand-m9-mstd0.5-inc1", "DeiT Table 9"),
        "train.optimizer.lr": (5e-4, "DeiT Table 9"),
    },
}


def at(values: Any, key: str) -> Any:
    """The value at a dotted path of mappings or schemas."""
    for step in key.split("."):
        values = values[step] if isinstance(values, dict) else getattr(values, step)
    return values


@functools.cache
def preset(name: str) -> Everything:
    return load.whole(Everything, ROOT / "presets" / f"{name}.yaml")


@functools.cache
def commented(name: str) -> tuple[list[str], Any]:
    """A preset's lines, and its values with the line each stands in."""
    path = ROOT / "presets" / f"{name}.yaml"
    return path.read_text().splitlines(), YAML().load(path)


def comment(name: str, key: str) -> str:
    """The lines from the comment above a key to its value: where the source has to stand."""
    text, place = commented(name)
    *blocks, last = key.split(".")
    for block in blocks:
        place = place[block]
    line = place.lc.data[last][0]
    above = line
    while text[above - 1].lstrip().startswith("#"):
        above -= 1
    return " ".join(text[above : line + 1])


def test_presets__are_those_the_readme_promises() -> None:
    assert {path.stem for path in PRESETS} == NAMES == set(PUBLISHED)


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_preset__is_valid_and_complete(path: Path) -> None:
    load.whole(Everything, path)
    assert list(load.parse(path.read_text())) == list(Everything.model_fields)


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_preset__one_key_fewer_is_invalid(path: Path) -> None:
    """Every key of every block but those with a default in the schema."""
    whole, dropped = load.parse(path.read_text()), 0
    for block, field in Everything.model_fields.items():
        fields = getattr(field.annotation, "model_fields", {})
        for key in [key for key in whole[block] if key in fields and fields[key].is_required() and key != "root"]:
            fewer = {**whole, block: {name: value for name, value in whole[block].items() if name != key}}
            with pytest.raises(ValidationError, match=rf"{block}\.{key}\n  Field required"):
                Everything.model_validate(fewer)
            dropped += 1
        with pytest.raises(ValidationError, match=rf"{block}\n  Field required"):
            Everything.model_validate({name: value for name, value in whole.items() if name != block})
    assert dropped > 60


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_preset__has_the_published_values_and_names_their_sources(name: str) -> None:
    table = PUBLISHED[name]
    assert {key: at(preset(name), key) for key in table} == {key: value for key, (value, _) in table.items()}
    assert [key for key, (_, source) in table.items() if source not in comment(name, key)] == []


def test_preset__the_comparison_notices_a_wrong_number() -> None:
    """Negative control for the test above."""
    values = preset("imagenet-deit-base")
    wrong = values.model_copy(update={"train": values.train.model_copy(update={"drop_path": 0.2})})
    assert at(wrong, "train.drop_path") != DEIT["train.drop_path"][0]
    assert "DeiT Table 9" not in comment("imagenet-deit-base", "train.init")


@pytest.mark.parametrize(
    ("name", "block", "batch_size", "rate"),
    [
        ("imagenet-deit-base", "train", 1024, 1e-3),
        ("imagenet-deit-base", "finetune", 512, 5e-6),
        ("imagenet-mae-base", "pretrain", 4096, 2.4e-3),
        ("imagenet-mae-base", "train", 1024, 2e-3),
        ("imagenet-mae-large", "train", 1024, 4e-3),
    ],
)
def test_preset__peak_rate_is_the_published_one(name: str, block: str, batch_size: int, rate: float) -> None:
    values = preset(name)
    optimizer: Optimizer = at(values, f"{block}.optimizer")
    size = values.pretrain.batch_size if block == "pretrain" else at(values, f"{block}.views.batch_size")
    assert size == batch_size
    assert optimizer.lr * size / optimizer.lr_per == pytest.approx(rate, rel=1e-12)


def test_preset__probe_has_the_published_peak_rate() -> None:
    assert preset("imagenet-mae-base").probe.linear.peak_lr == pytest.approx(6.4, rel=1e-12)


@pytest.mark.parametrize("name", sorted(NAMES - {"tiny-imagenet", "cifar10"}))
def test_preset__mixing_groups_are_one_published_process(name: str) -> None:
    for block in ("train", "finetune", "transfer"):
        views = at(preset(name), f"{block}.views")
        if views.order == "deit":
            assert views.mix_group * views.replicas == views.batch_size


@pytest.mark.parametrize("path", [ROOT / "params.yaml", *PRESETS], ids=lambda path: path.stem)
def test_versions__are_those_installed_and_locked(path: Path) -> None:
    lock = dict(re.findall(r"^([a-z0-9.-]+)==([^\s;]+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    versions = Versions.model_validate(load.parse(path.read_text())["versions"]).root
    assert "torch" in versions
    for package, pinned in versions.items():
        assert pinned == lock[package], package
        assert pinned == version(package).split("+")[0], package


@pytest.mark.parametrize("path", [ROOT / "params.yaml", *PRESETS], ids=lambda path: path.stem)
def test_preset__stores_original_images_and_says_so(path: Path) -> None:
    """A declared key with a default: DVC wants it written down."""
    assert load.parse(path.read_text())["shard"]["store"] == "original"


@pytest.mark.parametrize("path", [ROOT / "params.yaml", *PRESETS], ids=lambda path: path.stem)
def test_preset__names_its_robustness_sets_and_real_labels(path: Path) -> None:
    """dvc.yaml has a stage for each: without the keys DVC would stumble, though the schema has a default."""
    sets = load.parse(path.read_text())["sets"]
    assert sets["robust"] == sets["real"] == []


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_preset__names_no_place_of_this_machine(path: Path) -> None:
    assert not re.search(r"/work|/home|/root|shared/", path.read_text())
