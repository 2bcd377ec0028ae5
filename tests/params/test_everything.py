"""Blocks against each other."""

from typing import Any

import pytest
from pydantic import ValidationError

from stages.lib.core import load
from stages.lib.params.everything import Everything
from tests.conftest import ROOT


@pytest.fixture
def values() -> dict[str, Any]:
    """The default file as plain values, to be changed."""
    found: dict[str, Any] = load.parse((ROOT / "params.yaml").read_text())
    return found


def complaint(values: dict[str, Any]) -> str:
    """What is said of these values; empty if they are right."""
    try:
        Everything.model_validate(values)
    except ValidationError as error:
        return str(error)
    return ""


def test_everything__the_default_is_right(values: dict[str, Any]) -> None:
    assert complaint(values) == ""


def test_sets__every_set_has_a_source_and_every_source_a_part(values: dict[str, Any]) -> None:
    main, other = values["sets"]["main"], values["sets"]["transfer"][0]
    values["sets"] = {"main": main, "transfer": ["pets"]}
    assert "sets names 'pets'" in complaint(values)
    values["sets"] = {"main": main, "transfer": [other, other]}
    assert "names a source twice" in complaint(values)
    values["sets"] = {"main": main, "transfer": [main, other]}
    assert "names a source twice" in complaint(values)
    values["sets"] = {"main": main, "transfer": []}
    assert f"sources has {other}, which no set uses" in complaint(values)
    del values["sources"][other]
    assert complaint(values) == ""


def test_encoder__fits_the_student_only_where_it_is_used(values: dict[str, Any]) -> None:
    values["train"]["init"] = "mae"
    values["pretrain"]["model"] = {**values["train"]["model"], "depth": 7, "heads": 2}
    said = complaint(values)
    assert "train.init: mae needs train.model equal to pretrain.model" in said
    assert f"depth is {values['train']['model']['depth']} and 7" in said
    assert "width is" not in said
    values["train"]["init"] = "scratch"
    assert complaint(values) == ""


@pytest.mark.parametrize("block", ["finetune", "transfer"])
def test_patches__tile_the_larger_images(values: dict[str, Any], block: str) -> None:
    values[block]["views"]["image_size"] += 1
    assert f"{block}.views.image_size" in complaint(values)
    assert "is not a multiple of train.model.patch_size" in complaint(values)


def test_finetune__needs_a_distillation_token_for_its_own_kind(values: dict[str, Any]) -> None:
    values["train"]["distill"] = "none"
    for kind, fits in {"as-train": True, "none": True, "hard": False, "soft": False}.items():
        values["finetune"]["distill"] = kind
        assert (complaint(values) == "") is fits, kind


def test_teacher__a_transformer_is_asked_about_images_of_its_size(values: dict[str, Any]) -> None:
    changes = {"architecture": "vit", "sizes": None, "norm_group": None, "model": values["train"]["model"]}
    values["teacher"] |= changes
    assert complaint(values) == ""
    values["finetune"]["distill"] = "as-train"
    assert "images of teacher.views.image_size 16 alone, and finetune.views.image_size is 24" in complaint(values)
    values["train"]["distill"] = "none"
    assert complaint(values) == ""
    values["train"]["distill"], values["finetune"]["distill"] = "hard", "none"
    values["train"]["views"]["image_size"] = 20
    assert "and train.views.image_size is 20" in complaint(values)
