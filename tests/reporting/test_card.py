"""The model card: what its inputs say, in a form hubs read, and nothing else."""

from typing import Any

import pytest
from ruamel.yaml import YAML

from stages.lib.reporting.card import card

CLASSES = ("zero", "one")


def config(**changes: Any) -> dict[str, Any]:
    prepared = {"input_size": [3, 224, 224], "crop_pct": 0.875, "interpolation": "bicubic"}
    return {
        "architecture": "deit_tiny_distilled_patch16_224",
        "num_classes": 2,
        "num_features": 192,
        "model_args": {"embed_dim": 96},
        "pretrained_cfg": {**prepared, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], **changes},
    }


def metrics(**changes: Any) -> dict[str, Any]:
    numbers = {"top1": 97.5, "mean_per_class": 96.25, "nll": 0.125}
    facts = {"model": "student", "set": "digits", "split": "val", "images": 40, "classes": 2, "image_size": 224}
    heads = {"class": numbers, "dist": {**numbers, "top1": 95.0}}
    return {**facts, "parameters": 1234567, "heads": heads, "agreement": {"class_dist": 92.5}, **changes}


def text_of(config: dict[str, Any], metrics: dict[str, Any], classes: tuple[str, ...] = CLASSES) -> str:
    return card(config, metrics, {"train": 160, "val": 40}, classes, 32)


def front(text: str) -> dict[str, Any]:
    _, matter, _ = text.split("---\n", 2)
    found: dict[str, Any] = YAML(typ="safe").load(matter)
    return found


def test_card__front_matter_is_yaml_a_hub_reads() -> None:
    matter = front(text_of(config(), metrics()))
    assert matter["library_name"] == "timm"
    assert matter["license"] == "apache-2.0"
    assert matter["tags"] == ["timm", "image-classification", "deit"]


@pytest.mark.parametrize("licence", ["cc-by-nc-4.0", 'odd: "quoted" # not a comment'])
def test_card__keeps_a_fetched_models_licence_and_notes(licence: str) -> None:
    text = text_of(config(license=licence, notes=["Fetched from elsewhere."]), metrics())
    assert front(text)["license"] == licence
    assert "apache" not in text
    assert "Fetched from elsewhere." in text


def test_card__numbers_are_those_of_the_metrics() -> None:
    text = text_of(config(), metrics())
    assert "| head | top-1, % | mean per class, % | nll, nats |" in text
    assert "| class head | 97.5 | 96.25 | 0.125 |\n| distillation head | 95.0 | 96.25 | 0.125 |" in text
    assert "class / dist 92.5 %" in text
    assert "`data/metrics/student.json`" in text
    assert "40 images of the val split" in text and "first 32 of these" in text
    assert "200 images (160 in train, 40 in val) of 2 classes: zero, one" in text
    assert "1,234,567" in text and "embed_dim 96" in text
    assert "floor(224 / 0.875) = 256" in text


def test_card__one_head_has_no_distillation_in_it() -> None:
    single = metrics(model="teacher", heads={"class": {"top1": 1.0, "mean_per_class": 1.0, "nll": 1.0}})
    del single["agreement"]
    text = text_of({**config(), "architecture": "regnety_160"}, single)
    assert "distillation token" not in text and "Heads agree" not in text
    assert front(text)["tags"][-1] == "regnety"


def test_card__a_thousand_classes_are_not_listed() -> None:
    names = tuple(f"class-{number}" for number in range(1000))
    assert "class-7" not in text_of(config(), metrics(), names)


def test_card__cites_the_methods() -> None:
    text = text_of(config(), metrics())
    assert all(number in text for number in ("2012.12877", "2111.06377", "2003.13678"))
