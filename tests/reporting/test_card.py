"""The model card: what its inputs say, in a form hubs read, and nothing else."""

from typing import Any

import pytest
from huggingface_hub import ModelCard
from ruamel.yaml import YAML

from stages.lib.reporting.card import card

CLASSES = ("zero", "one")
PROVEN = {"images": 32, "largest_difference": {"timm": 0.0, "onnx": 3.4e-6}, "files": ["config.json", "model.onnx"]}


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
    return card(config, metrics, {"train": 160, "val": 40}, classes, PROVEN, "digits")


def front(text: str) -> dict[str, Any]:
    _, matter, _ = text.split("---\n", 2)
    found: dict[str, Any] = YAML(typ="safe").load(matter)
    return found


def test_card__front_matter_is_yaml_a_hub_reads() -> None:
    matter = front(text_of(config(), metrics()))
    assert matter["library_name"] == "timm"
    assert matter["license"] == "apache-2.0"
    assert matter["tags"] == ["timm", "image-classification", "deit"]
    assert matter["pipeline_tag"] == "image-classification" and matter["datasets"] == ["digits"]


def test_card__the_hub_library_reads_every_number() -> None:
    """huggingface_hub's own reading of the card, not ours."""
    data = ModelCard(text_of(config(), metrics())).data
    assert data.library_name == "timm" and data.license == "apache-2.0"
    found = {(result.metric_name, result.metric_value) for result in data.eval_results}
    assert ("top-1, % (class head)", 97.5) in found and ("top-1, % (distillation head)", 95.0) in found
    assert {(one.dataset_name, one.dataset_split, one.task_type) for one in data.eval_results} == {
        ("digits", "val", "image-classification")
    }
    assert len(found) == 4


@pytest.mark.parametrize(
    ("licence", "matter"),
    [
        ("cc-by-nc-4.0", {"license": "cc-by-nc-4.0"}),
        ("Apache-2.0", {"license": "apache-2.0"}),
        ('odd: "quoted" # not a comment', {"license": "other", "license_name": 'odd: "quoted" # not a comment'}),
    ],
)
def test_card__keeps_a_fetched_models_licence_and_notes(licence: str, matter: dict[str, str]) -> None:
    text = text_of(config(license=licence, notes=["Fetched from elsewhere."]), metrics())
    assert front(text).items() >= matter.items()
    assert f"These weights: {licence}." in text
    assert "Fetched from elsewhere." in text


def test_card__says_when_non_commercial_weights_were_used() -> None:
    """The teacher's licence travels to the student's card, and narrows the student's own."""
    learnt = {**config(), "derived_from": [{"model": "teacher", "licence": "cc-by-nc-4.0"}]}
    text = text_of(learnt, metrics())
    assert front(text)["license"] == "cc-by-nc-4.0"
    assert "Learnt from `teacher`, whose weights are under cc-by-nc-4.0." in text
    assert "Weights of a non-commercial licence were used" in text
    free = text_of({**config(), "derived_from": [{"model": "teacher", "licence": "Apache-2.0"}]}, metrics())
    assert front(free)["license"] == "apache-2.0" and "under Apache-2.0" in free  # the control
    assert "non-commercial" not in free and "non-commercial" not in text_of(config(), metrics())


def test_card__of_an_encoder_claims_no_accuracy() -> None:
    encoder = {**config(), "architecture": "vit_base_patch16_224", "num_classes": 0, "num_features": 768}
    text = card(encoder, None, {"train": 160, "val": 40}, CLASSES, PROVEN, "digits")
    assert front(text)["pipeline_tag"] == "image-feature-extraction" and "model-index" not in front(text)
    assert "# mae on digits" in text and "768 features" in text and "top-1" not in text


def test_card__numbers_are_those_of_the_metrics() -> None:
    text = text_of(config(), metrics())
    assert "| head | top-1, % | mean per class, % | nll, nats |" in text
    assert "| class head | 97.5 | 96.25 | 0.125 |\n| distillation head | 95.0 | 96.25 | 0.125 |" in text
    assert "class / dist 92.5 %" in text
    assert "`data/metrics/student.json`" in text
    assert "40 images of the val split" in text and "first 32 of these" in text
    assert "`dvc repro evaluate@student`" in text and "onnx 3.4e-06" in text and "`dvc repro export@student`" in text
    assert "`model.onnx` is the same" in text and "model.pt2" not in text
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
